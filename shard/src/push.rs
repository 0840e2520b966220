//! Storing pushed messages.

use std::sync::Arc;

use broky_proto::frame::PREFIX_LEN;
use broky_proto::id::{Offset, VBucketCount, VBucketId};
use broky_proto::limits::DELIVERY_BYTES_MAX;
use broky_proto::v1::{self, Acks, ErrorCode};
use broky_proto::wire::{self, Push, Stored, stored_len_max};
use broky_replication::{Append, Replica};

use crate::config::ShardId;
use crate::outbox::{Outbox, Reply, Ticket};
use crate::outcome::{Exception, ExceptionKind, PartOutcome, exception};
use crate::shard::Shard;

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

impl Shard {
    /// Stores the messages of a scanned request that this shard owns.
    ///
    /// `request` are the bytes that were scanned. The outcome goes to `out.replies` under `ticket`: now, or when
    /// [`Shard::flush`] commits the block, as `push.acks` asks for. `now_unix_ns` is the wall clock.
    pub fn push(&mut self, now_unix_ns: i64, request: &[u8], push: &Push, ticket: Ticket, out: &mut Outbox) {
        let need = room_needed(request, push);
        if let Err(refusal) = self.make_room(need, out) {
            let outcome = self.refuse(push, &refusal);
            out.replies.push(Reply { ticket, outcome });
            return;
        }
        let mut outcome = PartOutcome::default();
        let owns_all = self.config.shards == 1;
        let mut is_any_held = false;
        for entry in &push.entries {
            let vbucket = self.config.vbuckets.vbucket_of(entry.token);
            if owns_all || self.config.owns(vbucket) {
                if self.open.len() + stored_len_max(entry.message.len as usize) > DELIVERY_BYTES_MAX {
                    self.flush(out);
                }
                is_any_held |= self.store(now_unix_ns, request, push, entry, vbucket, &mut outcome);
            }
        }
        let reply = Reply { ticket, outcome };
        match push.acks {
            Acks::Committed if is_any_held => self.reply_when_committed(reply, out),
            Acks::Committed | Acks::Leader | Acks::None => out.replies.push(reply),
        }
    }

    /// Keeps a reply until everything stored so far is committed: also that which an earlier attempt stored.
    fn reply_when_committed(&mut self, reply: Reply, out: &mut Outbox) {
        if !self.open.is_empty() {
            self.open.waiting.push(reply);
        } else if let Some(last) = self.uncommitted.back_mut() {
            last.waiting.push(reply);
        } else {
            out.replies.push(reply);
        }
    }

    /// Stores one message; returns whether the log holds it, from now or from an earlier attempt.
    #[inline]
    fn store(
        &mut self,
        now_unix_ns: i64,
        request: &[u8],
        push: &Push,
        entry: &wire::Entry,
        vbucket: VBucketId,
        outcome: &mut PartOutcome,
    ) -> bool {
        let Some(Some(replica)) = self.replicas.get_mut(usize::from(vbucket.0)) else {
            outcome.exceptions.extend(exception(entry.index, Append::NotLeader));
            return false;
        };
        let producer = (push.producer.0 != 0).then(|| (push.producer, push.sequence.plus(u64::from(entry.index))));
        let append = replica.append(producer);
        outcome.exceptions.extend(exception(entry.index, append));
        match append {
            Append::Stored(offset) => {
                if push.want_positions {
                    note_position(outcome, entry.index, vbucket, replica, offset);
                }
                let epoch = replica.epoch();
                let stored = Stored { crc32: entry.crc32, ts_broker: now_unix_ns, epoch, vbucket, offset };
                self.open.append(entry, entry.message.of(request), &stored);
                self.stats.pushed_messages += 1;
                true
            }
            Append::Duplicate(offset) => {
                if let Some(offset) = offset.filter(|_| push.want_positions) {
                    note_position(outcome, entry.index, vbucket, replica, offset);
                }
                self.stats.duplicate_messages += 1;
                true
            }
            Append::OutOfSequence | Append::Forgotten | Append::NotEnoughReplicas | Append::NotLeader => {
                self.stats.rejected_messages += 1;
                false
            }
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
        PartOutcome { exceptions, positions: Vec::new() }
    }
}

/// Room for every message of a request with its broker-assigned fields, and for the prefix of each block it may take.
fn room_needed(request: &[u8], push: &Push) -> usize {
    let bytes = request.len() + push.entries.len() * stored_len_max(0);
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
