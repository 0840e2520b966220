//! Reading the messages of a request body.

use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use broky_proto::error::Refusal;
use broky_proto::frame::Deframer;
use broky_proto::v1::ErrorCode;
use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::status::framing;
use crate::worker::Worker;

/// Time a client has to complete a message it has begun.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// The messages of a request body, and the memory that half-arrived ones take.
pub(crate) struct Messages {
    worker: Rc<Worker>,
    body: Incoming,
    deframer: Deframer,
    too_large: ErrorCode,
    /// Bytes noted with the worker.
    buffered: usize,
    /// Runs while a message is incomplete.
    deadline: Option<Pin<Box<Sleep>>>,
    is_ended: bool,
}

impl Messages {
    /// The messages of `body`, each of at most `message_bytes_max` bytes; longer ones are refused as `too_large`.
    pub(crate) fn new(worker: Rc<Worker>, body: Incoming, message_bytes_max: usize, too_large: ErrorCode) -> Self {
        let deframer = Deframer::new(message_bytes_max);
        Self { worker, body, deframer, too_large, buffered: 0, deadline: None, is_ended: false }
    }

    /// The next message; `None` when the client has sent its last.
    pub(crate) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        loop {
            match self.deframer.next_message() {
                Ok(Some(message)) => {
                    self.deadline = None;
                    self.note_buffered()?;
                    return Poll::Ready(Some(Ok(message)));
                }
                Ok(None) => self.note_buffered()?,
                Err(error) => return Poll::Ready(Some(Err(framing(error, self.too_large)))),
            }
            if self.is_ended {
                let end = self.deframer.finish().err().map(|error| Err(framing(error, self.too_large)));
                return Poll::Ready(end);
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.deframer.push(data);
                    }
                }
                // A broken body is a client that went away: nobody is there to be told.
                Poll::Ready(Some(Err(_)) | None) => self.is_ended = true,
                Poll::Pending => {
                    ready!(self.poll_deadline(cx));
                    let reason = format!("a message was not completed within {} s", MESSAGE_TIMEOUT.as_secs());
                    return Poll::Ready(Some(Err(Refusal::new(ErrorCode::TimedOut, reason))));
                }
            }
        }
    }

    /// Ready when a message has been incomplete for too long.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.buffered == 0 {
            self.deadline = None;
            return Poll::Pending;
        }
        self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(MESSAGE_TIMEOUT))).as_mut().poll(cx)
    }

    /// Tells the worker how much is held; refuses when all connections together hold too much.
    fn note_buffered(&mut self) -> Result<(), Refusal> {
        let now = self.deframer.buffered();
        if now == self.buffered {
            return Ok(());
        }
        let grows = now > self.buffered;
        let fits = self.worker.note_inbound(self.buffered, now);
        self.buffered = now;
        if grows && !fits {
            return Err(Refusal::new(ErrorCode::Overloaded, "too many messages are arriving at once"));
        }
        Ok(())
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.worker.note_inbound(self.buffered, 0);
    }
}
