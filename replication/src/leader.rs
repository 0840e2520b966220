//! A leader's view of its vbucket's in-sync replicas.
//!
//! The high watermark is the smallest log end over the *maximal* ISR: the committed members, and those whose joining is
//! proposed and not yet decided. A member whose leaving is proposed counts until the control plane has decided: a
//! leader that cannot reach it must not commit alone. While the committed ISR has fewer than `min_isr` members the high
//! watermark stands still, so whatever is committed is always held by that many. A single node is the degenerate case:
//! the ISR is the leader itself.
//!
//! Members are (node, incarnation) pairs. An acknowledgement that names any other incarnation is ignored: a process
//! that came back empty must not be counted as the copy it once was. What a follower holds is unknown to a new leader
//! until that follower has said so in this epoch.
//!
//! Sources: Kafka's replica manager and partition state; KIP-841; KIP-903; KIP-966.

use broky_proto::id::{Epoch, IsrVersion, Member, Offset};

/// The in-sync replicas as the control plane has committed them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Isr {
    /// Who is in sync, the leader among them.
    pub members: Vec<Member>,
    /// The compare-and-set number by which the next change is proposed.
    pub version: IsrVersion,
    /// Members without which nothing commits; at least 1.
    pub min: usize,
}

/// Another replica or learner, and how far it is known to hold the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Peer {
    id: Member,
    /// It holds everything below.
    log_end: Offset,
}

/// A change of the ISR that a leader wants committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// The epoch in which the proposer leads.
    pub epoch: Epoch,
    /// The ISR version that it goes by.
    pub expected: IsrVersion,
    /// The whole new ISR.
    pub isr: Vec<Member>,
}

/// What a leader knows of its followers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leader {
    epoch: Epoch,
    me: Member,
    /// The log's end when this epoch began: who joins must hold everything up to here.
    start: Offset,
    isr: Isr,
    /// A change that was proposed and whose outcome is not known.
    proposed: Option<Vec<Member>>,
    peers: Vec<Peer>,
    /// Offsets from here on are not this lineage's.
    limit: Offset,
}

impl Leader {
    /// A leader of `epoch` that begins where its log ends, at `start`.
    ///
    /// # Panics
    /// When `isr.min` is zero, for nothing would ever have to be held; or when the ISR lacks its leader.
    #[must_use]
    pub fn new(epoch: Epoch, me: Member, start: Offset, isr: Isr) -> Self {
        assert!(isr.min > 0, "min_isr is at least one");
        assert!(isr.members.contains(&me), "the ISR {:?} lacks its leader {me}", isr.members);
        Self { epoch, me, start, isr, proposed: None, peers: Vec::new(), limit: Offset(u64::MAX) }
    }

    /// The epoch this leader was elected for.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The leader's own identity.
    #[must_use]
    pub fn me(&self) -> Member {
        self.me
    }

    /// The committed in-sync replicas.
    #[must_use]
    pub fn isr(&self) -> &Isr {
        &self.isr
    }

    /// Whether the ISR is too small for anything to commit.
    #[inline]
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.isr.members.len() < self.isr.min
    }

    /// Takes the first offset that is not reserved for this lineage.
    pub fn set_limit(&mut self, limit: Offset) {
        self.limit = limit;
    }

    /// Whether a log that ends at `log_end` may grow.
    #[inline]
    pub(crate) fn has_offsets(&self, log_end: Offset) -> bool {
        log_end < self.limit
    }

    /// Takes what the control plane has committed. Whatever was proposed is decided by that.
    ///
    /// Returns whether it was news.
    ///
    /// # Panics
    /// When the ISR lacks its leader.
    pub fn handle_isr(&mut self, isr: Isr) -> bool {
        if isr.version < self.isr.version || isr == self.isr {
            return false;
        }
        assert!(isr.members.contains(&self.me), "the ISR {:?} lacks its leader {}", isr.members, self.me);
        if isr.version > self.isr.version {
            self.proposed = None;
        }
        self.isr = isr;
        true
    }

    /// Notes that `member` holds everything below `log_end`, and nothing from there on.
    ///
    /// Returns whether that moved it forward. A step back happens only when a member that joined as a learner begins
    /// anew, and never while it counts.
    pub fn handle_ack(&mut self, member: Member, log_end: Offset) -> bool {
        match self.peers.iter_mut().find(|peer| peer.id == member) {
            Some(peer) if log_end <= peer.log_end => false,
            Some(peer) => {
                peer.log_end = log_end;
                true
            }
            None => {
                self.peers.push(Peer { id: member, log_end });
                true
            }
        }
    }

    /// Forgets a peer: its process is gone, or it holds no copy any more.
    pub fn forget(&mut self, member: Member) {
        self.peers.retain(|peer| peer.id != member);
    }

    /// How far a peer is known to hold the log.
    #[must_use]
    pub fn log_end_of(&self, member: Member) -> Option<Offset> {
        self.peers.iter().find(|peer| peer.id == member).map(|peer| peer.log_end)
    }

    /// Up to where the ISR allows to commit a log that ends at `log_end` here, or `None` while that cannot be said.
    #[inline]
    #[must_use]
    pub fn committable(&self, log_end: Offset) -> Option<Offset> {
        if self.is_frozen() {
            return None;
        }
        // Planted: the leader's own copy is enough.
        if cfg!(feature = "bug-ack-before-isr") {
            return Some(log_end);
        }
        let mut least = log_end;
        for member in self.maximal() {
            if member != self.me {
                least = least.min(self.log_end_of(member)?);
            }
        }
        Some(least)
    }

    /// Members that count for the high watermark.
    fn maximal(&self) -> impl Iterator<Item = Member> {
        let joining = self.proposed.iter().flatten().filter(|member| !self.isr.members.contains(member));
        self.isr.members.iter().chain(joining).copied()
    }

    /// Whether `member` holds enough to be in sync: all that is committed, and all that this leader began with.
    #[must_use]
    pub fn may_join(&self, member: Member, high_watermark: Offset) -> bool {
        let enough = high_watermark.max(self.start);
        !self.isr.members.contains(&member) && self.log_end_of(member).is_some_and(|log_end| log_end >= enough)
    }

    /// Proposes the ISR that `joins` and `leaves` make of the committed one. From now on who joins counts, and who
    /// leaves still does, until [`Leader::handle_isr`] brings a newer version. A refusal changes nothing by itself: the
    /// proposal may be on its way twice.
    ///
    /// `None` when that changes nothing, or while another proposal is undecided.
    pub fn propose(&mut self, joins: &[Member], leaves: &[Member]) -> Option<Proposal> {
        if self.proposed.is_some() {
            return None;
        }
        let stays = |member: &Member| *member == self.me || !leaves.contains(member);
        let mut isr: Vec<Member> = self.isr.members.iter().copied().filter(stays).collect();
        isr.extend(joins.iter().filter(|member| !self.isr.members.contains(member)));
        isr.sort_unstable();
        isr.dedup();
        if isr == self.isr.members {
            return None;
        }
        self.proposed = Some(isr.clone());
        Some(Proposal { epoch: self.epoch, expected: self.isr.version, isr })
    }

    /// What was proposed and is not decided.
    #[must_use]
    pub fn proposed(&self) -> Option<Proposal> {
        let isr = self.proposed.clone()?;
        Some(Proposal { epoch: self.epoch, expected: self.isr.version, isr })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broky_proto::id::{Incarnation, NodeId};

    fn member(node: u32, incarnation: u64) -> Member {
        Member { node: NodeId(node), incarnation: Incarnation(incarnation) }
    }

    fn isr(nodes: &[u32], version: u64, min: usize) -> Isr {
        let members = nodes.iter().map(|node| member(*node, 1)).collect();
        Isr { members, version: IsrVersion(version), min }
    }

    /// Leads as node 0, with these nodes in sync at these log ends.
    fn leader(followers: &[(u32, u64)], min: usize) -> Leader {
        let nodes: Vec<u32> = std::iter::once(0).chain(followers.iter().map(|(node, _)| *node)).collect();
        let mut leader = Leader::new(Epoch(1), member(0, 1), Offset::ZERO, isr(&nodes, 1, min));
        for (node, log_end) in followers {
            leader.handle_ack(member(*node, 1), Offset(*log_end));
        }
        leader
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
    fn nothing_commits_before_every_member_was_heard() {
        let leader = Leader::new(Epoch(1), member(0, 1), Offset(3), isr(&[0, 1], 1, 1));
        assert_eq!(leader.committable(Offset(7)), None);
    }

    #[test]
    fn ack_of_another_incarnation_does_not_count() {
        let mut leader = leader(&[(1, 5)], 2);
        leader.handle_ack(member(1, 2), Offset(7));
        assert_eq!(leader.committable(Offset(7)), Some(Offset(5)));
    }

    #[test]
    fn late_ack_does_not_step_back() {
        let mut leader = leader(&[(1, 5)], 2);
        assert!(!leader.handle_ack(member(1, 1), Offset(4)));
        assert_eq!(leader.committable(Offset(7)), Some(Offset(5)));
    }

    #[test]
    fn who_leaves_counts_until_that_is_committed() {
        let mut leader = leader(&[(1, 5), (2, 3)], 2);
        let proposal = leader.propose(&[], &[member(2, 1)]).unwrap();
        assert_eq!((proposal.expected, proposal.isr.len()), (IsrVersion(1), 2));
        assert_eq!(leader.committable(Offset(7)), Some(Offset(3)));
        assert!(leader.handle_isr(isr(&[0, 1], 2, 2)));
        assert_eq!(leader.committable(Offset(7)), Some(Offset(5)));
    }

    #[test]
    fn who_joins_counts_before_that_is_committed() {
        let mut leader = leader(&[(1, 7)], 2);
        assert!(!leader.may_join(member(2, 1), Offset(6)), "nothing is known of it");
        leader.handle_ack(member(2, 1), Offset(6));
        assert!(leader.may_join(member(2, 1), Offset(6)));
        leader.propose(&[member(2, 1)], &[]).unwrap();
        assert_eq!(leader.committable(Offset(7)), Some(Offset(6)));
        leader.handle_isr(isr(&[0], 2, 1));
        assert_eq!(leader.committable(Offset(7)), Some(Offset(7)), "it was refused");
    }

    #[test]
    fn who_joins_holds_all_that_the_leader_began_with() {
        let mut leader = Leader::new(Epoch(1), member(0, 1), Offset(9), isr(&[0], 1, 1));
        leader.handle_ack(member(1, 1), Offset(8));
        assert!(!leader.may_join(member(1, 1), Offset(4)));
        leader.handle_ack(member(1, 1), Offset(9));
        assert!(leader.may_join(member(1, 1), Offset(4)));
    }

    #[test]
    fn one_proposal_at_a_time() {
        let mut leader = leader(&[(1, 5), (2, 5)], 1);
        assert_eq!(leader.propose(&[member(1, 1)], &[]), None, "it changes nothing");
        assert!(leader.propose(&[], &[member(1, 1)]).is_some());
        assert_eq!(leader.propose(&[], &[member(2, 1)]), None);
        assert!(leader.proposed().is_some());
        leader.handle_isr(isr(&[0, 1, 2], 2, 1));
        assert!(leader.propose(&[], &[member(2, 1)]).is_some());
    }
}
