//! `Topology`: the cluster map, now and whenever it changes.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use broky_proto::error::Refusal;
use broky_proto::frame;
use broky_proto::v1::{ErrorCode, TopologyResponse};
use bytes::Bytes;
use http::Response;
use http_body::Frame;
use hyper::body::Incoming;
use tokio::sync::watch;

use super::body::ServerBody;
use super::status::{refusal_trailers, respond};
use crate::worker::{StopWatch, Worker};

/// The response body of a `Topology`.
pub(crate) struct Topology {
    stop: StopWatch,
    latest: watch::Receiver<TopologyResponse>,
    changed: Option<Pin<Box<dyn Future<Output = bool>>>>,
    is_first: bool,
    is_over: bool,
    /// Held so that a client that is still sending its (empty) request is not told to stop.
    _request: Incoming,
}

impl Topology {
    pub(crate) fn response(worker: Rc<Worker>, request: Incoming) -> Response<ServerBody> {
        let latest = worker.topology();
        let stop = StopWatch::new(worker);
        let stream = Self { stop, latest, changed: None, is_first: true, is_over: false, _request: request };
        respond(ServerBody::Topology(Box::new(stream)))
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if std::mem::take(&mut self.is_first) {
            return Poll::Ready(Some(self.current()));
        }
        let changed = self.changed.get_or_insert_with(|| {
            let mut latest = self.latest.clone();
            Box::pin(async move { latest.changed().await.is_ok() })
        });
        let is_stopping = self.stop.poll(cx).is_ready();
        match changed.as_mut().poll(cx) {
            Poll::Pending if !is_stopping => Poll::Pending,
            Poll::Ready(true) if !is_stopping => {
                self.changed = None;
                Poll::Ready(Some(self.current()))
            }
            Poll::Pending | Poll::Ready(_) => {
                self.is_over = true;
                let refusal = Refusal::new(ErrorCode::ShuttingDown, "the node is shutting down");
                Poll::Ready(Some(Frame::trailers(refusal_trailers(&refusal))))
            }
        }
    }

    fn current(&mut self) -> Frame<Bytes> {
        Frame::data(frame::encode(&*self.latest.borrow_and_update()))
    }
}
