//! Reading what a nats-server sends to subscriptions.
//!
//! All connections of a thread share one read buffer, so 10,000 of them stay in the cache; what is left of an
//! incomplete message is kept with its connection until the next read.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::super::run::Sink;
use super::super::target::Receive;
use super::parse::{Event, Parser};

/// Read buffer of a thread. Bigger ones fall out of the cache.
const READ_BYTES: usize = 256 << 10;

/// Shared by all connections of a thread.
pub(super) type Buffer = Rc<RefCell<Vec<u8>>>;

/// A buffer that holds some messages of this size.
pub(super) fn buffer(size: usize) -> Buffer {
    Rc::new(RefCell::new(vec![0; READ_BYTES.max(4 * size)]))
}

/// What is known of one connection between two reads.
pub(super) struct Reader {
    parser: Parser,
    /// Beginning of a message whose end has not arrived.
    rest: Vec<u8>,
    buffer: Buffer,
}

impl Reader {
    pub(super) fn new(parser: Parser, buffer: Buffer) -> Self {
        Self { parser, rest: Vec::new(), buffer }
    }

    /// Reads once. Calls `arrived` when there is something, then `each` with subscription and payload of each message,
    /// with the same first argument.
    pub(super) fn poll_read<T>(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
        taker: &mut T,
        arrived: impl FnOnce(&mut T),
        each: impl Fn(&mut T, usize, &[u8]),
    ) -> Poll<Result<Event>> {
        let mut buffer = self.buffer.borrow_mut();
        let Some((head, tail)) = buffer.split_at_mut_checked(self.rest.len()) else {
            return Poll::Ready(Err(anyhow::anyhow!("a message larger than the read buffer")));
        };
        ensure_ready(!tail.is_empty(), "a message as large as the read buffer")?;
        let mut read = ReadBuf::new(tail);
        ready!(Pin::new(stream).poll_read(cx, &mut read))?;
        let count = read.filled().len();
        ensure_ready(count > 0, "the server hung up: it does so to subscribers it finds too slow")?;
        head.copy_from_slice(&self.rest);
        let length = head.len() + count;
        let bytes = buffer.get(..length).unwrap_or_default();
        arrived(taker);
        let (event, rest) = self.parser.parse(bytes, |sid, payload| each(taker, sid, payload))?;
        self.rest.clear();
        self.rest.extend_from_slice(rest);
        Poll::Ready(Ok(event))
    }
}

fn ensure_ready(condition: bool, otherwise: &'static str) -> Result<()> {
    if condition { Ok(()) } else { bail!(otherwise) }
}

/// A connection with one or more subscriptions, numbered from zero.
pub(crate) struct Subscriber {
    stream: TcpStream,
    reader: Reader,
    count: usize,
}

impl Subscriber {
    pub(super) fn new(stream: TcpStream, reader: Reader, count: usize) -> Self {
        Self { stream, reader, count }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, sink: &mut Sink) -> Poll<Result<Event>> {
        self.reader.poll_read(&mut self.stream, cx, sink, Sink::arrived, Sink::message)
    }
}

impl Receive for Subscriber {
    fn subscribers(&self) -> usize {
        self.count
    }

    async fn receive(&mut self, sink: &mut Sink) -> Result<()> {
        match poll_fn(|cx| self.poll_receive(cx, sink)).await? {
            Event::Messages => Ok(()),
            Event::Ping => self.stream.write_all(b"PONG\r\n").await.context("answering a ping"),
        }
    }
}
