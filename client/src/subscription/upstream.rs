//! The requests of a subscription: how it is opened, and the credit it gives.
//!
//! There is no queue: what is to be sent is one opening request and one sum of credit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use broky_proto::frame::encode;
use broky_proto::v1::{Open, SubscribeRequest, subscribe_request::Request};
use bytes::Bytes;

use crate::transport::Outgoing;

/// The application's half of a subscription's requests.
#[derive(Default)]
pub(crate) struct Upstream(Mutex<State>);

#[derive(Default)]
struct State {
    /// Counts streams, so that the body of one that was given up ends.
    stream: u64,
    open: Option<Bytes>,
    credit: u64,
    is_closed: bool,
    /// The request body that has nothing to send.
    body: Option<Waker>,
    /// The subscription that waits for a delivery.
    reader: Option<Waker>,
}

impl Upstream {
    /// Begins a stream with this request and gives its body.
    pub(super) fn begin(self: &Arc<Self>, open: Open) -> UpstreamBody {
        let (body, stream) = {
            let mut state = self.lock();
            state.stream += 1;
            state.credit = 0;
            state.open = Some(encode(&SubscribeRequest { request: Some(Request::Open(open)) }));
            (state.body.take(), state.stream)
        };
        wake(body);
        UpstreamBody { upstream: Arc::clone(self), stream }
    }

    /// Lets the node send this many more messages.
    pub(super) fn add_credit(&self, credit: u64) {
        let body = {
            let mut state = self.lock();
            state.credit = state.credit.saturating_add(credit);
            state.body.take()
        };
        wake(body);
    }

    /// Ends the subscription.
    pub(crate) fn close(&self) {
        let (body, reader) = {
            let mut state = self.lock();
            state.is_closed = true;
            (state.body.take(), state.reader.take())
        };
        wake(body);
        wake(reader);
    }

    /// Whether the subscription was ended. If not, whoever `cx` belongs to is woken when it is.
    pub(super) fn poll_closed(&self, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        match &mut state.reader {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.reader = Some(cx.waker().clone()),
        }
        state.is_closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The requests of one stream.
pub(super) struct UpstreamBody {
    upstream: Arc<Upstream>,
    stream: u64,
}

impl Outgoing for UpstreamBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.upstream.lock();
        if state.is_closed || state.stream != self.stream {
            return Poll::Ready(None);
        }
        if let Some(open) = state.open.take() {
            return Poll::Ready(Some(open));
        }
        if state.credit > 0 {
            let credit = std::mem::take(&mut state.credit);
            return Poll::Ready(Some(encode(&SubscribeRequest { request: Some(Request::Credit(credit)) })));
        }
        match &mut state.body {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.body = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn poll(body: &mut UpstreamBody) -> Poll<Option<Request>> {
        body.poll_next(&mut Context::from_waker(Waker::noop()))
            .map(|request| request.map(|framed| SubscribeRequest::decode(framed.slice(5..)).unwrap().request.unwrap()))
    }

    #[test]
    fn credit_goes_as_one_sum_behind_the_opening() {
        let upstream = Arc::new(Upstream::default());
        let mut body = upstream.begin(Open::default());
        upstream.add_credit(3);
        upstream.add_credit(4);
        assert_eq!(poll(&mut body), Poll::Ready(Some(Request::Open(Open::default()))));
        assert_eq!(poll(&mut body), Poll::Ready(Some(Request::Credit(7))));
        assert!(poll(&mut body).is_pending());
    }

    #[test]
    fn body_of_an_older_stream_ends() {
        let upstream = Arc::new(Upstream::default());
        let mut old = upstream.begin(Open::default());
        let mut new = upstream.begin(Open::default());
        assert_eq!(poll(&mut old), Poll::Ready(None));
        assert!(matches!(poll(&mut new), Poll::Ready(Some(Request::Open(_)))));
        upstream.close();
        assert_eq!(poll(&mut new), Poll::Ready(None));
    }
}
