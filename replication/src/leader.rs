//! A leader's view of its vbucket's in-sync replicas.
//!
//! The high watermark is the smallest log end over the *maximal* ISR: the committed members, and those whose joining is
//! proposed and not yet decided. It freezes while the ISR has fewer than `min_isr` members, so that whatever is
//! committed is always held by that many. A single node is the degenerate case: the ISR is the leader itself.
//!
//! Members are (node, incarnation) pairs. An acknowledgement that names any other incarnation is ignored: a process
//! that came back empty must not be counted as the copy it once was.
//!
//! Sources: Kafka's replica manager; KIP-903; KIP-966.

use broky_proto::id::{Epoch, Member, Offset};

/// An in-sync replica other than the leader, and how far it is known to hold the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Follower {
    /// Who.
    pub id: Member,
    /// It holds everything below.
    pub log_end: Offset,
}

/// What a leader knows of its followers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leader {
    epoch: Epoch,
    me: Member,
    followers: Vec<Follower>,
    min_isr: usize,
}

impl Leader {
    /// A leader of `epoch` whose in-sync followers are `followers`.
    ///
    /// # Panics
    /// When `min_isr` is zero: nothing would ever have to be held.
    #[must_use]
    pub fn new(epoch: Epoch, me: Member, followers: Vec<Follower>, min_isr: usize) -> Self {
        assert!(min_isr > 0, "min_isr is at least one");
        Self { epoch, me, followers, min_isr }
    }

    /// The epoch this leader was elected for.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Members of the ISR, the leader among them.
    #[must_use]
    pub fn isr_len(&self) -> usize {
        1 + self.followers.len()
    }

    /// Members the ISR must have for anything to commit.
    #[must_use]
    pub fn min_isr(&self) -> usize {
        self.min_isr
    }

    /// Whether the ISR is too small for anything to commit.
    #[inline]
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.isr_len() < self.min_isr
    }

    /// Notes that `member` holds everything below `log_end`.
    ///
    /// Returns whether it was counted: members of another incarnation, strangers and steps back are not.
    pub fn handle_ack(&mut self, member: Member, log_end: Offset) -> bool {
        let Some(follower) = self.followers.iter_mut().find(|follower| follower.id == member) else { return false };
        let moved = log_end > follower.log_end;
        if moved {
            follower.log_end = log_end;
        }
        moved
    }

    /// Up to where the ISR allows to commit a log that ends at `log_end` here, or `None` while frozen.
    #[inline]
    #[must_use]
    pub fn committable(&self, log_end: Offset) -> Option<Offset> {
        if self.is_frozen() {
            return None;
        }
        Some(self.followers.iter().map(|follower| follower.log_end).fold(log_end, Offset::min))
    }

    /// The leader's own identity.
    #[must_use]
    pub fn me(&self) -> Member {
        self.me
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broky_proto::id::{Incarnation, NodeId};

    fn member(node: u32, incarnation: u64) -> Member {
        Member { node: NodeId(node), incarnation: Incarnation(incarnation) }
    }

    fn leader(followers: &[(u32, u64)], min_isr: usize) -> Leader {
        let followers =
            followers.iter().map(|(node, log_end)| Follower { id: member(*node, 1), log_end: Offset(*log_end) });
        Leader::new(Epoch(1), member(0, 1), followers.collect(), min_isr)
    }

    #[test]
    fn lone_leader_commits_what_it_holds() {
        assert_eq!(leader(&[], 1).committable(Offset(7)), Some(Offset(7)));
    }

    #[test]
    fn slowest_member_decides() {
        assert_eq!(leader(&[(1, 5), (2, 3)], 2).committable(Offset(7)), Some(Offset(3)));
    }

    #[test]
    fn nothing_commits_below_min_isr() {
        assert_eq!(leader(&[], 2).committable(Offset(7)), None);
    }

    #[test]
    fn ack_of_another_incarnation_is_ignored() {
        let mut leader = leader(&[(1, 5)], 2);
        assert!(!leader.handle_ack(member(1, 2), Offset(7)));
        assert!(leader.handle_ack(member(1, 1), Offset(6)));
        assert_eq!(leader.committable(Offset(7)), Some(Offset(6)));
    }

    #[test]
    fn late_ack_does_not_step_back() {
        let mut leader = leader(&[(1, 5)], 2);
        assert!(!leader.handle_ack(member(1, 1), Offset(4)));
        assert_eq!(leader.committable(Offset(7)), Some(Offset(5)));
    }
}
