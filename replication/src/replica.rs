//! One replica of one vbucket: its log, its role, its producers.

use broky_proto::id::{Epoch, Lineage, Member, Offset, ProducerId, Sequence};

use crate::dedup::{Dedup, Verdict};
use crate::epoch::EpochHistory;
use crate::leader::Leader;
use crate::log::Log;

/// What a replica is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// Takes pushes.
    Leader(Leader),
    /// Holds no role: it takes nothing.
    Idle,
}

/// What became of a message offered to a leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Append {
    /// Stored at this offset, not yet committed.
    Stored(Offset),
    /// An earlier attempt stored it; where, if that is known.
    Duplicate(Option<Offset>),
    /// Not stored: see [`Verdict::OutOfSequence`]. Retry after what was refused before it.
    OutOfSequence,
    /// Stored before, or never: what was known of the producer has been forgotten.
    Forgotten,
    /// Not stored: the ISR is too small. Retry later.
    NotEnoughReplicas,
    /// Not stored: this replica does not lead. Retry at the leader.
    NotLeader,
}

/// One replica of one vbucket.
#[derive(Clone, Debug)]
pub struct Replica {
    log: Log,
    epochs: EpochHistory,
    dedup: Dedup,
    role: Role,
}

impl Replica {
    /// A replica without a role that holds nothing; its first message will be at `base`.
    #[must_use]
    pub fn new(lineage: Lineage, base: Offset) -> Self {
        Self {
            log: Log::new(lineage, base),
            epochs: EpochHistory::default(),
            dedup: Dedup::default(),
            role: Role::Idle,
        }
    }

    /// Takes the lead. Everything up to the log's end is kept and re-committed under the new epoch.
    ///
    /// # Panics
    /// When the leader's epoch is not above every epoch of the log.
    pub fn lead(&mut self, leader: Leader) {
        self.epochs.begin(leader.epoch(), self.log.end());
        self.role = Role::Leader(leader);
    }

    /// Offers a message. `producer` is `None` when it is not to be deduplicated.
    #[inline]
    pub fn append(&mut self, producer: Option<(ProducerId, Sequence)>) -> Append {
        let Role::Leader(leader) = &self.role else { return Append::NotLeader };
        if let Some((id, sequence)) = producer {
            match self.dedup.check(id, sequence) {
                Verdict::New => {}
                Verdict::Duplicate(offset) => return Append::Duplicate(offset),
                Verdict::OutOfSequence => return Append::OutOfSequence,
                Verdict::Forgotten => return Append::Forgotten,
            }
        }
        if leader.is_frozen() {
            if let Some((id, sequence)) = producer {
                self.dedup.refused(id, sequence, self.log.end());
            }
            return Append::NotEnoughReplicas;
        }
        let offset = self.log.extend(1);
        if let Some((id, sequence)) = producer {
            self.dedup.stored(id, sequence, offset);
        }
        Append::Stored(offset)
    }

    /// Notes that a message was refused before it was offered, and may be pushed again: what follows it has to wait.
    pub fn refuse(&mut self, (id, sequence): (ProducerId, Sequence)) {
        if self.dedup.check(id, sequence) == Verdict::New {
            self.dedup.refused(id, sequence, self.log.end());
        }
    }

    /// Commits what the ISR allows. Returns whether the high watermark moved.
    pub fn advance_high_watermark(&mut self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        leader.committable(self.log.end()).is_some_and(|to| self.log.commit(to))
    }

    /// Takes a follower's acknowledgement. Returns whether the high watermark moved.
    pub fn handle_ack(&mut self, member: Member, log_end: Offset) -> bool {
        let Role::Leader(leader) = &mut self.role else { return false };
        leader.handle_ack(member, log_end) && self.advance_high_watermark()
    }

    /// Forgets committed messages below `to`.
    pub fn evict(&mut self, to: Offset) {
        self.log.evict(to);
        self.epochs.evict(self.log.start());
    }

    /// The log's bounds.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The epoch in which messages are stored now.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epochs.latest().unwrap_or_default()
    }

    /// The epoch in which the message at `offset` was stored.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Epoch {
        self.epochs.epoch_at(offset).unwrap_or_else(|| self.epoch())
    }

    /// What this replica is for.
    #[must_use]
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// Forgets the producer unused for longest. Returns whether there was one.
    pub fn forget_producer(&mut self) -> bool {
        self.dedup.forget_oldest()
    }

    /// The producers it knows.
    #[must_use]
    pub fn dedup(&self) -> &Dedup {
        &self.dedup
    }

    /// Fails when the replica contradicts itself.
    pub fn check_invariants(&self) {
        self.log.check_invariants();
        if let Role::Leader(leader) = &self.role {
            assert_eq!(self.epochs.latest(), Some(leader.epoch()), "a leader writes under its own epoch");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::Follower;
    use broky_proto::id::{Incarnation, NodeId};

    fn member(node: u32) -> Member {
        Member { node: NodeId(node), incarnation: Incarnation(1) }
    }

    fn leading(followers: &[u32], min_isr: usize) -> Replica {
        let mut replica = Replica::new(Lineage(1), Offset::ZERO);
        let followers = followers.iter().map(|node| Follower { id: member(*node), log_end: Offset::ZERO }).collect();
        replica.lead(Leader::new(Epoch(1), member(0), followers, min_isr));
        replica
    }

    #[test]
    fn lone_leader_commits_through_the_same_high_watermark() {
        let mut replica = leading(&[], 1);
        assert_eq!(replica.append(None), Append::Stored(Offset(0)));
        assert!(!replica.log().is_committed());
        assert!(replica.advance_high_watermark());
        assert!(replica.log().is_committed());
        replica.check_invariants();
    }

    #[test]
    fn follower_ack_commits() {
        let mut replica = leading(&[1], 2);
        replica.append(None);
        assert!(!replica.advance_high_watermark());
        assert!(replica.handle_ack(member(1), Offset(1)));
        assert_eq!(replica.log().high_watermark(), Offset(1));
    }

    #[test]
    fn frozen_leader_refuses_before_it_appends() {
        let mut replica = leading(&[], 2);
        let first = Some((ProducerId(7), Sequence(1)));
        assert_eq!(replica.append(first), Append::NotEnoughReplicas);
        assert_eq!(replica.log().end(), Offset::ZERO);
        assert_eq!(replica.append(Some((ProducerId(7), Sequence(2)))), Append::OutOfSequence);
    }

    #[test]
    fn retry_is_stored_once() {
        let mut replica = leading(&[], 1);
        let push = Some((ProducerId(7), Sequence(1)));
        assert_eq!(replica.append(push), Append::Stored(Offset(0)));
        assert_eq!(replica.append(push), Append::Duplicate(Some(Offset(0))));
        assert_eq!(replica.log().end(), Offset(1));
    }

    #[test]
    fn replica_without_a_role_takes_nothing() {
        assert_eq!(Replica::new(Lineage(1), Offset::ZERO).append(None), Append::NotLeader);
    }

    #[test]
    fn nothing_overtakes_a_message_refused_before_it_was_offered() {
        let mut replica = leading(&[], 1);
        replica.refuse((ProducerId(7), Sequence(1)));
        assert_eq!(replica.append(Some((ProducerId(7), Sequence(2)))), Append::OutOfSequence);
        assert_eq!(replica.append(Some((ProducerId(7), Sequence(1)))), Append::Stored(Offset(0)));
        assert_eq!(replica.append(Some((ProducerId(7), Sequence(2)))), Append::Stored(Offset(1)));
    }
}
