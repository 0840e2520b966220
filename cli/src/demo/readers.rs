//! The demo's subscribers. Each reads over a connection of its own until it is told that the demo is over, so that what
//! comes too much is seen as well as what does not come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use broky_client::{Client, SubscribeOptions, Subscription};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::SUBSCRIBERS;
use super::input::Input;
use super::tally::{Delivered, Tally};
use crate::exit::{FAILED, fail};

/// Messages that have not been read take no more than this, in bytes: a node keeps four times as much.
const LEAD_BYTES_MAX: u64 = 24 << 20;
/// What a message takes beside its content, in bytes.
const OVERHEAD_BYTES: u64 = 128;
/// Without a message for this long nothing is waited for any more.
const STALL: Duration = Duration::from_secs(5);
/// How often progress is looked at.
const PERIOD: Duration = Duration::from_millis(1);

/// All subscribers.
pub(super) struct Readers {
    readers: Vec<Reader>,
    stop: watch::Sender<bool>,
}

struct Reader {
    wants: fn(&[u8]) -> bool,
    progress: Arc<Progress>,
    /// Messages and bytes that were pushed for it.
    pushed_messages: u64,
    pushed_bytes: u64,
    client: Client,
    task: JoinHandle<anyhow::Result<Tally>>,
}

/// How far a subscriber is.
#[derive(Default)]
struct Progress {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Readers {
    /// Subscribes at these nodes in turn; returns when all subscriptions stand.
    pub(super) async fn start(addresses: &[String], input: &Arc<Input>) -> anyhow::Result<Self> {
        let stop = watch::Sender::new(false);
        let mut readers = Vec::new();
        for ((pattern, wants), address) in SUBSCRIBERS.iter().zip(addresses.iter().cycle()) {
            // A client begins with the node it was given; the others it knows from there.
            let client = Client::connect([address]).await?;
            let subscription = client.subscribe(SubscribeOptions::new([*pattern])).await?;
            let progress = Arc::<Progress>::default();
            let reading = read(subscription, input.clone(), *wants, progress.clone(), stop.subscribe());
            let task = tokio::spawn(reading);
            readers.push(Reader { wants: *wants, progress, pushed_messages: 0, pushed_bytes: 0, client, task });
        }
        Ok(Self { readers, stop })
    }

    /// Notes that a message is pushed.
    pub(super) fn note_pushed(&mut self, key: &[u8], payload: &[u8]) {
        for reader in self.readers.iter_mut().filter(|reader| (reader.wants)(key)) {
            reader.pushed_messages += 1;
            reader.pushed_bytes += payload.len() as u64 + OVERHEAD_BYTES;
        }
    }

    /// Waits while a subscriber is so far behind that the nodes would soon forget what it has not read. For a while
    /// only: what it missed will never come.
    pub(super) async fn until_near(&mut self) -> anyhow::Result<()> {
        let lag = |reader: &Reader| reader.pushed_bytes.saturating_sub(reader.progress.bytes.load(Ordering::Relaxed));
        if self.wait(|reader| lag(reader) <= LEAD_BYTES_MAX).await? {
            return Ok(());
        }
        for reader in &mut self.readers {
            reader.pushed_bytes = reader.progress.bytes.load(Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits until they have got everything that was pushed for them, or nothing more comes.
    pub(super) async fn until_done(&mut self) -> anyhow::Result<()> {
        self.wait(|reader| reader.progress.messages.load(Ordering::Relaxed) >= reader.pushed_messages).await.map(drop)
    }

    /// Waits until something holds for each of them. False when nothing has come for too long before.
    async fn wait(&mut self, is_met: impl Fn(&Reader) -> bool) -> anyhow::Result<bool> {
        let (mut before, mut since) = (self.messages(), Instant::now());
        while !self.readers.iter().all(&is_met) {
            if let Some(ended) = self.readers.iter().position(|reader| reader.task.is_finished()) {
                self.readers.swap_remove(ended).task.await??;
                return Err(fail(FAILED, "a subscription has ended"));
            }
            if since.elapsed() > STALL {
                return Ok(false);
            }
            tokio::time::sleep(PERIOD).await;
            let now = self.messages();
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
        Ok(true)
    }

    fn messages(&self) -> u64 {
        self.readers.iter().map(|reader| reader.progress.messages.load(Ordering::Relaxed)).sum()
    }

    /// Ends the subscriptions; gives what each got, in the order of [`SUBSCRIBERS`].
    pub(super) async fn stop(self) -> anyhow::Result<Vec<Tally>> {
        self.stop.send_replace(true);
        let mut tallies = Vec::new();
        for reader in self.readers {
            tallies.push(reader.task.await??);
            reader.client.close().await;
        }
        Ok(tallies)
    }
}

async fn read(
    mut subscription: Subscription,
    input: Arc<Input>,
    wants: fn(&[u8]) -> bool,
    progress: Arc<Progress>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::new(&input, wants);
    loop {
        let batch = tokio::select! {
            batch = subscription.next_batch() => batch,
            _ = stop.wait_for(|is_over| *is_over) => break,
        };
        let Some(batch) = batch else { break };
        let batch = batch?;
        let mut bytes = 0;
        for message in batch.messages() {
            bytes += message.payload().len() as u64 + OVERHEAD_BYTES;
            let uid = message.uid().unwrap_or_default();
            let (partition, key, payload) = (message.key_partition(), message.key(), message.payload());
            tally.add(&input, Delivered { uid: &uid, partition, key, payload });
        }
        progress.bytes.fetch_add(bytes, Ordering::Relaxed);
        progress.messages.fetch_add(batch.len() as u64, Ordering::Relaxed);
    }
    Ok(tally)
}
