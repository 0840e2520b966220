//! The demo's producer: pushes the lines in order, and notes what became of each and when.
//!
//! Messages of one key_partition are settled in order, so a task per key_partition that awaits one ticket after the
//! other sees every ack when it comes.

use std::ops::{Range, RangeTo};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use broky_client::{Client, MessageRef, Producer, PushError, Ticket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::acks::{AckClock, Interruption};
use super::input::Input;
use super::numbers::Numbers;
use super::readers::Readers;

/// How often it is looked whether the subscribers keep up, in messages.
const LOOK_EVERY: u64 = 256;
/// How often it is looked whether outcomes have been noted.
const PERIOD: Duration = Duration::from_millis(1);

/// Pushes lines.
pub(super) struct Pusher {
    input: Arc<Input>,
    producer: Producer,
    journal: Arc<Mutex<Journal>>,
    /// By key_partition. Bounded by the producer's window: no ticket is older than that.
    tickets: Vec<mpsc::UnboundedSender<(u64, Ticket)>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What became of the messages.
struct Journal {
    clock: AckClock,
    /// Messages that have an outcome.
    settled: u64,
    unacked: Numbers,
    failure: Option<PushError>,
}

/// What became of all messages.
pub(super) struct Pushed {
    pub(super) pushed: u64,
    pub(super) acked: u64,
    pub(super) unacked: Numbers,
    /// Why the first one of those failed.
    pub(super) failure: Option<PushError>,
    /// What was measured since [`Pusher::watch`] was called last.
    pub(super) interruption: Interruption,
}

impl Pusher {
    pub(super) fn start(client: &Client, input: &Arc<Input>) -> anyhow::Result<Self> {
        let journal = Journal {
            clock: AckClock::new(input.partitions(), Instant::now()),
            settled: 0,
            unacked: Numbers::new(input.total()),
            failure: None,
        };
        let journal = Arc::new(Mutex::new(journal));
        let (mut tickets, mut tasks) = (Vec::new(), Vec::new());
        for partition in 0..input.partitions() {
            let (sender, receiver) = mpsc::unbounded_channel();
            tickets.push(sender);
            tasks.push(tokio::spawn(settle(partition, receiver, journal.clone())));
        }
        Ok(Self { input: input.clone(), producer: client.producer()?, journal, tickets, tasks })
    }

    /// Pushes the lines of these numbers, as fast as the cluster and the subscribers take them.
    pub(super) async fn push(&self, numbers: Range<u64>, readers: &mut Readers) -> anyhow::Result<()> {
        for number in numbers {
            if number % LOOK_EVERY == 0 {
                readers.until_near().await?;
            }
            let line = self.input.line(number);
            let uid = self.input.uid(number);
            let message = MessageRef {
                key_partition: line.partition,
                uid: Some(&uid),
                ..MessageRef::new(line.key, line.payload)
            };
            let ticket = self.producer.push(message).await?;
            readers.note_pushed(line.key, line.payload);
            if let Some(tickets) = self.tickets.get(self.input.partition_of(number)) {
                // Its task goes on until we are done.
                let _ = tickets.send((number, ticket));
            }
        }
        Ok(())
    }

    /// Waits until the messages of these numbers, the last of which was just pushed, have their outcomes.
    pub(super) async fn settle(&self, numbers: RangeTo<u64>) {
        self.producer.flush().await;
        while lock(&self.journal).settled < numbers.end {
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Measures from here on how long these key_partitions get no acks; gives what was measured before.
    pub(super) fn watch(&self, is_watched: Vec<bool>) -> Interruption {
        lock(&self.journal).clock.watch(is_watched)
    }

    /// Waits until everything has an outcome.
    pub(super) async fn finish(mut self) -> anyhow::Result<Pushed> {
        self.tickets.clear();
        for task in self.tasks {
            task.await?;
        }
        self.producer.close().await;
        let (pushed, mut journal) = (self.input.total(), lock(&self.journal));
        let unacked = std::mem::replace(&mut journal.unacked, Numbers::new(0));
        let (failure, interruption) = (journal.failure.take(), journal.clock.longest());
        Ok(Pushed { pushed, acked: pushed - unacked.len(), unacked, failure, interruption })
    }
}

async fn settle(partition: usize, mut tickets: mpsc::UnboundedReceiver<(u64, Ticket)>, journal: Arc<Mutex<Journal>>) {
    while let Some((number, ticket)) = tickets.recv().await {
        let outcome = ticket.await;
        let mut journal = lock(&journal);
        journal.settled += 1;
        match outcome {
            Ok(_) => journal.clock.handle_ack(partition, Instant::now()),
            Err(error) => {
                journal.unacked.insert(number);
                journal.failure.get_or_insert(error);
            }
        }
    }
}

fn lock(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}
