//! Frames on their way to a socket.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use broky_shard::Frame;
use bytes::{Buf, Bytes};
use http_body::Body;

use super::relay::Read;

/// One frame's bytes: a header, and the block behind it as it stands in memory.
#[derive(Debug, Default)]
pub(crate) struct FrameBuf {
    head: Bytes,
    body: Bytes,
}

impl Buf for FrameBuf {
    fn remaining(&self) -> usize {
        self.head.len() + self.body.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.head.is_empty() { &self.body } else { &self.head }
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (place, bytes) in into.iter_mut().zip([&self.head, &self.body].into_iter().filter(|part| !part.is_empty()))
        {
            *place = IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, count: usize) {
        let of_head = count.min(self.head.len());
        self.head.advance(of_head);
        self.body.advance(count - of_head);
    }
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<FrameBuf>,
    waker: Option<Waker>,
    is_closed: bool,
    /// Some of it was given to a transport.
    has_given: bool,
}

/// Where frames are put. What it holds is bounded by what the shard lets be unacknowledged.
#[derive(Clone, Default)]
pub(crate) struct FrameQueue(Rc<RefCell<Queue>>);

impl FrameQueue {
    pub(crate) fn push(&self, frame: Frame) {
        let mut queue = self.0.borrow_mut();
        queue.frames.push_back(frame.into());
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// Ends the stream behind what was put so far.
    pub(crate) fn close(&self) {
        let mut queue = self.0.borrow_mut();
        queue.is_closed = true;
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// Ends the stream, without what no transport was given.
    pub(crate) fn abandon(&self) {
        self.0.borrow_mut().frames.clear();
        self.close();
    }

    /// Whether some of what was put may have left.
    pub(crate) fn has_given(&self) -> bool {
        self.0.borrow().has_given
    }

    /// The stream of what is put.
    pub(crate) fn frames(&self) -> Frames {
        Frames::Queue(self.clone())
    }
}

/// The body of a request or response.
pub(crate) enum Frames {
    /// What is put into a queue.
    Queue(FrameQueue),
    /// What another node reads here, as it reads.
    Read(Read),
}

impl From<Frame> for FrameBuf {
    fn from(frame: Frame) -> Self {
        Self { head: frame.head, body: frame.body }
    }
}

impl Body for Frames {
    type Data = FrameBuf;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<FrameBuf>, Infallible>>> {
        let queue = match self.get_mut() {
            Self::Queue(queue) => queue,
            Self::Read(read) => {
                return Pin::new(read).poll_next(cx).map(|frame| Some(Ok(http_body::Frame::data(frame?.into()))));
            }
        };
        let mut queue = queue.0.borrow_mut();
        match queue.frames.pop_front() {
            Some(frame) => {
                queue.has_given = true;
                Poll::Ready(Some(Ok(http_body::Frame::data(frame))))
            }
            None if queue.is_closed => Poll::Ready(None),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_is_read_in_any_steps() {
        for step in 1..=7 {
            let mut frame = FrameBuf { head: Bytes::from_static(b"abc"), body: Bytes::from_static(b"defg") };
            let mut read = Vec::new();
            while frame.has_remaining() {
                let count = step.min(frame.chunk().len());
                read.extend_from_slice(&frame.chunk()[..count]);
                frame.advance(count);
            }
            assert_eq!(read, b"abcdefg");
        }
    }

    #[test]
    fn frame_is_handed_over_in_two_pieces() {
        let frame = FrameBuf { head: Bytes::from_static(b"abc"), body: Bytes::from_static(b"defg") };
        let mut slices = [IoSlice::new(&[]); 4];
        assert_eq!(frame.chunks_vectored(&mut slices), 2);
        assert_eq!((&*slices[0], &*slices[1]), (&b"abc"[..], &b"defg"[..]));
    }
}
