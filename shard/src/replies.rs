//! Replies that wait: each until every block that holds something of its request is committed.

use broky_proto::v1::ErrorCode;
use slab::Slab;

use crate::outbox::Reply;
use crate::outbox::Ticket;
use crate::outcome::{Exception, ExceptionKind, PartOutcome};

/// A waiting reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReplyKey(usize);

#[derive(Debug)]
struct Held {
    reply: Reply,
    /// Blocks to come, and one while the request is being stored.
    waits: u32,
}

/// All waiting replies of a shard.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    table: Slab<Held>,
}

impl Replies {
    /// Begins a reply; it waits at least until [`Replies::settle`].
    pub(crate) fn begin(&mut self, ticket: Ticket) -> ReplyKey {
        ReplyKey(self.table.insert(Held { reply: Reply { ticket, outcome: PartOutcome::default() }, waits: 1 }))
    }

    /// Lets a reply wait for one more block.
    pub(crate) fn wait(&mut self, key: ReplyKey) {
        if let Some(held) = self.table.get_mut(key.0) {
            held.waits += 1;
        }
    }

    /// Adds what is known of the outcome, and ends the wait that `begin` began.
    pub(crate) fn settle(&mut self, key: ReplyKey, outcome: PartOutcome, replies: &mut Vec<Reply>) {
        if let Some(held) = self.table.get_mut(key.0) {
            held.reply.outcome.exceptions.extend(outcome.exceptions);
            held.reply.outcome.positions = outcome.positions;
            held.reply.outcome.messages = outcome.messages;
        }
        self.done(key, replies);
    }

    /// Ends the wait for one block.
    pub(crate) fn done(&mut self, key: ReplyKey, replies: &mut Vec<Reply>) {
        let Some(held) = self.table.get_mut(key.0) else { return };
        held.waits -= 1;
        if held.waits == 0 {
            let mut reply = self.table.remove(key.0).reply;
            reply.outcome.exceptions.sort_unstable_by_key(|exception| exception.index);
            replies.push(reply);
        }
    }

    /// Notes that nobody can tell any more what becomes of these messages of a request.
    pub(crate) fn lose(&mut self, key: ReplyKey, first: u32, count: u32) {
        let Some(held) = self.table.get_mut(key.0) else { return };
        let reason = "the vbucket's leader changed before the message was committed";
        let kind = ExceptionKind::Unknown { code: ErrorCode::NotLeader, reason: reason.to_owned() };
        let lost = first..first.saturating_add(count);
        // What was said of them before, that an earlier attempt had stored them, holds no longer.
        held.reply.outcome.exceptions.retain(|exception| !lost.contains(&exception.index));
        let unknown = lost.map(|index| Exception { index, kind: kind.clone() });
        held.reply.outcome.exceptions.extend(unknown);
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }
}
