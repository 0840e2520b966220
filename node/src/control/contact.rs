//! Whether this process knew all that its raft group had decided when the group lost its majority.
//!
//! Without disks the state of a survivor takes the place of what the dead knew ([`super::refound`]). If the survivor
//! had been paused or cut off before, the others may have gone on without it: fenced it, elected leaders, and
//! acknowledged messages. They cannot have done so as long as it was heard within [`timing::SILENCE`]. So what counts
//! is the time from the latest answer of a leader that a quorum followed, or, where it led itself, of that quorum, to
//! the moment when so many of the others were seen to be gone that they could decide nothing without it. Answers count
//! from when they were asked for, as those asked for before a pause may be read after it.
//!
//! That somebody is gone is seen when a connection breaks and he is not to be had again under his address. Of those who
//! just fall silent nobody can tell when they died, and what they did before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use broky_proto::id::{MapVersion, Member};
use broky_ring::map::ClusterMap;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::group::Group;
use super::shared::{Shared, lock};
use super::timing;
use super::types::{Membership, RaftId, Vote};

/// Answers remembered: those that tell of a map that has not come yet count when it has.
const ANSWERS_MAX: usize = 16;

/// Between looks at who is gone.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(100), Duration::from_millis(200)];

/// The latest answers.
#[derive(Debug, Default)]
pub(super) struct Contacts(VecDeque<(Instant, MapVersion)>);

impl Contacts {
    pub(super) fn note(&mut self, asked: Instant, map: MapVersion) {
        if self.0.len() >= ANSWERS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((asked, map));
    }

    /// When the latest answer was asked for that told of nothing beyond `known`.
    pub(super) fn latest(&self, known: MapVersion) -> Option<Instant> {
        self.0.iter().filter(|(_, map)| *map <= known).map(|(asked, _)| *asked).max()
    }
}

/// Who followed this process while it led, and when each was asked for its latest answer. Raft's own messages tell:
/// whoever takes entries, or refuses them for what its log holds, follows.
#[derive(Debug, Default)]
pub(super) struct Followed {
    vote: Vote,
    by: BTreeMap<RaftId, Instant>,
    quorum: Option<Instant>,
}

impl Followed {
    /// Notes that `by` followed the leader of `vote`, which is `me`, when it answered what was sent at `asked`.
    pub(super) fn note(&mut self, vote: Vote, by: RaftId, asked: Instant, me: RaftId, membership: &Membership) {
        if self.vote != vote {
            (self.vote, self.by) = (vote, BTreeMap::new());
        }
        let latest = self.by.entry(by).or_insert(asked);
        *latest = asked.max(*latest);
        let now = Instant::now();
        let followed = |voters: &BTreeSet<RaftId>| {
            let asked = |id: &RaftId| if *id == me { Some(now) } else { self.by.get(id).copied() };
            let mut asked: Vec<Instant> = voters.iter().filter_map(asked).collect();
            asked.sort_unstable_by(|a, b| b.cmp(a));
            asked.get(voters.len() / 2).copied()
        };
        // While the voters are changed there are two sets of them, and a quorum is one of each.
        let both = |a: Option<Instant>, b: Option<Instant>| a.zip(b).map(|(a, b)| a.min(b));
        let quorum = membership.get_joint_config().iter().map(followed).reduce(both).flatten();
        self.quorum = self.quorum.max(quorum);
    }

    /// The latest moment from which on a quorum answered.
    pub(super) fn by_quorum(&self) -> Option<Instant> {
        self.quorum
    }
}

/// When processes were seen to be gone.
#[derive(Debug, Default)]
pub(super) struct Losses(BTreeMap<Member, Instant>);

impl Losses {
    /// Notes that a process is gone. When that was seen before the latest contact, it counts from now: it may have been
    /// a mistake, as of one that has just registered and does not know its own name yet.
    fn note(&mut self, member: Member, contact: Option<Instant>, map: &ClusterMap) {
        self.0.retain(|member, _| map.is_current(*member));
        let now = Instant::now();
        let seen = self.0.entry(member).or_insert(now);
        if contact.is_some_and(|contact| *seen < contact) {
            *seen = now;
        }
    }
}

impl Shared {
    /// Looks which of the voters are gone, when one may be, and again a little later: others may go with it. Whoever
    /// asks for it meanwhile is served by that.
    pub(super) async fn look_around(self: Arc<Self>, group: Arc<Group>) {
        if self.is_looking_around.swap(true, Ordering::AcqRel) {
            return;
        }
        for pause in PAUSES {
            tokio::time::sleep(pause).await;
            self.note_who_is_gone(&group).await;
        }
        self.is_looking_around.store(false, Ordering::Release);
    }

    /// Looks once. Gone is where nothing listens any more, or another process does.
    async fn note_who_is_gone(self: &Arc<Self>, group: &Group) {
        let membership = group.metrics().membership_config.membership().clone();
        let mut probes = JoinSet::new();
        for peer in membership.voter_ids().filter(|id| *id != group.raft_id).filter_map(|id| membership.get_node(&id)) {
            let Some((member, address)) = self.node_called(&peer.name) else { continue };
            let shared = self.clone();
            probes.spawn(
                async move { shared.probe(member, &address).await.is_err_and(|e| e.is_gone()).then_some(member) },
            );
        }
        for member in probes.join_all().await.into_iter().flatten() {
            lock(&self.losses).note(member, group.last_contact(), &self.map());
        }
    }

    /// Whether this process knew all that its group had decided when so many were gone that the others decide nothing
    /// without it.
    pub(super) fn knew_all(&self, group: &Group) -> bool {
        let metrics = group.metrics();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<RaftId> = membership.voter_ids().filter(|id| *id != group.raft_id).collect();
        let needed = voters.len().saturating_sub(voters.len().div_ceil(2));
        let losses = lock(&self.losses);
        let contact = group.last_contact();
        let lost = |id: &RaftId| losses.0.get(&self.node_called(&membership.get_node(id)?.name)?.0).copied();
        let counts = |seen: &Instant| contact.is_none_or(|contact| *seen >= contact);
        let mut seen: Vec<Instant> = voters.iter().filter_map(lost).filter(counts).collect();
        seen.sort_unstable();
        let last = needed.checked_sub(1).map(|last| seen.get(last).copied());
        last.is_none_or(|lost| knew_all(contact, lost))
    }

    /// What that is judged by, for the log: how long ago the latest contact was, and each loss.
    pub(super) fn describe_contact(&self, group: &Group) -> String {
        let contact = group.last_contact().map(|at| at.elapsed());
        let losses: Vec<_> = lock(&self.losses).0.iter().map(|(member, at)| (*member, at.elapsed())).collect();
        format!("in contact {contact:?} ago, losses {losses:?} ago")
    }
}

/// Whether a process that was last in contact then knew all that was decided before the majority was lost.
fn knew_all(contact: Option<Instant>, lost: Option<Instant>) -> bool {
    contact.zip(lost).is_some_and(|(contact, lost)| lost.saturating_duration_since(contact) < timing::SILENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_counts_once_what_it_told_of_has_come() {
        let (mut contacts, start) = (Contacts::default(), Instant::now());
        let at = |millis| start + std::time::Duration::from_millis(millis);
        assert_eq!(contacts.latest(MapVersion(9)), None);
        contacts.note(at(0), MapVersion(5));
        contacts.note(at(1), MapVersion(6));
        assert_eq!(contacts.latest(MapVersion(5)), Some(at(0)));
        assert_eq!(contacts.latest(MapVersion(6)), Some(at(1)));
        (2..100).for_each(|millis| contacts.note(at(millis), MapVersion(7)));
        assert!(contacts.0.len() <= ANSWERS_MAX);
    }

    #[test]
    fn leader_was_followed_when_the_slowest_of_a_quorum_was_asked() {
        let start = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let at = |millis| start + Duration::from_millis(millis);
        let set = |ids: &[u64]| ids.iter().map(|id| RaftId(*id)).collect::<BTreeSet<_>>();
        let among = |sets: &[&[u64]]| Membership::new(sets.iter().map(|ids| set(ids)).collect(), set(&[]));
        let (first, later) = (Vote::new_committed(3, RaftId(1)), Vote::new_committed(4, RaftId(1)));
        let quorum = |sets: &[&[u64]], answers: &[(Vote, u64, u64)]| {
            let mut followed = Followed::default();
            for (vote, by, asked) in answers {
                followed.note(*vote, RaftId(*by), at(*asked), RaftId(1), &among(sets));
            }
            followed.by_quorum()
        };
        let (three, five): (&[&[u64]], &[&[u64]]) = (&[&[1, 2, 3]], &[&[1, 2, 3, 4, 5]]);
        assert_eq!(quorum(three, &[]), None);
        assert_eq!(quorum(three, &[(first, 9, 20)]), None, "a learner");
        assert!(quorum(&[&[1]], &[(first, 9, 20)]) >= Some(start), "it is the quorum");
        assert_eq!(quorum(three, &[(first, 2, 20), (first, 2, 10)]), Some(at(20)), "a late answer takes nothing back");
        assert_eq!(quorum(five, &[(first, 2, 20)]), None);
        assert_eq!(quorum(five, &[(first, 2, 20), (first, 5, 15)]), Some(at(15)));
        assert_eq!(quorum(&[&[2, 3, 5]], &[(first, 2, 20), (first, 5, 15)]), Some(at(15)), "it is no voter");
        assert_eq!(quorum(&[&[1, 2, 3], &[1, 4, 6]], &[(first, 2, 20)]), None, "of the new voters nobody");
        assert_eq!(quorum(&[&[1, 2, 3], &[1, 2, 5]], &[(first, 2, 20)]), Some(at(20)));
        assert_eq!(quorum(five, &[(first, 2, 20), (later, 5, 30)]), None, "who followed an earlier lead");
        assert_eq!(quorum(three, &[(first, 2, 20), (later, 5, 30)]), Some(at(20)), "what was known stays known");
    }

    #[test]
    fn whoever_was_out_of_contact_for_as_long_as_it_takes_to_be_fenced_may_have_missed_something() {
        let contact = Instant::now();
        assert!(knew_all(Some(contact), Some(contact + timing::SILENCE / 2)));
        assert!(!knew_all(Some(contact), Some(contact + timing::SILENCE)));
        assert!(!knew_all(None, Some(contact)));
        assert!(!knew_all(Some(contact), None), "nobody saw them go");
    }
}
