//! nats-server as a target, by its own text protocol, as fast as the server can take it.
//!
//! The comparison is only worth something if NATS gets its best: no client library in between, publishes gathered into
//! large writes from frames built beforehand, deliveries parsed where they were read, no allocation and no lock per
//! message. All connections of a thread share one read buffer, so 10,000 of them stay in the cache; what is left of an
//! incomplete message is kept with its connection until the next read.
//!
//! Protocol: <https://docs.nats.io/reference/reference-protocols/nats-protocol>.

mod frame;
mod parse;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use self::frame::Frame;
use self::parse::{Event, Parser};
use super::plan::Plan;
use super::run::{Outgoing, Sink};
use super::target::{Publish, Receive, Target};

/// Read buffer of a thread. Bigger ones fall out of the cache.
const READ_BYTES: usize = 256 << 10;
/// The server's greeting and its answer to the first ping.
const GREETING_BYTES: usize = 8 << 10;
/// Headers off: the server then writes the shorter `MSG` and never looks for headers.
const CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":false,\"headers\":false,\
    \"lang\":\"rust\",\"name\":\"broky bench\",\"version\":\"1\",\"protocol\":1,\"echo\":true}\r\n";

/// What the target needs of the plan.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    address: String,
    size: usize,
    keys: usize,
}

impl Config {
    pub(crate) fn new(address: &str, plan: &Plan) -> Self {
        Self { address: address.to_owned(), size: plan.size, keys: plan.keys }
    }
}

/// nats-server, seen from one worker thread.
pub(crate) struct Nats {
    config: Config,
    buffer: Rc<RefCell<Vec<u8>>>,
}

impl Nats {
    pub(crate) fn new(config: Config) -> Self {
        let bytes = READ_BYTES.max(4 * config.size);
        Self { config, buffer: Rc::new(RefCell::new(vec![0; bytes])) }
    }

    /// Connects, introduces itself, sends `more` and waits until the server has seen all of it. Returns what the server
    /// said, the greeting first.
    async fn connect(&self, more: &[u8]) -> Result<(TcpStream, String)> {
        let address = &self.config.address;
        let mut stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.write_all(&[CONNECT, more, b"PING\r\n"].concat()).await?;
        let mut said = Vec::with_capacity(GREETING_BYTES);
        while !said.ends_with(b"PONG\r\n") {
            ensure!(said.len() < GREETING_BYTES, "nats-server at {address} does not answer as one");
            let count = poll_fn(|cx| read_some(&mut stream, cx, &mut said)).await?;
            ensure!(count > 0, "nats-server at {address} hung up: {}", String::from_utf8_lossy(&said));
        }
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(said.starts_with("INFO "), "no nats-server at {address}");
        ensure!(!said.contains("-ERR"), "nats-server at {address} refuses: {said}");
        Ok((stream, said))
    }
}

fn read_some(stream: &mut TcpStream, cx: &mut Context<'_>, into: &mut Vec<u8>) -> Poll<std::io::Result<usize>> {
    let mut chunk = [0; 4096];
    let mut read = ReadBuf::new(&mut chunk);
    ready!(Pin::new(stream).poll_read(cx, &mut read))?;
    into.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}

impl Target for Nats {
    type Publisher = Publisher;
    type Subscriber = Subscriber;

    async fn publisher(&self) -> Result<Publisher> {
        let (stream, _) = self.connect(b"").await?;
        let frame = Frame::new(self.config.size, self.config.keys);
        Ok(Publisher { stream, frame, buffer: Vec::new() })
    }

    async fn subscribers(&self, count: usize) -> Result<Vec<Subscriber>> {
        let subject = frame::subscription(self.config.keys);
        let requests: String = (0..count).map(|sid| format!("SUB {subject} {sid}\r\n")).collect();
        let (stream, _) = self.connect(requests.as_bytes()).await?;
        let parser = Parser::new(frame::subject_len(self.config.keys));
        Ok(vec![Subscriber { stream, parser, count, rest: Vec::new(), buffer: self.buffer.clone() }])
    }

    async fn describe(&self) -> Result<String> {
        let (_, said) = self.connect(b"").await?;
        let info = said.strip_prefix("INFO ").and_then(|rest| rest.lines().next()).unwrap_or_default();
        let info: serde_json::Value = serde_json::from_str(info).context("nats-server's greeting")?;
        let version = info.get("version").and_then(|version| version.as_str()).unwrap_or("of unknown version");
        Ok(format!("nats-server {version}"))
    }
}

/// A publishing connection.
pub(crate) struct Publisher {
    stream: TcpStream,
    frame: Frame,
    /// Frames of the run at hand; keeps its room from run to run.
    buffer: Vec<u8>,
}

impl Publisher {
    /// Answers the server's pings. Costs nothing while there is none: the runtime knows that nothing has arrived.
    async fn look_for_ping(&mut self) -> Result<()> {
        let mut chunk = [0; 1024];
        match self.stream.try_read(&mut chunk) {
            Ok(0) => bail!("the server hung up"),
            Ok(count) => {
                let said = chunk.get(..count).unwrap_or_default();
                ensure!(!contains(said, b"-ERR"), "the server says {}", String::from_utf8_lossy(said));
                if contains(said, b"PING\r\n") {
                    self.stream.write_all(b"PONG\r\n").await?;
                }
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error).context("reading"),
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

impl Publish for Publisher {
    async fn publish(&mut self, outgoing: &mut Outgoing<'_>) -> Result<()> {
        self.buffer.clear();
        while let Some(stamp) = outgoing.take() {
            self.frame.append(stamp, &mut self.buffer);
        }
        // The run is one write: it was made as large as a write should be.
        self.stream.write_all(&self.buffer).await.context("writing")?;
        self.look_for_ping().await
    }

    async fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A connection with one or more subscriptions.
pub(crate) struct Subscriber {
    stream: TcpStream,
    parser: Parser,
    count: usize,
    /// Beginning of a message whose end has not arrived.
    rest: Vec<u8>,
    /// Shared by all connections of the thread.
    buffer: Rc<RefCell<Vec<u8>>>,
}

impl Subscriber {
    fn poll_receive(&mut self, cx: &mut Context<'_>, sink: &mut Sink) -> Poll<Result<Event>> {
        let mut buffer = self.buffer.borrow_mut();
        let Some((head, tail)) = buffer.split_at_mut_checked(self.rest.len()) else {
            return Poll::Ready(Err(anyhow::anyhow!("a message larger than the read buffer")));
        };
        ensure_ready(!tail.is_empty(), "a message as large as the read buffer")?;
        let mut read = ReadBuf::new(tail);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        let count = read.filled().len();
        ensure_ready(count > 0, "the server hung up: it does so to subscribers it finds too slow")?;
        head.copy_from_slice(&self.rest);
        let length = head.len() + count;
        let arrived = buffer.get(..length).unwrap_or_default();
        sink.arrived();
        let (event, rest) = self.parser.parse(arrived, sink)?;
        self.rest.clear();
        self.rest.extend_from_slice(rest);
        Poll::Ready(Ok(event))
    }
}

fn ensure_ready(condition: bool, otherwise: &'static str) -> Result<()> {
    if condition { Ok(()) } else { bail!(otherwise) }
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
