//! Which node a pushed message goes to, and what happens when that node was the wrong one.
//!
//! Any node takes any push. Its router hands each message to whoever leads the message's vbucket, by the newest map.
//! When leaders change, messages are refused by those who lead no longer, or a link breaks with no word about them;
//! they are sent on to the new leader, as long as their deadline allows.
//!
//! **Invariant:** the messages of one vbucket reach its leaders in the order in which they came here. For otherwise a
//! producer's later message could be stored before an earlier one, whose retry would then look like a duplicate. So a
//! vbucket is *pinned* to its target, and to the epoch in which that leads, while anything of it is unanswered there,
//! whatever a newer map says; and while anything of it waits to be sent again, whatever comes later waits behind. A
//! target refuses what was sent for another epoch: else one that has led, does not, and leads again would refuse an
//! earlier message and take a later one.
//!
//! For the same reason a message that was not committed breaks its producer's *row* in its vbucket ([`crate::rows`]):
//! what comes behind it is refused here until that message comes again or the producer's epoch has risen. A leader does the
//! same with what it refused itself, but a new one does not know of it.
//!
//! Messages without a producer are not sent twice: where nobody knows whether they were stored, that is their outcome.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use broky_proto::id::{Epoch, Member, ProducerId, VBucketCount, VBucketId};
use broky_proto::time::Timestamp;
use broky_proto::v1::ErrorCode;
use broky_proto::wire::{Entry, Push};
use broky_replication::Append;
use broky_ring::map::ClusterMap;
use bytes::Bytes;

use crate::config::ShardId;
use crate::groups::Groups;
use crate::outcome::{Exception, ExceptionKind, PartOutcome, exception};
use crate::rows::Rows;

/// Time a message has to find its leader, if it comes again when that is told. Whoever pushed it goes elsewhere after 3
/// s without an answer, and the attempt that is under way then may take another second.
const DEADLINE: Duration = Duration::from_millis(1_500);
/// Of one that does not come again: longer than a failover takes.
const DEADLINE_ALONE: Duration = Duration::from_secs(5);
/// Time before a message that was refused is sent again, unless the map changes before.
const PAUSE: Duration = Duration::from_millis(20);

/// Who is to store messages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    /// A shard of this node.
    Shard(ShardId),
    /// Another node's process.
    Node(Member),
}

/// Names a part of a request that was handed to a target.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartId(pub u64);

/// Messages of one request for one target.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name, by which its outcome is told.
    pub id: PartId,
    /// Who is to store it.
    pub to: Target,
    /// The request's bytes.
    pub request: Bytes,
    /// The scanned request, with the part's messages only.
    pub push: Arc<Push>,
}

/// What became of messages of a request.
#[derive(Clone, PartialEq, Debug)]
pub struct Told {
    /// The request, as [`Router::push`] was told it.
    pub request: u64,
    /// What became of some of its messages.
    pub outcome: PartOutcome,
}

/// What a router wants done.
#[derive(Debug, Default)]
pub struct Routed {
    /// Parts to hand to their targets, in this order.
    pub parts: Vec<Part>,
    /// Outcomes that are known.
    pub told: Vec<Told>,
}

#[derive(Clone, Copy, Default, Debug)]
struct Lane {
    /// Where its messages are, while any is unanswered, and in which epoch they are to be stored.
    pinned: Option<(Target, Epoch)>,
    unanswered: u32,
    /// Messages that wait to be sent again.
    waiting: u32,
}

/// Messages on their way, or waiting.
#[derive(Clone, Debug)]
struct Batch {
    request: u64,
    /// Requests are numbered as they come.
    arrival: u64,
    bytes: Bytes,
    push: Arc<Push>,
    deadline: Timestamp,
    /// An attempt may have stored them without our having heard of it.
    is_in_doubt: bool,
}

/// Routes the pushes that come in at one worker.
#[derive(Debug)]
pub struct Router {
    me: Member,
    shards: u16,
    vbuckets: VBucketCount,
    /// Per vbucket: who leads it, in which epoch.
    leaders: Vec<Option<(Target, Epoch)>>,
    lanes: Vec<Lane>,
    unanswered: BTreeMap<PartId, (Target, Batch)>,
    waiting: VecDeque<Batch>,
    rows: Rows,
    arrivals: u64,
    resend_at: Timestamp,
    next: u64,
}

impl Router {
    /// A router of a node with this many shards. It knows no leader yet.
    #[must_use]
    pub fn new(me: Member, shards: u16, vbuckets: VBucketCount) -> Self {
        Self {
            me,
            shards,
            vbuckets,
            leaders: vec![None; vbuckets.len()],
            lanes: vec![Lane::default(); vbuckets.len()],
            unanswered: BTreeMap::new(),
            waiting: VecDeque::new(),
            rows: Rows::default(),
            arrivals: 0,
            resend_at: Timestamp::default(),
            next: 0,
        }
    }

    /// Takes a newer map, and sends on what waits for a leader.
    pub fn handle_map(&mut self, now: Timestamp, map: &ClusterMap, out: &mut Routed) {
        for ((id, vbucket), leader) in map.vbuckets().zip(&mut self.leaders) {
            let target = |leader| match leader == self.me {
                true => Target::Shard(ShardId(id.0 % self.shards)),
                false => Target::Node(leader),
            };
            *leader = vbucket.leader.map(|leader| (target(leader), vbucket.epoch));
        }
        self.resend_at = now;
        self.handle_timeout(now, out);
    }

    /// Routes a scanned request, which the caller calls `request`.
    pub fn push(&mut self, now: Timestamp, request: u64, bytes: Bytes, push: Push, out: &mut Routed) {
        self.arrivals += 1;
        let deadline = now.plus(if push.producer == ProducerId(0) { DEADLINE_ALONE } else { DEADLINE });
        let (arrival, push) = (self.arrivals, Arc::new(push));
        let batch = Batch { request, arrival, bytes, push, deadline, is_in_doubt: false };
        let batch = self.refuse_behind_gaps(batch, out);
        let rest = self.dispatch(batch, out, |router, vbucket| {
            let lane = router.lane(vbucket);
            match lane.pinned {
                _ if lane.waiting > 0 => None,
                Some(pinned) => Some(pinned),
                None => router.leaders.get(usize::from(vbucket.0)).copied().flatten(),
            }
        });
        if let Some(rest) = rest {
            self.wait(rest);
        }
    }

    /// Takes nothing of a request, because there is no room for it. What its producer pushes behind it is refused until
    /// it comes again.
    pub fn refuse(&mut self, request: u64, push: Push, reason: &str, out: &mut Routed) {
        let kind = ExceptionKind::Rejected { code: ErrorCode::Overloaded, reason: reason.to_owned() };
        let exceptions: Vec<Exception> =
            push.entries.iter().map(|entry| Exception { index: entry.index, kind: kind.clone() }).collect();
        self.arrivals += 1;
        let (arrival, push) = (self.arrivals, Arc::new(push));
        let (deadline, is_in_doubt) = (Timestamp::default(), false);
        let batch = Batch { request, arrival, bytes: Bytes::new(), push, deadline, is_in_doubt };
        self.note_gaps(&batch, &exceptions);
        let outcome = PartOutcome { messages: len(&batch), exceptions, positions: Vec::new() };
        out.told.push(Told { request, outcome });
    }

    /// Takes the outcome of a part. What was refused because its target does not lead goes on to whoever does.
    pub fn handle_outcome(&mut self, now: Timestamp, id: PartId, outcome: PartOutcome, out: &mut Routed) {
        let Some((_, batch)) = self.unanswered.remove(&id) else { return };
        self.answered(&batch);
        let (misdirected, mut rest): (Vec<Exception>, Vec<Exception>) =
            outcome.exceptions.into_iter().partition(|exception| is_misdirected(&exception.kind));
        if batch.is_in_doubt {
            // An earlier attempt may have stored what this one refuses.
            rest.iter_mut().for_each(doubt);
        }
        let mut entries = Vec::new();
        if !misdirected.is_empty() {
            let mut again = misdirected.iter().map(|exception| exception.index).peekable();
            let is_again = |entry: &&Entry| again.next_if(|index| *index == entry.index).is_some();
            entries.extend(batch.push.entries.iter().filter(is_again).copied());
        }
        let messages = len(&batch) - u32::try_from(entries.len()).unwrap_or_default();
        if messages > 0 {
            self.note_committed(&batch, &misdirected, &rest);
            self.note_gaps(&batch, &rest);
            let outcome = PartOutcome { messages, exceptions: rest, positions: outcome.positions };
            out.told.push(Told { request: batch.request, outcome });
        }
        if entries.is_empty() {
            return;
        }
        self.resend_at = self.resend_at.max(now.plus(PAUSE));
        self.wait(with_entries(&batch, entries, Vec::new()));
        self.handle_timeout(now, out);
    }

    /// Takes the news that a link to another process broke: what was handed to it may be stored or not. `unsent` are
    /// the parts that certainly never left.
    pub fn handle_link_down(&mut self, now: Timestamp, member: Member, unsent: &[PartId], out: &mut Routed) {
        for id in self.unanswered_at(member) {
            let Some((_, mut batch)) = self.unanswered.remove(&id) else { continue };
            self.answered(&batch);
            let is_sent = !unsent.contains(&id);
            if is_sent && batch.push.producer == ProducerId(0) {
                out.told.push(end(&batch, true, "the link to the vbucket's leader broke"));
                continue;
            }
            batch.is_in_doubt |= is_sent;
            self.wait(batch);
        }
        self.resend_at = self.resend_at.max(now.plus(PAUSE));
        self.handle_timeout(now, out);
    }

    /// Sends on what waits, where there is a leader to send it to, and gives up what has waited for too long.
    pub fn handle_timeout(&mut self, now: Timestamp, out: &mut Routed) {
        if self.waiting.is_empty() {
            return;
        }
        let may_send = now >= self.resend_at;
        // Vbuckets of which something stays behind: what comes later stays as well. And those of which something is
        // sent now: what comes later may follow to the same leader.
        let mut held = vec![false; self.vbuckets.len()];
        let mut begun = vec![false; self.vbuckets.len()];
        for batch in std::mem::take(&mut self.waiting) {
            self.no_longer_waiting(&batch);
            if now >= batch.deadline {
                let told = end(&batch, batch.is_in_doubt, "no leader took the message in time");
                self.note_gaps(&batch, &told.outcome.exceptions);
                out.told.push(told);
                continue;
            }
            // What was refused since, elsewhere, goes first.
            let batch = self.refuse_behind_gaps(batch, out);
            let rest = self.dispatch(batch, out, |router, vbucket| {
                let at = usize::from(vbucket.0);
                let (is_held, has_begun) = (held.get(at) == Some(&true), begun.get(at) == Some(&true));
                // What is unanswered elsewhere may come back and has to go first.
                let is_free = router.lane(vbucket).unanswered == 0 || has_begun;
                let leader = router.leaders.get(at).copied().flatten();
                let target = leader.filter(|_| may_send && is_free && !is_held);
                if let Some(state) = if target.is_some() { begun.get_mut(at) } else { held.get_mut(at) } {
                    *state = true;
                }
                target
            });
            if let Some(rest) = rest {
                self.wait(rest);
            }
        }
        if may_send && !self.waiting.is_empty() {
            self.resend_at = now.plus(PAUSE);
        }
    }

    /// Parts handed to a process that have no outcome.
    #[must_use]
    pub fn unanswered_at(&self, member: Member) -> Vec<PartId> {
        self.unanswered.iter().filter(|(_, (to, _))| *to == Target::Node(member)).map(|(id, _)| *id).collect()
    }

    /// Whether nothing that came here has any bearing on what comes of a producer: nothing is on its way, and nothing of
    /// its was refused.
    #[must_use]
    pub fn is_clear(&self, producer: ProducerId) -> bool {
        self.waiting.is_empty() && self.unanswered.is_empty() && !self.rows.knows(producer)
    }

    /// When [`Router::handle_timeout`] has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        (!self.waiting.is_empty()).then_some(self.resend_at)
    }

    /// Messages that wait to be sent, or sent again.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.iter().map(|batch| batch.push.entries.len()).sum()
    }

    /// Takes out of a batch what lies behind a message that was not committed.
    fn refuse_behind_gaps(&mut self, batch: Batch, out: &mut Routed) -> Batch {
        let vbuckets = self.vbuckets;
        let Some(rows) = self.rows.of(batch.push.producer) else { return batch };
        let mut exceptions = Vec::new();
        for entry in &batch.push.entries {
            let message = batch.push.message_of(entry.index);
            if message.is_some_and(|message| !rows.admit(vbuckets.vbucket_of(entry.token), message, batch.arrival)) {
                exceptions.extend(exception(entry.index, Append::OutOfSequence));
            }
        }
        if exceptions.is_empty() {
            return batch;
        }
        let mut refused = exceptions.iter().map(|exception: &Exception| exception.index).peekable();
        let is_admitted = |entry: &&Entry| refused.next_if_eq(&entry.index).is_none();
        let entries = batch.push.entries.iter().filter(is_admitted).copied().collect();
        if batch.is_in_doubt {
            exceptions.iter_mut().for_each(doubt);
        }
        // What is refused for a fence has to come again as well, before anything behind it.
        self.note_gaps(&batch, &exceptions);
        let messages = u32::try_from(exceptions.len()).unwrap_or(u32::MAX);
        let outcome = PartOutcome { messages, exceptions, positions: Vec::new() };
        out.told.push(Told { request: batch.request, outcome });
        with_entries(&batch, entries, Vec::new())
    }

    /// Notes which messages of a batch were not committed and may come again.
    fn note_gaps(&mut self, batch: &Batch, exceptions: &[Exception]) {
        let mut entries = batch.push.entries.iter();
        for Exception { index, kind } in exceptions {
            let may_come_again = match kind {
                ExceptionKind::Duplicate => false,
                ExceptionKind::Rejected { code, .. } | ExceptionKind::Unknown { code, .. } => code.is_retryable(),
            };
            let Some(entry) = entries.find(|entry| entry.index == *index).filter(|_| may_come_again) else { continue };
            if let Some(message) = batch.push.message_of(*index) {
                self.rows.break_at(self.vbuckets.vbucket_of(entry.token), message, batch.arrival);
            }
        }
    }

    /// Notes which messages of a batch are committed: should they have been refused before, nobody waits for them.
    fn note_committed(&mut self, batch: &Batch, misdirected: &[Exception], rest: &[Exception]) {
        let Some(rows) = self.rows.of(batch.push.producer) else { return };
        let is_told = |exception: &&Exception| !matches!(exception.kind, ExceptionKind::Duplicate);
        let mut left_out: Vec<u32> =
            misdirected.iter().chain(rest.iter().filter(is_told)).map(|one| one.index).collect();
        left_out.sort_unstable();
        for entry in batch.push.entries.iter().filter(|entry| left_out.binary_search(&entry.index).is_err()) {
            if let Some(message) = batch.push.message_of(entry.index) {
                rows.pass(self.vbuckets.vbucket_of(entry.token), message, batch.arrival);
            }
        }
    }

    /// Hands out those messages of a batch that `target_of` has a target for; returns the rest.
    fn dispatch(
        &mut self,
        mut batch: Batch,
        out: &mut Routed,
        mut target_of: impl FnMut(&Self, VBucketId) -> Option<(Target, Epoch)>,
    ) -> Option<Batch> {
        let mut groups = Groups::new(&batch.push.entries);
        for entry in &batch.push.entries {
            let vbucket = self.vbuckets.vbucket_of(entry.token);
            let target = target_of(self, vbucket);
            if let (Some(to), Some(lane)) = (target, self.lanes.get_mut(usize::from(vbucket.0))) {
                lane.pinned = Some(to);
                lane.unanswered += 1;
            }
            groups.add(entry, target);
        }
        let divided = match groups {
            Groups::One { to, epochs, .. } => {
                let push = Arc::make_mut(&mut batch.push);
                (push.epochs, push.rejected) = (epochs, Vec::new());
                vec![(to, batch)]
            }
            Groups::Many(groups) => {
                groups.into_iter().map(|(to, entries, epochs)| (to, with_entries(&batch, entries, epochs))).collect()
            }
        };
        let mut rest = None;
        for (target, part) in divided {
            let Some(to) = target else {
                rest = Some(part).filter(|part| !part.push.entries.is_empty());
                continue;
            };
            self.next += 1;
            let id = PartId(self.next);
            out.parts.push(Part { id, to, request: part.bytes.clone(), push: part.push.clone() });
            self.unanswered.insert(id, (to, part));
        }
        rest
    }

    fn lane(&self, vbucket: VBucketId) -> Lane {
        self.lanes.get(usize::from(vbucket.0)).copied().unwrap_or_default()
    }

    fn answered(&mut self, batch: &Batch) {
        for entry in &batch.push.entries {
            let vbucket = self.vbuckets.vbucket_of(entry.token);
            if let Some(lane) = self.lanes.get_mut(usize::from(vbucket.0)) {
                lane.unanswered -= 1;
                if lane.unanswered == 0 {
                    lane.pinned = None;
                }
            }
        }
    }

    fn wait(&mut self, batch: Batch) {
        for entry in &batch.push.entries {
            let vbucket = self.vbuckets.vbucket_of(entry.token);
            if let Some(lane) = self.lanes.get_mut(usize::from(vbucket.0)) {
                lane.waiting += 1;
            }
        }
        // What came first goes first, also when it comes back later.
        let at = self.waiting.partition_point(|other| other.arrival <= batch.arrival);
        self.waiting.insert(at, batch);
    }

    fn no_longer_waiting(&mut self, batch: &Batch) {
        for entry in &batch.push.entries {
            let vbucket = self.vbuckets.vbucket_of(entry.token);
            if let Some(lane) = self.lanes.get_mut(usize::from(vbucket.0)) {
                lane.waiting -= 1;
            }
        }
    }
}

fn len(batch: &Batch) -> u32 {
    u32::try_from(batch.push.entries.len()).unwrap_or(u32::MAX)
}

/// The same request, with these of its messages, to be stored in these epochs.
fn with_entries(batch: &Batch, entries: Vec<Entry>, epochs: Vec<Epoch>) -> Batch {
    let Push { acks, producer, sequence, want_positions, producer_epoch, .. } = *batch.push;
    let push = Push { entries, epochs, rejected: Vec::new(), acks, producer, sequence, want_positions, producer_epoch };
    Batch { push: Arc::new(push), bytes: batch.bytes.clone(), ..*batch }
}

/// Whether a message was refused because its target does not lead its vbucket: it certainly was not stored.
fn is_misdirected(kind: &ExceptionKind) -> bool {
    matches!(kind, ExceptionKind::Rejected { code: ErrorCode::NotLeader | ErrorCode::ShuttingDown, .. })
}

/// Takes back the certainty that a message was not stored.
fn doubt(exception: &mut Exception) {
    if let ExceptionKind::Rejected { code, reason } = &mut exception.kind {
        let (code, reason) = (*code, std::mem::take(reason));
        exception.kind = ExceptionKind::Unknown { code, reason };
    }
}

/// The outcome of messages that are sent no more.
fn end(batch: &Batch, is_in_doubt: bool, reason: &str) -> Told {
    let (code, reason) = (ErrorCode::NotLeader, reason.to_owned());
    let kind = match is_in_doubt {
        true => ExceptionKind::Unknown { code, reason },
        false => ExceptionKind::Rejected { code, reason },
    };
    let exceptions = batch.push.entries.iter().map(|entry| Exception { index: entry.index, kind: kind.clone() });
    let outcome = PartOutcome { messages: len(batch), exceptions: exceptions.collect(), positions: Vec::new() };
    Told { request: batch.request, outcome }
}
