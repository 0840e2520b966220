//! Subscribers that check what they get: each message once, in order, no offset passed over without a gap.
//!
//! **Invariant:** an offset that a reader of everything neither got nor was told of counts as skipped, and a message whose
//! producer and sequence came before, at whatever offset, counts as a duplicate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broky_client::{Batch, Client, Gap, GapReason, MessageView, Start, SubscribeError, SubscribeOptions, Subscription};
use tokio::task::JoinHandle;

use crate::workload::Stamp;

/// Examples that are kept of each kind of fault.
const EXAMPLES_MAX: usize = 5;

/// Where a reader found a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The vbucket.
    pub vbucket: u16,
    /// The epoch under which it was stored.
    pub epoch: u64,
    /// The offset.
    pub offset: u64,
}

/// How often something happened that must not, with a few examples.
#[derive(Clone, Default, Debug)]
pub struct Faults {
    /// How often.
    pub count: u64,
    /// The first ones, in words.
    pub examples: Vec<String>,
}

impl Faults {
    /// Adds one.
    pub fn add(&mut self, words: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(words());
        }
    }

    /// Adds those of another.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        let room = EXAMPLES_MAX.saturating_sub(self.examples.len());
        self.examples.extend(other.examples.iter().take(room).cloned());
    }
}

/// A message that came behind a later one of its producer and vbucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overtaken {
    /// The producer.
    pub producer: u32,
    /// The message.
    pub sequence: u64,
    /// The one that came before it.
    pub by: u64,
    /// Where it came.
    pub place: Place,
}

/// What a reader got.
#[derive(Default, Debug)]
pub struct Sight {
    /// By producer and sequence.
    places: Vec<Vec<Option<Place>>>,
    /// Messages.
    pub messages: u64,
    /// Messages that came before.
    pub duplicates: Faults,
    /// Messages behind a later one of their producer and vbucket.
    pub overtaken: Vec<Overtaken>,
    /// Messages behind a later one of their vbucket.
    pub disorder: Faults,
    /// Messages that nobody has pushed.
    pub phantoms: Faults,
    /// Offsets neither got nor told of.
    pub skipped: Faults,
    /// Gaps.
    pub gaps: Vec<Gap>,
    /// Times the cluster refused the position as another cluster's.
    pub foreign: Vec<String>,
    /// Why the subscription ended, if it did.
    pub ended: Option<SubscribeError>,
    /// Next offset by vbucket.
    next: BTreeMap<u16, u64>,
    /// Last sequence by producer and vbucket.
    last: BTreeMap<(u32, u16), u64>,
    /// Offsets below were lost, by vbucket.
    lost_below: BTreeMap<u16, u64>,
    is_complete: bool,
}

impl Sight {
    /// Where the reader found a message.
    #[must_use]
    pub fn place(&self, producer: u32, sequence: u64) -> Option<Place> {
        *self.places.get(producer as usize)?.get(usize::try_from(sequence).ok()?)?
    }

    fn add(&mut self, batch: &Batch) {
        for gap in batch.gaps() {
            let next = self.next.entry(gap.vbucket.0).or_insert(gap.from.0);
            *next = gap.to.0.max(*next);
            self.gaps.push(*gap);
            if gap.reason == GapReason::Lost {
                // With everything else the cluster has lost what it knew of producers: a retry is stored again.
                self.lost_below.insert(gap.vbucket.0, gap.to.0);
                self.last.retain(|(_, vbucket), _| *vbucket != gap.vbucket.0);
            }
        }
        for message in batch.messages() {
            self.add_message(&message);
        }
    }

    fn add_message(&mut self, message: &MessageView<'_>) {
        self.messages += 1;
        let place = Place { vbucket: message.vbucket().0, epoch: message.epoch().0, offset: message.offset().0 };
        let Some(Stamp { producer, sequence, .. }) = Stamp::of(message.payload()) else {
            self.phantoms.add(|| format!("{place:?} has no stamp"));
            return;
        };
        self.follow(place);
        let last = self.last.insert((producer, place.vbucket), sequence);
        if let Some(earlier) = self.seen(producer, sequence, place) {
            self.duplicates.add(|| format!("{sequence} of producer {producer} at {earlier:?} and at {place:?}"));
        } else if let Some(by) = last.filter(|last| *last > sequence) {
            self.overtaken.push(Overtaken { producer, sequence, by, place });
        }
    }

    /// Notes a place; gives the one noted before.
    fn seen(&mut self, producer: u32, sequence: u64, place: Place) -> Option<Place> {
        // A stamp that no producer of ours can have made would take all memory.
        let (producer, sequence) = (producer as usize, usize::try_from(sequence).ok()?);
        if producer > 1 << 10 || sequence > 1 << 30 {
            self.phantoms.add(|| format!("{place:?} is stamped {sequence} of {producer}"));
            return None;
        }
        if self.places.len() <= producer {
            self.places.resize_with(producer + 1, Vec::new);
        }
        let places = self.places.get_mut(producer)?;
        if places.len() <= sequence {
            places.resize(sequence + 1, None);
        }
        let known = places.get_mut(sequence)?;
        let is_lost = |earlier: &Place| self.lost_below.get(&earlier.vbucket).is_some_and(|end| earlier.offset < *end);
        if known.is_none_or(|earlier| is_lost(&earlier)) {
            *known = Some(place);
            return None;
        }
        *known
    }

    /// Whether the offset follows what came before in its vbucket.
    fn follow(&mut self, place: Place) {
        let next = self.next.insert(place.vbucket, place.offset + 1);
        match next {
            Some(next) if place.offset < next => self.disorder.add(|| format!("{place:?} behind {next}")),
            Some(next) if place.offset > next && self.is_complete => {
                self.skipped.add(|| format!("{next} to {} of vbucket {}", place.offset, place.vbucket));
            }
            Some(_) | None => {}
        }
    }

    fn restart(&mut self, reason: String) {
        self.foreign.push(reason);
        // Another cluster knows nothing of the old one's offsets and producers.
        self.next.clear();
        self.last.clear();
        self.places.clear();
        self.lost_below.clear();
    }
}

/// A subscriber that reads all the time.
#[derive(Debug)]
pub struct Reader {
    /// What to call it.
    pub name: String,
    sight: Arc<Mutex<Sight>>,
    task: JoinHandle<()>,
}

impl Reader {
    /// Subscribes. Returns once that is confirmed.
    ///
    /// # Errors
    /// When it is not.
    pub async fn open(name: String, client: Client, options: SubscribeOptions) -> Result<Self, SubscribeError> {
        let is_complete =
            options.key_partitions.is_empty() && options.patterns.iter().any(|pattern| &pattern[..] == b"*");
        let subscription = client.subscribe(options).await?;
        let sight = Arc::new(Mutex::new(Sight { is_complete, ..Sight::default() }));
        // The client closes its subscriptions when it is dropped.
        let task = tokio::spawn(read(subscription, client, Arc::clone(&sight)));
        Ok(Self { name, sight, task })
    }

    /// What it got so far.
    pub fn sight(&self) -> MutexGuard<'_, Sight> {
        lock(&self.sight)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(mut subscription: Subscription, _client: Client, sight: Arc<Mutex<Sight>>) {
    while let Some(batch) = subscription.next_batch().await {
        match batch {
            Ok(batch) => lock(&sight).add(&batch),
            Err(SubscribeError::ForeignCluster(reason)) => {
                lock(&sight).restart(reason);
                if let Err(error) = subscription.restart(Start::Earliest).await {
                    lock(&sight).ended = Some(error);
                }
            }
            Err(error) => lock(&sight).ended = Some(error),
        }
    }
}

fn lock(sight: &Mutex<Sight>) -> MutexGuard<'_, Sight> {
    sight.lock().unwrap_or_else(PoisonError::into_inner)
}
