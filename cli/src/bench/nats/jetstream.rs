//! JetStream as a target: a stream in memory with a replica on each of the servers, so that what arrives was stored by
//! a majority of them first.
//!
//! - **Publishing** is pipelined: every message names a reply subject, the publisher counts the answers and fails on one
//!   that is an error. All messages of a publisher name the same subject, as the server looks subjects up in a cache
//!   that a new one per message would keep emptying. Never more than the window is unanswered. With `--burst` the publisher
//!   waits for all answers now and then: the servers then replicate more at once, and each message costs them less.
//! - **Receiving** goes through a push consumer without acknowledgements, as client libraries' ordered consumers do: a
//!   plain subscription to the subject would get messages before they are replicated.
//! - **Where**: publishers connect to the stream's leader and subscribers to their consumer's, so no message takes a
//!   needless hop ([`cluster`]).
//!
//! API: <https://docs.nats.io/reference/reference-protocols/nats_api_reference>.

mod cluster;

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use anyhow::{Context as _, Result, ensure};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use self::cluster::Cluster;
use super::super::args::ReadFrom;
use super::super::plan::Plan;
use super::super::run::Outgoing;
use super::super::target::{Publish, Target};
use super::connection::connect;
use super::frame::{self, Frame};
use super::parse::{Event, Parser};
use super::reader::{self, Buffer, Reader, Subscriber};

/// Tells the inboxes of all publishers and subscribers of this process apart.
static INBOXES: AtomicU64 = AtomicU64::new(0);

/// What the target needs of the plan.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    addresses: Vec<String>,
    read_from: ReadFrom,
    size: usize,
    keys: usize,
    unanswered_max: u64,
    burst: Option<u64>,
}

impl Config {
    pub(crate) fn new(addresses: &[String], plan: &Plan) -> Self {
        Self {
            addresses: addresses.to_vec(),
            read_from: plan.read_from,
            size: plan.size,
            keys: plan.keys,
            unanswered_max: plan.window_messages,
            burst: plan.burst_messages,
        }
    }
}

/// JetStream, seen from one worker thread.
pub(crate) struct JetStream {
    config: Config,
    buffer: Buffer,
    cluster: OnceCell<Cluster>,
}

impl JetStream {
    pub(crate) fn new(config: Config) -> Self {
        Self { buffer: reader::buffer(config.size), config, cluster: OnceCell::new() }
    }

    async fn cluster(&self) -> Result<&Cluster> {
        self.cluster.get_or_try_init(|| Cluster::open(&self.config.addresses)).await
    }
}

impl Target for JetStream {
    type Publisher = Publisher;
    type Subscriber = Subscriber;

    async fn publisher(&self) -> Result<Publisher> {
        let leader = self.cluster().await?.leader()?;
        let inbox = inbox();
        let (stream, _) = connect(leader, format!("SUB {inbox} 0\r\n").as_bytes()).await?;
        Ok(Publisher {
            stream,
            frame: Frame::new(self.config.size, self.config.keys, Some(&inbox)),
            buffer: Vec::new(),
            answers: Reader::new(Parser::new(inbox.len()), self.buffer.clone()),
            sent: 0,
            tally: Tally::default(),
            pacing: Pacing { unanswered_max: self.config.unanswered_max, burst: self.config.burst, of_burst: 0 },
        })
    }

    /// One reader for each: their consumers may be at different servers.
    async fn subscribers(&self, count: usize) -> Result<Vec<Subscriber>> {
        let parser = Parser::new(frame::subject_len(self.config.keys)).with_reply();
        let mut subscribers = Vec::with_capacity(count);
        for _ in 0..count {
            let inbox = inbox();
            let address = self.cluster().await?.consume(&inbox, self.config.read_from).await?;
            // What is published from now on waits for us in the stream, even if the subscription reached the consumer
            // late.
            let (stream, _) = connect(address, format!("SUB {inbox} 0\r\n").as_bytes()).await?;
            subscribers.push(Subscriber::new(stream, Reader::new(parser, self.buffer.clone()), 1));
        }
        Ok(subscribers)
    }

    async fn describe(&self) -> Result<String> {
        let cluster = self.cluster().await?;
        Ok(format!(
            "nats-server {}, JetStream in memory, {} replica(s)",
            cluster.version(),
            self.config.addresses.len()
        ))
    }
}

fn inbox() -> String {
    format!("_INBOX.{}.{}", std::process::id(), INBOXES.fetch_add(1, Ordering::Relaxed))
}

/// Answers to publishes.
#[derive(Default)]
struct Tally {
    stored: u64,
    refused: Option<String>,
}

impl Tally {
    /// One answer: `{"stream":"..","seq":..}`, or `{"error":{..},..}`.
    fn take(&mut self, answer: &[u8]) {
        if answer.starts_with(b"{\"stream\"") {
            self.stored += 1;
        } else if self.refused.is_none() {
            self.refused = Some(String::from_utf8_lossy(answer).into_owned());
        }
    }
}

/// How many answers may be missing.
struct Pacing {
    unanswered_max: u64,
    burst: Option<u64>,
    /// Messages of the burst at hand so far.
    of_burst: u64,
}

impl Pacing {
    /// Takes note that so many messages are to be sent. Returns how many answers may be missing before they are.
    fn begin(&mut self, messages: u64) -> u64 {
        let ends_burst = self.burst.is_some_and(|burst| self.of_burst + messages > burst);
        self.of_burst = if ends_burst { messages } else { self.of_burst + messages };
        if ends_burst { 0 } else { self.unanswered_max.saturating_sub(messages) }
    }
}

/// A publishing connection, which also gets the answers.
pub(crate) struct Publisher {
    stream: TcpStream,
    frame: Frame,
    /// Frames of the run at hand; keeps its room from run to run.
    buffer: Vec<u8>,
    answers: Reader,
    sent: u64,
    tally: Tally,
    pacing: Pacing,
}

impl Publisher {
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event>> {
        self.answers.poll_read(&mut self.stream, cx, &mut self.tally, |_| (), |tally, _, answer| tally.take(answer))
    }

    /// Takes what answers there are, and waits for more while too many are missing.
    async fn take_answers(&mut self, missing_max: u64) -> Result<()> {
        loop {
            let waits = self.sent - self.tally.stored > missing_max;
            let read = poll_fn(|cx| match self.poll_answers(cx) {
                Poll::Ready(read) => Poll::Ready(Some(read)),
                Poll::Pending if waits => Poll::Pending,
                Poll::Pending => Poll::Ready(None),
            });
            let Some(event) = read.await else { return Ok(()) };
            if event? == Event::Ping {
                self.stream.write_all(b"PONG\r\n").await?;
            }
            if let Some(refused) = &self.tally.refused {
                anyhow::bail!("JetStream does not store a message: {refused}");
            }
            ensure!(self.tally.stored <= self.sent, "more answers than messages");
        }
    }
}

impl Publish for Publisher {
    async fn publish(&mut self, outgoing: &mut Outgoing<'_>) -> Result<()> {
        let run = outgoing.remaining;
        let missing_max = self.pacing.begin(run);
        self.take_answers(missing_max).await?;
        self.buffer.clear();
        while let Some(stamp) = outgoing.take() {
            self.frame.append(stamp, &mut self.buffer);
        }
        self.sent += run;
        self.stream.write_all(&self.buffer).await.context("writing")
    }

    async fn finish(&mut self) -> Result<()> {
        self.take_answers(0).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_stored_counts() {
        let mut tally = Tally::default();
        tally.take(b"{\"stream\":\"BROKY_BENCH\", \"seq\":1}");
        assert_eq!((tally.stored, &tally.refused), (1, &None));
        let error = b"{\"error\":{\"code\":503,\"description\":\"insufficient resources\"},\"stream\":\"B\",\"seq\":0}";
        tally.take(error);
        assert_eq!(tally.stored, 1);
        assert!(tally.refused.is_some_and(|refused| refused.contains("insufficient resources")));
    }

    #[test]
    fn a_burst_ends_with_all_answers() {
        let mut pacing = Pacing { unanswered_max: 4096, burst: Some(1024), of_burst: 0 };
        let missing = [512, 512, 512, 512, 100, 512].map(|messages| pacing.begin(messages));
        assert_eq!(missing, [3584, 3584, 0, 3584, 0, 3584]);
    }

    #[test]
    fn without_bursts_only_the_window_counts() {
        let mut pacing = Pacing { unanswered_max: 600, burst: None, of_burst: 0 };
        assert_eq!([512, 512, 700].map(|messages| pacing.begin(messages)), [88, 88, 0]);
    }

    #[test]
    fn no_two_inboxes_are_the_same() {
        assert_ne!(inbox(), inbox());
    }
}
