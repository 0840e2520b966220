//! Storing pushed messages.

use std::sync::Arc;

use broky_proto::frame::PREFIX_LEN;
use broky_proto::id::{Epoch, Offset, VBucketCount, VBucketId};
use broky_proto::limits::DELIVERY_BYTES_MAX;
use broky_proto::v1::{self, Acks, ErrorCode};
use broky_proto::wire::{self, Push, stored_len_max};
use broky_replication::{Append, Replica};

use crate::config::ShardId;
use crate::open_block::{Place, Source, Waiter};
use crate::outbox::{Outbox, Reply, Ticket};
use crate::outcome::{Exception, ExceptionKind, PartOutcome, exception};
use crate::replies::ReplyKey;
use crate::shard::Shard;
use crate::writers::SetId;

/// The shards that own messages of a request, ascending.
#[must_use]
pub fn shards_of(push: &Push, vbuckets: VBucketCount, shards: u16) -> Vec<ShardId> {
    if shards == 1 {
        return if push.entries.is_empty() { Vec::new() } else { vec![ShardId(0)] };
    }
    let mut owners = vec![false; usize::from(shards)];
    for entry in &push.entries {
        let owner = usize::from(vbuckets.vbucket_of(entry.token).0 % shards);
        if let Some(owner) = owners.get_mut(owner) {
            *owner = true;
        }
    }
    (0..shards).zip(owners).filter(|(_, owns)| *owns).map(|(shard, _)| ShardId(shard)).collect()
}

/// What a request has so far come to.
struct Storing<'a> {
    now_unix_ns: i64,
    request: &'a [u8],
    push: &'a Push,
    /// Who waits for its blocks; `None` when the reply does not wait.
    reply: Option<ReplyKey>,
    outcome: PartOutcome,
}

impl Shard {
    /// Stores the messages of a scanned request that this shard owns.
    ///
    /// `request` are the bytes that were scanned. The outcome goes to `out.replies` under `ticket`: now, or when the
    /// blocks that hold something of it are committed, as `push.acks` asks for. `now_unix_ns` is the wall clock.
    pub fn push(&mut self, now_unix_ns: i64, request: &[u8], push: &Push, ticket: Ticket, out: &mut Outbox) {
        if let Err(refusal) = self.make_room_for(request, push, out) {
            let outcome = self.refuse(push, &refusal);
            out.replies.push(Reply { ticket, outcome });
            return;
        }
        let reply = match push.acks {
            Acks::Committed => Some(self.replies.begin(ticket)),
            Acks::Leader | Acks::None => None,
        };
        let mut storing = Storing { now_unix_ns, request, push, reply, outcome: PartOutcome::default() };
        let mut rest = push.entries.as_slice();
        while let Some(first) = rest.first() {
            let vbucket = self.config.vbuckets.vbucket_of(first.token);
            let at = push.entries.len() - rest.len();
            let run;
            (run, rest) = rest.split_at(run_len(push, at, self.config.vbuckets));
            if self.config.owns(vbucket) {
                self.push_run(&mut storing, run, push.epochs.get(at).copied(), vbucket, out);
            }
        }
        match reply {
            Some(key) => self.replies.settle(key, storing.outcome, &mut out.replies),
            None => out.replies.push(Reply { ticket, outcome: storing.outcome }),
        }
    }

    /// Stores messages of one vbucket that follow one another in their request, to be stored in this epoch.
    #[inline]
    fn push_run(
        &mut self,
        storing: &mut Storing<'_>,
        mut run: &[wire::Entry],
        epoch: Option<Epoch>,
        vbucket: VBucketId,
        out: &mut Outbox,
    ) {
        storing.outcome.messages += u32::try_from(run.len()).unwrap_or(u32::MAX);
        if epoch.is_some_and(|epoch| !self.leads_in(vbucket, epoch)) {
            self.stats.rejected_messages += run.len() as u64;
            let epoch = epoch.unwrap_or_default();
            for entry in run {
                let is_noted = self.note_early(storing.push, entry, epoch, vbucket);
                let refused = if is_noted { exception(entry.index, Append::NotLeader) } else { Some(forgotten(entry)) };
                storing.outcome.exceptions.extend(refused);
            }
            return;
        }
        let set = self.writers.set_of(vbucket);
        while !run.is_empty() {
            let len = self.writers.open(set).len();
            let fitting = fitting(run, len);
            if fitting == 0 && len > 0 {
                self.flush(out);
                continue;
            }
            let (next, later) = run.split_at(fitting.max(1));
            if !self.store_run(storing, next, vbucket, set) {
                next.iter().for_each(|entry| self.store(storing, entry, vbucket, set));
            }
            run = later;
        }
    }

    /// Notes what is refused, if it is for an epoch that this shard has not heard of. Returns whether nothing behind it
    /// will be stored before it comes again.
    fn note_early(&mut self, push: &Push, entry: &wire::Entry, epoch: Epoch, vbucket: VBucketId) -> bool {
        let is_ahead = self.places.get(usize::from(vbucket.0)).is_some_and(|place| place.epoch < epoch);
        let message = push.message_of(entry.index).filter(|_| is_ahead);
        message.is_none_or(|message| self.early.note(vbucket, epoch, message))
    }

    /// Whether this shard leads a vbucket in this very epoch.
    fn leads_in(&self, vbucket: VBucketId, epoch: Epoch) -> bool {
        let leader = self.replica(vbucket).and_then(Replica::leader);
        leader.is_some_and(|leader| leader.epoch() == epoch)
    }

    /// Makes room for a request in the blocks of all sets it touches.
    fn make_room_for(&mut self, request: &[u8], push: &Push, out: &mut Outbox) -> Result<(), Arc<str>> {
        if let Some(set) = self.writers.only() {
            return self.make_room(set, room_needed(request.len(), push.entries.len()), out);
        }
        let mut needs: Vec<(SetId, usize, usize)> = Vec::new();
        for entry in &push.entries {
            let vbucket = self.config.vbuckets.vbucket_of(entry.token);
            if !self.config.owns(vbucket) {
                continue;
            }
            let (set, len) = (self.writers.set_of(vbucket), entry.message.len as usize);
            match needs.iter_mut().find(|need| need.0 == set) {
                Some(need) => (need.1, need.2) = (need.1 + len, need.2 + 1),
                None => needs.push((set, len, 1)),
            }
        }
        for (set, bytes, messages) in needs {
            self.make_room(set, room_needed(bytes, messages), out)?;
        }
        Ok(())
    }

    /// Stores messages that follow one another, if there is nothing to say of any of them but that it is stored.
    /// Returns whether it did; otherwise nothing has happened.
    #[inline]
    fn store_run(&mut self, storing: &mut Storing<'_>, run: &[wire::Entry], vbucket: VBucketId, set: SetId) -> bool {
        let (Some(first), Some(Some(replica))) = (run.first(), self.replicas.get_mut(usize::from(vbucket.0))) else {
            return false;
        };
        let appended = replica.append_run(storing.push.message_of(first.index), run.len() as u64);
        if let Some(offset) = appended {
            self.write(storing, run, vbucket, set, offset);
        }
        appended.is_some()
    }

    /// Stores one message, or notes why not.
    fn store(&mut self, storing: &mut Storing<'_>, entry: &wire::Entry, vbucket: VBucketId, set: SetId) {
        let Storing { push, outcome, .. } = storing;
        let Some(Some(replica)) = self.replicas.get_mut(usize::from(vbucket.0)) else {
            outcome.exceptions.extend(exception(entry.index, Append::NotLeader));
            self.stats.rejected_messages += 1;
            return;
        };
        let append = replica.append(push.message_of(entry.index));
        outcome.exceptions.extend(exception(entry.index, append));
        match append {
            Append::Stored(offset) => self.write(storing, std::slice::from_ref(entry), vbucket, set, offset),
            Append::Duplicate(offset) => {
                if let Some(offset) = offset.filter(|_| push.want_positions) {
                    note_positions(outcome, (entry.index, 1), vbucket, replica, offset);
                }
                let is_committed = replica.log().is_committed();
                self.stats.duplicate_messages += 1;
                if let Some(key) = storing.reply.filter(|_| !is_committed) {
                    self.wait_for_last_of(vbucket, set, Waiter { reply: key, duplicate: Some(entry.index) });
                }
            }
            Append::OutOfSequence | Append::Forgotten | Append::NotEnoughReplicas | Append::NotLeader => {
                self.stats.rejected_messages += 1;
            }
        }
    }

    /// Writes messages that have their offsets, from `offset` on, into the open block.
    #[inline]
    fn write(
        &mut self,
        storing: &mut Storing<'_>,
        run: &[wire::Entry],
        vbucket: VBucketId,
        set: SetId,
        offset: Offset,
    ) {
        let (Some(first), Some(Some(replica))) = (run.first(), self.replicas.get(usize::from(vbucket.0))) else {
            return;
        };
        let Storing { push, reply, now_unix_ns: ts_broker, .. } = *storing;
        let count = u32::try_from(run.len()).unwrap_or(u32::MAX);
        if push.want_positions {
            note_positions(&mut storing.outcome, (first.index, count), vbucket, replica, offset);
        }
        let open = self.writers.open(set);
        if let Some(reply) = reply {
            let waiter = Waiter { reply, duplicate: None };
            if open.waiting.last() != Some(&waiter) {
                open.waiting.push(waiter);
                self.replies.wait(reply);
            }
        }
        let sequence = push.sequence.plus(u64::from(first.index));
        let source = Source { producer: push.producer, sequence, index: first.index, reply };
        let place = Place { ts_broker, epoch: replica.epoch(), vbucket, offset };
        open.append(storing.request, run, place, source);
        self.stats.pushed_messages += u64::from(count);
    }

    /// Lets a reply wait for everything of a vbucket that is not committed: an earlier attempt's message is among it.
    fn wait_for_last_of(&mut self, vbucket: VBucketId, set: SetId, waiter: Waiter) {
        let open = self.writers.open(set);
        let waiting = if open.has(vbucket) { Some(&mut open.waiting) } else { self.pending.last_of(vbucket) };
        if let Some(waiting) = waiting {
            waiting.push(waiter);
            self.replies.wait(waiter.reply);
        }
    }

    /// Stores nothing of a request. What follows it from the same producer has to wait for its retry.
    fn refuse(&mut self, push: &Push, reason: &Arc<str>) -> PartOutcome {
        let mut exceptions = Vec::new();
        for (at, entry) in push.entries.iter().enumerate() {
            let vbucket = self.config.vbuckets.vbucket_of(entry.token);
            if !self.config.owns(vbucket) {
                continue;
            }
            if let Some(epoch) = push.epochs.get(at) {
                self.note_early(push, entry, *epoch, vbucket);
            }
            if let Some(Some(replica)) = self.replicas.get_mut(usize::from(vbucket.0))
                && let Some(message) = push.message_of(entry.index)
            {
                replica.refuse(message);
            }
            self.stats.rejected_messages += 1;
            let kind = ExceptionKind::Rejected { code: ErrorCode::Overloaded, reason: reason.to_string() };
            exceptions.push(Exception { index: entry.index, kind });
        }
        let messages = u32::try_from(exceptions.len()).unwrap_or(u32::MAX);
        PartOutcome { messages, exceptions, positions: Vec::new() }
    }
}

/// The refusal of a message for an epoch that is still to come, of which nobody here would know later that it was. Whoever
/// forwarded it has to tell its producer: it is not sent again before anything behind it.
fn forgotten(entry: &wire::Entry) -> Exception {
    let reason = "the leader waits for its role, and for too many messages to come again".to_owned();
    Exception { index: entry.index, kind: ExceptionKind::Rejected { code: ErrorCode::Overloaded, reason } }
}

/// Room for every message of a request with its broker-assigned fields, and for the prefix of each block it may take.
fn room_needed(bytes: usize, messages: usize) -> usize {
    let bytes = bytes + messages * stored_len_max(0);
    bytes + PREFIX_LEN * (1 + bytes / (DELIVERY_BYTES_MAX / 2))
}

/// How many messages from the one at `at` on go to one vbucket, in one epoch, and follow one another in the request.
#[inline]
fn run_len(push: &Push, at: usize, vbuckets: VBucketCount) -> usize {
    let Some((first, rest)) = push.entries.get(at..).and_then(<[_]>::split_first) else { return 0 };
    let vbucket = vbuckets.vbucket_of(first.token);
    let follows = |(index, next): &(u32, &wire::Entry)| {
        next.index == *index && (next.token == first.token || vbuckets.vbucket_of(next.token) == vbucket)
    };
    let followers = (first.index + 1..).zip(rest).take_while(follows).count();
    let Some((epoch, epochs)) = push.epochs.get(at..).and_then(<[_]>::split_first) else { return 1 + followers };
    1 + epochs.iter().take(followers).take_while(|next| *next == epoch).count()
}

/// How many messages find room in a block that has `len` bytes.
#[inline]
fn fitting(run: &[wire::Entry], mut len: usize) -> usize {
    let fits = |entry: &&wire::Entry| {
        len += stored_len_max(entry.message.len as usize);
        len <= DELIVERY_BYTES_MAX
    };
    run.iter().take_while(fits).count()
}

/// Notes where messages are stored that follow one another: the number of the first and how many. Of a duplicate whose
/// epoch is not known any more nothing is told.
fn note_positions(
    outcome: &mut PartOutcome,
    (first, count): (u32, u32),
    vbucket: VBucketId,
    replica: &Replica,
    offset: Offset,
) {
    let Some(Epoch(epoch)) = replica.epoch_at(offset) else { return };
    if let Some(last) = outcome.positions.last_mut()
        && last.epoch == epoch
        && last.first + last.count == first
        && last.vbucket == u32::from(vbucket.0)
        && last.offset + u64::from(last.count) == offset.0
    {
        last.count += count;
        return;
    }
    outcome.positions.push(v1::Position {
        first,
        count,
        vbucket: u32::from(vbucket.0),
        lineage: replica.log().lineage().0,
        epoch,
        offset: offset.0,
    });
}
