//! Load: producers that push unique messages at a fixed rate into every vbucket in turn, pipelined, and remember what
//! became of each.
//!
//! The rate does not follow the broker: a message is due whether or not those before it were answered, as far as the
//! client's window goes. So an interruption shows in the vbuckets that it concerns, and not as a lower rate everywhere.
//!
//! Messages belong to *rounds*, which are their keys: a reader of one round reads its messages only.

mod attempts;
mod stamp;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use broky_client::{Client, MessageRef, Producer, ProducerOptions, Ticket, VBucketId};
use broky_proto::id::{Token, VBucketCount};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

pub use self::attempts::{Attempt, Attempts, Clock, Fate, Since};
pub use self::stamp::{Stamp, checksum, hash64};
use crate::error::HarnessError;
use crate::journal::Journal;

/// How often messages that are due are pushed.
const TICK: Duration = Duration::from_millis(2);
/// Messages that are made up for at once after the client's window was full. The rest was not due to anybody's fault
/// but ours, and would come as a burst.
const CATCH_UP_MAX: u64 = 1_000;

/// How much is pushed.
#[derive(Clone, Debug)]
pub struct WorkloadOptions {
    /// Producers, each with a client of its own.
    pub producers: u32,
    /// Messages per second, of all producers together.
    pub rate_per_second: u32,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// How long a message is tried.
    pub delivery_timeout: Duration,
    /// Vbuckets of the cluster.
    pub vbuckets: u32,
    /// Only this vbucket gets messages. `None`: all in turn.
    pub only: Option<VBucketId>,
    /// The key of a message, by round and sequence.
    pub key: fn(u32, usize) -> String,
    /// Where pushes and their outcomes are written down, and the name of the cluster.
    pub journal: Option<(Journal, String)>,
}

/// Running producers.
#[derive(Debug)]
pub struct Workload {
    /// What each producer pushed.
    pub logs: Vec<Arc<Attempts>>,
    /// When it all began.
    pub clock: Clock,
    partitions: Arc<Vec<String>>,
    round: Arc<AtomicU32>,
    gate: watch::Sender<bool>,
    clients: Vec<Client>,
    tasks: Vec<JoinHandle<()>>,
}

/// A message on its way.
struct Sent {
    sequence: usize,
    ticket: Ticket,
}

impl Workload {
    /// Connects the producers. They push nothing before [`Workload::go`].
    ///
    /// # Errors
    /// When no node answers.
    pub async fn start(addresses: &[String], options: &WorkloadOptions) -> Result<Self, HarnessError> {
        let (gate, _) = watch::channel(false);
        let mut workload = Self {
            logs: Vec::new(),
            clock: Clock::start(),
            partitions: Arc::new(partitions(options.vbuckets)),
            round: Arc::default(),
            gate,
            clients: Vec::new(),
            tasks: Vec::new(),
        };
        for number in 0..options.producers {
            let client = Client::connect(addresses.to_vec()).await?;
            let producer = client.producer_with(ProducerOptions {
                want_positions: true,
                delivery_timeout: options.delivery_timeout,
                ..ProducerOptions::default()
            })?;
            let attempts = Arc::new(Attempts::new(number, options.journal.clone()));
            let (sent, receiver) = mpsc::unbounded_channel();
            let pusher = Pusher {
                number,
                producer,
                attempts: Arc::clone(&attempts),
                partitions: Arc::clone(&workload.partitions),
                round: Arc::clone(&workload.round),
                clock: workload.clock,
                options: options.clone(),
                sent,
            };
            workload.tasks.push(tokio::spawn(collect(receiver, Arc::clone(&attempts), workload.clock)));
            workload.tasks.push(tokio::spawn(pusher.run(workload.gate.subscribe())));
            workload.logs.push(attempts);
            workload.clients.push(client);
        }
        Ok(workload)
    }

    /// Pushes, from now on, messages of this round.
    pub fn go(&self, round: u32) {
        self.round.store(round, Ordering::Relaxed);
        self.gate.send_replace(true);
    }

    /// Messages are of this round from now on.
    pub fn turn(&self, round: u32) {
        self.round.store(round, Ordering::Relaxed);
    }

    /// Pushes nothing more, and waits until everything pushed has an outcome.
    ///
    /// # Errors
    /// When that takes longer than the limit.
    pub async fn settle(&self, limit: Duration) -> Result<(), HarnessError> {
        self.gate.send_replace(false);
        let deadline = Instant::now() + limit;
        // Whoever is in the middle of a tick.
        tokio::time::sleep(TICK * 2).await;
        loop {
            let pending: usize = self.logs.iter().map(|log| log.pending()).sum();
            if pending == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                let what = "every pushed message has an outcome".to_owned();
                return Err(HarnessError::Late { what, limit, seen: format!("{pending} have none") });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every message of a round, with its producer and sequence.
    pub fn for_each(&self, mut of: impl FnMut(u32, u64, &Attempt)) {
        for (producer, log) in (0..).zip(&self.logs) {
            for (sequence, attempt) in (0..).zip(log.lock().iter()) {
                of(producer, sequence, attempt);
            }
        }
    }

    /// One message.
    #[must_use]
    pub fn attempt(&self, producer: u32, sequence: u64) -> Option<Attempt> {
        self.logs.get(producer as usize)?.lock().get(usize::try_from(sequence).ok()?).cloned()
    }

    /// The key_partition that leads to a vbucket.
    #[must_use]
    pub fn partition(&self, vbucket: VBucketId) -> &str {
        self.partitions.get(usize::from(vbucket.0)).map_or("", String::as_str)
    }

    /// How many vbuckets get messages.
    #[must_use]
    pub fn vbuckets(&self) -> usize {
        self.partitions.len()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The key of a round's messages, unless the options say otherwise.
#[must_use]
pub fn key_of(round: u32) -> String {
    format!("r{round}")
}

/// A key_partition for each vbucket.
fn partitions(vbuckets: u32) -> Vec<String> {
    let Some(count) = VBucketCount::new(vbuckets) else { return Vec::new() };
    let mut found: Vec<Option<String>> = vec![None; count.len()];
    let mut missing = found.len();
    // Each number hits one of `count` slots as by chance, so this ends after about count x ln(count) of them.
    for number in 0_u32.. {
        if missing == 0 {
            break;
        }
        let name = format!("p{number}");
        let vbucket = count.vbucket_of(Token::of(name.as_bytes(), b""));
        if let Some(place @ None) = found.get_mut(usize::from(vbucket.0)) {
            *place = Some(name);
            missing -= 1;
        }
    }
    found.into_iter().flatten().collect()
}

struct Pusher {
    number: u32,
    producer: Producer,
    attempts: Arc<Attempts>,
    partitions: Arc<Vec<String>>,
    round: Arc<AtomicU32>,
    clock: Clock,
    options: WorkloadOptions,
    sent: mpsc::UnboundedSender<Sent>,
}

impl Pusher {
    async fn run(self, mut gate: watch::Receiver<bool>) {
        // Each begins elsewhere.
        let mut turn = self.number as usize * self.partitions.len() / self.options.producers.max(1) as usize;
        let rate = f64::from(self.options.rate_per_second) / f64::from(self.options.producers.max(1));
        loop {
            if gate.wait_for(|is_open| *is_open).await.is_err() {
                return;
            }
            let mut ticks = tokio::time::interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let begun = Instant::now();
            let mut pushed = 0_u64;
            while *gate.borrow() {
                ticks.tick().await;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
                let due = (begun.elapsed().as_secs_f64() * rate) as u64;
                pushed = pushed.max(due.saturating_sub(CATCH_UP_MAX));
                while pushed < due && *gate.borrow() {
                    self.push(turn).await;
                    turn += 1;
                    pushed += 1;
                }
            }
        }
    }

    async fn push(&self, turn: usize) {
        let turn = turn % self.partitions.len().max(1);
        let vbucket = self.options.only.unwrap_or(VBucketId(u16::try_from(turn).unwrap_or_default()));
        let Some(partition) = self.partitions.get(usize::from(vbucket.0)) else { return };
        let round = self.round.load(Ordering::Relaxed);
        let pushed = self.clock.now();
        let sequence = self.attempts.begin(vbucket, round, pushed);
        let stamp = Stamp { producer: self.number, sequence: sequence as u64, pushed };
        let (key, payload) = ((self.options.key)(round, sequence), stamp.payload(self.options.payload_bytes));
        self.attempts.note_invocation(sequence, &key, partition, &payload);
        let message = MessageRef { key_partition: partition.as_bytes(), ..MessageRef::new(key.as_bytes(), &payload) };
        match self.producer.push(message).await {
            // The collector lives as long as we do.
            Ok(ticket) => drop(self.sent.send(Sent { sequence, ticket })),
            Err(error) => self.attempts.settle(sequence, self.clock.now(), &Err(error)),
        }
    }
}

/// Notes outcomes as they come, in whatever order.
async fn collect(mut sent: mpsc::UnboundedReceiver<Sent>, attempts: Arc<Attempts>, clock: Clock) {
    let mut waiting = FuturesUnordered::new();
    loop {
        tokio::select! {
            next = sent.recv() => {
                let Some(Sent { sequence, ticket }) = next else { return };
                waiting.push(async move { (sequence, ticket.await) });
            }
            Some((sequence, outcome)) = waiting.next(), if !waiting.is_empty() => {
                attempts.settle(sequence, clock.now(), &outcome);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vbucket_has_a_partition() {
        let count = VBucketCount::new(64).unwrap();
        let partitions = partitions(64);
        assert_eq!(partitions.len(), 64);
        for (number, name) in (0..).zip(&partitions) {
            assert_eq!(count.vbucket_of(Token::of(name.as_bytes(), b"")), VBucketId(number));
        }
    }
}
