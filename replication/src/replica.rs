//! One replica of one vbucket: its log, its role, its producers.

use broky_proto::id::{Epoch, Lineage, Member, Numbered, Offset, ProducerId};

use crate::dedup::{Dedup, ProducerState, SequenceRun, Verdict};
use crate::epoch::EpochHistory;
use crate::follower::{AcceptError, AttachError, Attachment, Following, LogSummary};
use crate::leader::{Isr, Leader};
use crate::log::Log;

/// What a replica is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// Takes pushes.
    Leader(Leader),
    /// Takes what the leader sends; in sync or catching up, which only the leader tells apart.
    Follower(Following),
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

    /// Takes the lead of `epoch`. Everything up to the log's end is kept and re-committed under the new epoch: it may
    /// have been committed, and the news of that not have come.
    ///
    /// # Panics
    /// When `epoch` is not above every epoch of the log.
    pub fn lead(&mut self, epoch: Epoch, me: Member, isr: Isr) {
        self.epochs.begin(epoch, self.log.end());
        // Planted: retries of what the leader before has stored are new to this one.
        if cfg!(feature = "bug-forget-producers") {
            self.dedup = Dedup::default();
        }
        self.role = Role::Leader(Leader::new(epoch, me, self.log.end(), isr));
    }

    /// Follows the leader of `epoch`. Takes nothing before [`Replica::attach`].
    pub fn follow(&mut self, epoch: Epoch, leader: Member) {
        self.role = Role::Follower(Following { epoch, leader, is_attached: false });
    }

    /// Lays the role down: whoever leads is not known, or this replica is not wanted any more.
    pub fn rest(&mut self) {
        self.role = Role::Idle;
    }

    /// What a leader needs to know of this replica's log.
    #[must_use]
    pub fn summary(&self) -> LogSummary {
        let (lineage, start, end) = (self.log.lineage(), self.log.start(), self.log.end());
        LogSummary { lineage, start, end, epochs: self.epochs.clone() }
    }

    /// Where a follower with this log has to go on so that it becomes a copy of this one.
    #[must_use]
    pub fn attachment(&self, follower: &LogSummary) -> Attachment {
        let start = self.log.start();
        if follower.lineage != self.log.lineage() {
            return Attachment::Restart { start };
        }
        // Without an epoch in common they agree below the follower's start all the same: what lay there was committed,
        // as nothing else is evicted, and whoever leads a history has all that is committed of it.
        let common = self.epochs.common_end(self.log.end(), &follower.epochs, follower.end).or(Some(follower.start));
        match common {
            Some(to) if to >= start && to >= follower.start && to <= self.log.end() => Attachment::Keep { to },
            Some(_) | None => Attachment::Restart { start },
        }
    }

    /// Attaches to the leader of `epoch`: cuts off what is not the leader's, and takes messages from now on.
    ///
    /// Producers whose latest messages were cut off may be forgotten altogether, so the leader sends what it knows of
    /// producers before this replica can be in sync ([`Replica::restore_producers`]).
    ///
    /// # Errors
    /// See [`AttachError`]; nothing changed.
    pub fn attach(&mut self, epoch: Epoch, lineage: Lineage, attachment: Attachment) -> Result<(), AttachError> {
        let Role::Follower(following) = &mut self.role else {
            return Err(AttachError::OtherEpoch { asked: epoch, known: Epoch::default() });
        };
        if following.epoch != epoch {
            return Err(AttachError::OtherEpoch { asked: epoch, known: following.epoch });
        }
        if self.log.lineage() != lineage {
            return Err(AttachError::OtherLineage { asked: lineage, known: self.log.lineage() });
        }
        let (next, high_watermark) = (attachment.next(), self.log.high_watermark());
        if next < high_watermark {
            return Err(AttachError::Diverged { next, high_watermark });
        }
        let end = self.log.end();
        if matches!(attachment, Attachment::Keep { .. }) && next > end {
            return Err(AttachError::Short { next, end });
        }
        following.is_attached = true;
        match attachment {
            Attachment::Keep { to } => {
                // Planted: what is not known to be committed is cut off, though the leader has it (KIP-101).
                self.log.truncate(if cfg!(feature = "bug-truncate-by-hw") { high_watermark } else { to });
                self.epochs.truncate(self.log.end());
            }
            // What is committed here ends where the leader's log starts: nothing is missing between.
            Attachment::Restart { start } if start == high_watermark => {
                self.log.truncate(high_watermark);
                self.epochs.truncate(high_watermark);
            }
            Attachment::Restart { start } => {
                self.log.truncate(high_watermark);
                self.log.skip_to(start);
                self.epochs.clear();
            }
        }
        self.dedup.truncate(self.log.end());
        Ok(())
    }

    /// Detaches: nothing is taken before the logs were compared again.
    pub fn detach(&mut self) {
        if let Role::Follower(following) = &mut self.role {
            following.is_attached = false;
        }
    }

    /// Takes `count` messages from `first` on, which were stored in `epoch`, from the leader of `leader_epoch`.
    ///
    /// # Errors
    /// See [`AcceptError`]; nothing changed.
    pub fn accept(&mut self, leader_epoch: Epoch, first: Offset, count: u64, epoch: Epoch) -> Result<(), AcceptError> {
        match &self.role {
            Role::Follower(following) if following.is_attached && following.epoch == leader_epoch => {}
            Role::Follower(_) | Role::Leader(_) | Role::Idle => {
                return Err(AcceptError::NotAttached { asked: leader_epoch });
            }
        }
        let end = self.log.end();
        if first != end {
            return Err(AcceptError::Hole { first, end });
        }
        let last = self.epochs.latest().unwrap_or_default();
        if epoch < last || epoch > leader_epoch {
            return Err(AcceptError::EpochOrder { epoch, last, leader: leader_epoch });
        }
        if epoch > last {
            self.epochs.begin(epoch, end);
        }
        self.log.extend(count);
        Ok(())
    }

    /// Takes back what was just accepted from `to` on: it could not be stored.
    pub fn retract(&mut self, to: Offset) {
        self.log.truncate(to);
        self.epochs.truncate(to);
    }

    /// Notes on a follower that everything below `to` is committed. Returns whether the high watermark moved.
    pub fn commit_to(&mut self, to: Offset) -> bool {
        match &self.role {
            Role::Follower(_) => self.log.commit(to),
            Role::Leader(_) | Role::Idle => false,
        }
    }

    /// Notes on a follower that a producer's messages are among those accepted.
    pub fn note_producer(&mut self, producer: ProducerId, run: SequenceRun) {
        self.dedup.replicated(producer, run, self.log.high_watermark());
    }

    /// Takes over what the leader knows of producers.
    pub fn restore_producers(&mut self, states: Vec<ProducerState>, has_forgotten: bool) {
        self.dedup.restore(states, has_forgotten);
    }

    /// The leader that this replica is, to change what it knows of the others.
    pub fn leader_mut(&mut self) -> Option<&mut Leader> {
        match &mut self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower(_) | Role::Idle => None,
        }
    }

    /// The leader that this replica is.
    #[must_use]
    pub fn leader(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower(_) | Role::Idle => None,
        }
    }

    /// Offers a message. It has no name when it is not to be deduplicated.
    #[inline]
    pub fn append(&mut self, message: Option<Numbered>) -> Append {
        let Role::Leader(leader) = &self.role else { return Append::NotLeader };
        if let Some(message) = message {
            match self.dedup.check(message) {
                Verdict::New => {}
                Verdict::Duplicate(offset) => {
                    self.dedup.came_again(message);
                    return Append::Duplicate(offset);
                }
                Verdict::OutOfSequence => {
                    self.dedup.refused(message, self.log.end());
                    return Append::OutOfSequence;
                }
                Verdict::Forgotten => {
                    self.dedup.came_again(message);
                    return Append::Forgotten;
                }
            }
        }
        if leader.is_frozen() || !leader.has_offsets(self.log.end()) {
            if let Some(message) = message {
                self.dedup.refused(message, self.log.end());
            }
            return Append::NotEnoughReplicas;
        }
        let offset = self.log.extend(1);
        if let Some(message) = message {
            self.dedup.stored(message, 1, offset, self.log.high_watermark());
        }
        Append::Stored(offset)
    }

    /// Offers messages whose sequences follow one another. Returns the offset of the first if all are stored; otherwise
    /// nothing has happened, and [`Replica::append`] tells what is to become of each.
    #[inline]
    pub fn append_run(&mut self, first: Option<Numbered>, count: u64) -> Option<Offset> {
        let Role::Leader(leader) = &self.role else { return None };
        let last = self.log.end().plus(count.checked_sub(1)?);
        if leader.is_frozen() || !leader.has_offsets(last) {
            return None;
        }
        if let Some(first) = first {
            if !self.dedup.is_frontier(first) {
                return None;
            }
            self.dedup.stored(first, count, self.log.end(), self.log.high_watermark());
        }
        Some(self.log.extend(count))
    }

    /// Notes that a message was refused before it was offered, and may be pushed again: what follows it has to wait.
    pub fn refuse(&mut self, message: Numbered) {
        match self.dedup.check(message) {
            Verdict::New | Verdict::OutOfSequence => self.dedup.refused(message, self.log.end()),
            Verdict::Duplicate(_) | Verdict::Forgotten => {}
        }
    }

    /// Notes that a message was refused before this replica led, and comes again: what follows it has to wait for that.
    pub fn refused_before(&mut self, message: Numbered) {
        self.dedup.refused_before(message, self.log.end());
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

    /// Forgets committed messages below `to`, which have left the memory.
    ///
    /// # Panics
    /// When `to` lies above the high watermark.
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

    /// The epoch in which the message at `offset` was stored; `None` when that has left the memory.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Option<Epoch> {
        self.epochs.epoch_at(offset)
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
#[path = "replica_tests.rs"]
mod tests;
