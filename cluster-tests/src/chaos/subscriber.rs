//! A subscriber of the Rust client that writes down all that it gets.
//!
//! The client goes on elsewhere by itself when its node dies, so a session here is what the application sees as one
//! subscription: that its messages follow one another across nodes is what is to be shown.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use broky_client::{Batch, Client, OnSlow, ResumeToken, Start, SubscribeError, SubscribeOptions, Subscription};
use broky_proto::id::{Epoch, Lineage, Offset, ProducerId, Sequence, VBucketId};
use broky_proto::resume::decode_token;
use broky_ring::lineage::STRETCH_BITS;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::HarnessError;
use crate::history::{
    Advance, Close, CloseReason, Confirmed, Cursor, Deliver, Event, Gap, GapReason, ReaderRole, SessionNumber,
    Start as Begins, Subscribe,
};
use crate::journal::Journal;
use crate::workload::{Stamp, checksum, hash64};

/// What a subscriber is.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    /// Its name in the history; no two of a run share one.
    pub(super) name: String,
    /// What keys it wants.
    pub(super) patterns: Vec<String>,
    /// Whether it begins with the oldest message, or live.
    pub(super) is_earliest: bool,
    /// What it is there for.
    pub(super) role: ReaderRole,
    /// How long it rests after each delivery.
    pub(super) rest: Duration,
}

/// A subscriber that reads.
#[derive(Debug)]
pub(super) struct Subscriber {
    profile: Profile,
    stop: watch::Sender<Option<CloseReason>>,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// How far a subscriber has come.
#[derive(Default, Debug)]
struct Seen {
    next: BTreeMap<u16, u64>,
    messages: u64,
}

impl Subscriber {
    /// Subscribes. Returns once that is confirmed.
    ///
    /// # Errors
    /// When it is not, within the client's own limit.
    pub(super) async fn open(profile: Profile, client: Client, journal: Journal) -> Result<Self, HarnessError> {
        let (stop, stopped) = watch::channel(None);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let reading = Reading { profile: profile.clone(), journal, seen: Arc::clone(&seen), session: 0 };
        let (reading, subscription) = reading.begin(&client).await?;
        let task = tokio::spawn(reading.run(client, subscription, stopped));
        Ok(Self { profile, stop, seen, task })
    }

    /// What it is.
    #[must_use]
    pub(super) fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Waits until it has come to all these offsets, by vbucket, or gets nothing more for so long. Whether it has.
    pub(super) async fn until(&self, offsets: &BTreeMap<u16, u64>, patience: Duration) -> bool {
        let (mut known, mut since) = (self.lock().messages, Instant::now());
        loop {
            let has_all = offsets.iter().all(|(vbucket, next)| self.lock().next.get(vbucket) >= Some(next));
            if has_all || since.elapsed() > patience {
                return has_all;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            let messages = self.lock().messages;
            if messages != known {
                (known, since) = (messages, Instant::now());
            }
        }
    }

    /// Messages so far.
    pub(super) fn messages(&self) -> u64 {
        self.lock().messages
    }

    /// Ends it.
    pub(super) async fn close(mut self, reason: CloseReason) {
        self.stop.send_replace(Some(reason));
        // It looks at that between two deliveries.
        let _ = (&mut self.task).await;
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Reading {
    profile: Profile,
    journal: Journal,
    seen: Arc<Mutex<Seen>>,
    session: u32,
}

impl Reading {
    async fn begin(mut self, client: &Client) -> Result<(Self, Subscription), HarnessError> {
        let start = if self.profile.is_earliest { Start::Earliest } else { Start::Live };
        self.subscribe();
        let options = SubscribeOptions::new(self.profile.patterns.clone()).start(start).on_slow(OnSlow::DropOldest);
        let subscription = client.subscribe(options).await?;
        self.confirmed(subscription.resume_token());
        Ok((self, subscription))
    }

    async fn run(
        mut self,
        client: Client,
        mut subscription: Subscription,
        mut stopped: watch::Receiver<Option<CloseReason>>,
    ) {
        loop {
            let next = tokio::select! {
                biased;
                _ = stopped.wait_for(Option::is_some) => break,
                next = subscription.next_batch() => next,
            };
            match next {
                Some(Ok(batch)) => self.take(&batch),
                Some(Err(error)) => {
                    self.close(reason_of(&error));
                    self.subscribe();
                    // Whoever was in another cluster begins anew; others have no reason to end.
                    if subscription.restart(Start::Earliest).await.is_err() {
                        break;
                    }
                    self.confirmed(subscription.resume_token());
                }
                None => break,
            }
            if !self.profile.rest.is_zero() {
                tokio::time::sleep(self.profile.rest).await;
            }
        }
        self.advance(subscription.resume_token());
        let reason = stopped.borrow().unwrap_or(CloseReason::Refused);
        self.close(reason);
        self.journal.flush();
        drop(client);
    }

    fn subscribe(&mut self) {
        self.session += 1;
        let (reader, patterns) = (self.profile.name.clone(), self.profile.patterns.clone());
        let start = if self.profile.is_earliest || self.session > 1 { Begins::Earliest } else { Begins::Live };
        let (node, key_partitions, role) = (None, Vec::new(), self.profile.role);
        let session = SessionNumber(self.session);
        let subscribe = Subscribe { reader, session, node, patterns, key_partitions, start, role };
        self.journal.note(Event::Subscribe(subscribe));
    }

    fn confirmed(&self, token: Option<ResumeToken>) {
        let cluster = token.as_ref().and_then(ResumeToken::cluster_id).map(|id| id.to_string()).unwrap_or_default();
        let (reader, session, map_version) = (self.profile.name.clone(), SessionNumber(self.session), None);
        let cursors = cursors(token);
        self.lock().next.extend(cursors.iter().map(|cursor| (cursor.vbucket.0, cursor.offset.0)));
        self.journal.note(Event::Confirmed(Confirmed { reader, session, cluster, map_version, cursors }));
    }

    fn take(&self, batch: &Batch) {
        let reader = Cow::from(self.profile.name.as_str());
        let session = SessionNumber(self.session);
        let mut seen = self.lock();
        for gap in batch.gaps() {
            let broky_client::Gap { vbucket, lineage, from, to, .. } = *gap;
            let reason = match gap.reason {
                broky_client::GapReason::Evicted => GapReason::Evicted,
                broky_client::GapReason::Lost => GapReason::Lost,
                broky_client::GapReason::Slow | broky_client::GapReason::Unspecified => GapReason::Slow,
            };
            let gap = Gap { reader: reader.clone(), session, vbucket, lineage, from, to, reason };
            self.journal.note(Event::Gap(gap));
            let next = seen.next.entry(vbucket.0).or_default();
            *next = to.0.max(*next);
        }
        for message in batch.messages() {
            let stamp = Stamp::of(message.payload());
            let (vbucket, offset) = (message.vbucket(), message.offset());
            self.journal.note(Event::Deliver(Deliver {
                reader: reader.clone(),
                session,
                vbucket,
                lineage: Lineage(offset.0 >> STRETCH_BITS),
                epoch: message.epoch(),
                offset,
                hw: None,
                producer: stamp.map(|stamp| ProducerId(u64::from(stamp.producer))),
                sequence: stamp.map(|stamp| Sequence(stamp.sequence)),
                crc32: checksum(message.key_partition(), message.key(), message.payload()),
                hash64: hash64(message.payload()),
            }));
            seen.next.insert(vbucket.0, offset.0 + 1);
            seen.messages += 1;
        }
    }

    /// Where it stands: a filtered reader may have come further than its messages tell.
    fn advance(&self, token: Option<ResumeToken>) {
        let reader = Cow::from(self.profile.name.as_str());
        let session = SessionNumber(self.session);
        for Cursor { vbucket, lineage, epoch, offset } in cursors(token) {
            let advance = Advance { reader: reader.clone(), session, vbucket, lineage, epoch, offset };
            self.journal.note(Event::Advance(advance));
        }
    }

    fn close(&self, reason: CloseReason) {
        let (reader, session) = (self.profile.name.clone(), SessionNumber(self.session));
        self.journal.note(Event::Close(Close { reader, session, reason }));
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The positions in a token.
fn cursors(token: Option<ResumeToken>) -> Vec<Cursor> {
    let resume = token.and_then(|token| decode_token(token.as_bytes()).ok()).unwrap_or_default();
    let cursor = |cursor: &broky_proto::v1::Cursor| Cursor {
        vbucket: VBucketId(u16::try_from(cursor.vbucket).unwrap_or(u16::MAX)),
        lineage: Lineage(cursor.lineage),
        epoch: Epoch(cursor.epoch),
        offset: Offset(cursor.offset),
    };
    resume.cursors.iter().map(cursor).collect()
}

fn reason_of(error: &SubscribeError) -> CloseReason {
    match error {
        SubscribeError::ForeignCluster(_) => CloseReason::ForeignCluster,
        SubscribeError::SlowSubscriber(_) => CloseReason::SlowSubscriber,
        SubscribeError::Connect(_) | SubscribeError::Open(_) => CloseReason::Broken,
        SubscribeError::Options(_)
        | SubscribeError::BadPattern(_)
        | SubscribeError::PositionAhead(_)
        | SubscribeError::Refused { .. }
        | SubscribeError::Corrupted { .. }
        | SubscribeError::InvalidDelivery(_) => CloseReason::Refused,
    }
}
