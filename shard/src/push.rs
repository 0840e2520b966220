//! Storing pushed messages.

use std::sync::Arc;

use broky_proto::frame::PREFIX_LEN;
use broky_proto::id::{Epoch, Offset, VBucketCount, VBucketId};
use broky_proto::limits::DELIVERY_BYTES_MAX;
use broky_proto::v1::{self, Acks, ErrorCode};
use broky_proto::wire::{self, Push, Stored, stored_len_max};
use broky_replication::{Append, Replica};

use crate::config::ShardId;
use crate::open_block::{Source, Waiter};
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
        let owns_all = self.config.shards == 1;
        for (at, entry) in push.entries.iter().enumerate() {
            let vbucket = self.config.vbuckets.vbucket_of(entry.token);
            if owns_all || self.config.owns(vbucket) {
                let set = self.writers.set_of(vbucket);
                if self.writers.open(set).len() + stored_len_max(entry.message.len as usize) > DELIVERY_BYTES_MAX {
                    self.flush(out);
                }
                storing.outcome.messages += 1;
                match push.epochs.get(at) {
                    Some(epoch) if !self.leads_in(vbucket, *epoch) => {
                        self.stats.rejected_messages += 1;
                        storing.outcome.exceptions.extend(exception(entry.index, Append::NotLeader));
                    }
                    Some(_) | None => self.store(&mut storing, entry, vbucket, set),
                }
            }
        }
        match reply {
            Some(key) => self.replies.settle(key, storing.outcome, &mut out.replies),
            None => out.replies.push(Reply { ticket, outcome: storing.outcome }),
        }
    }

    /// Whether this shard leads a vbucket in this very epoch.
    fn leads_in(&self, vbucket: VBucketId, epoch: Epoch) -> bool {
        let leader = self.replica(vbucket).and_then(Replica::leader);
        leader.is_some_and(|leader| leader.epoch() == epoch)
    }

    /// Makes room for a request in the blocks of all sets it touches.
    fn make_room_for(&mut self, request: &[u8], push: &Push, out: &mut Outbox) -> Result<(), Arc<str>> {
        if self.writers.len() == 1 {
            return self.make_room(SetId::default(), room_needed(request.len(), push.entries.len()), out);
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

    /// Stores one message.
    #[inline]
    fn store(&mut self, storing: &mut Storing<'_>, entry: &wire::Entry, vbucket: VBucketId, set: SetId) {
        let Storing { push, outcome, .. } = storing;
        let Some(Some(replica)) = self.replicas.get_mut(usize::from(vbucket.0)) else {
            outcome.exceptions.extend(exception(entry.index, Append::NotLeader));
            self.stats.rejected_messages += 1;
            return;
        };
        let sequence = push.sequence.plus(u64::from(entry.index));
        let producer = (push.producer.0 != 0).then_some((push.producer, sequence));
        let append = replica.append(producer);
        outcome.exceptions.extend(exception(entry.index, append));
        match append {
            Append::Stored(offset) => {
                if push.want_positions {
                    note_position(outcome, entry.index, vbucket, replica, offset);
                }
                let epoch = replica.epoch();
                let stored = Stored { crc32: entry.crc32, ts_broker: storing.now_unix_ns, epoch, vbucket, offset };
                let open = self.writers.open(set);
                if let Some(reply) = storing.reply {
                    let waiter = Waiter { reply, duplicate: None };
                    if open.waiting.last() != Some(&waiter) {
                        open.waiting.push(waiter);
                        self.replies.wait(reply);
                    }
                }
                let source = Source { producer: push.producer, sequence, index: entry.index, reply: storing.reply };
                open.append(entry, entry.message.of(storing.request), &stored, source);
                self.stats.pushed_messages += 1;
            }
            Append::Duplicate(offset) => {
                if let Some(offset) = offset.filter(|_| push.want_positions) {
                    note_position(outcome, entry.index, vbucket, replica, offset);
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
        for entry in &push.entries {
            let vbucket = self.config.vbuckets.vbucket_of(entry.token);
            if !self.config.owns(vbucket) {
                continue;
            }
            if let Some(Some(replica)) = self.replicas.get_mut(usize::from(vbucket.0))
                && push.producer.0 != 0
            {
                let sequence = push.sequence.plus(u64::from(entry.index));
                replica.refuse((push.producer, sequence));
            }
            self.stats.rejected_messages += 1;
            let kind = ExceptionKind::Rejected { code: ErrorCode::Overloaded, reason: reason.to_string() };
            exceptions.push(Exception { index: entry.index, kind });
        }
        let messages = u32::try_from(exceptions.len()).unwrap_or(u32::MAX);
        PartOutcome { messages, exceptions, positions: Vec::new() }
    }
}

/// Room for every message of a request with its broker-assigned fields, and for the prefix of each block it may take.
fn room_needed(bytes: usize, messages: usize) -> usize {
    let bytes = bytes + messages * stored_len_max(0);
    bytes + PREFIX_LEN * (1 + bytes / (DELIVERY_BYTES_MAX / 2))
}

fn note_position(outcome: &mut PartOutcome, index: u32, vbucket: VBucketId, replica: &Replica, offset: Offset) {
    let epoch = replica.epoch_at(offset).0;
    if let Some(last) = outcome.positions.last_mut()
        && last.epoch == epoch
        && last.first + last.count == index
        && last.vbucket == u32::from(vbucket.0)
        && last.offset + u64::from(last.count) == offset.0
    {
        last.count += 1;
        return;
    }
    outcome.positions.push(v1::Position {
        first: index,
        count: 1,
        vbucket: u32::from(vbucket.0),
        lineage: replica.log().lineage().0,
        epoch,
        offset: offset.0,
    });
}
