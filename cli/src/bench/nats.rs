//! nats-server as a target, by its own text protocol, as fast as the server can take it: here NATS core, which neither
//! stores nor replicates, and in [`jetstream`] what does.
//!
//! The comparison is only worth something if NATS gets its best: no client library in between, publishes gathered into
//! large writes from frames built beforehand, deliveries parsed where they were read ([`reader`]), no allocation and no
//! lock per message.
//!
//! Protocol: <https://docs.nats.io/reference/reference-protocols/nats-protocol>.

mod connection;
mod frame;
pub(crate) mod jetstream;
mod parse;
mod reader;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use self::connection::connect;
use self::frame::Frame;
use self::parse::Parser;
use self::reader::{Buffer, Reader, Subscriber};
use super::plan::Plan;
use super::run::Outgoing;
use super::target::{Publish, Target};

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
    buffer: Buffer,
}

impl Nats {
    pub(crate) fn new(config: Config) -> Self {
        Self { buffer: reader::buffer(config.size), config }
    }
}

impl Target for Nats {
    type Publisher = Publisher;
    type Subscriber = Subscriber;

    async fn publisher(&self) -> Result<Publisher> {
        let (stream, _) = connect(&self.config.address, b"").await?;
        let frame = Frame::new(self.config.size, self.config.keys, None);
        Ok(Publisher { stream, frame, buffer: Vec::new() })
    }

    async fn subscribers(&self, count: usize) -> Result<Vec<Subscriber>> {
        let subject = frame::subscription(self.config.keys);
        let requests: String = (0..count).map(|sid| format!("SUB {subject} {sid}\r\n")).collect();
        let (stream, _) = connect(&self.config.address, requests.as_bytes()).await?;
        let parser = Parser::new(frame::subject_len(self.config.keys));
        Ok(vec![Subscriber::new(stream, Reader::new(parser, self.buffer.clone()), count)])
    }

    async fn describe(&self) -> Result<String> {
        let (_, greeting) = connect(&self.config.address, b"").await?;
        Ok(format!("nats-server {}", greeting.version()))
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
