//! Telling the raft leader that this process lives, and noticing that the leader does not.
//!
//! The heartbeat goes over a connection of its own. When that breaks and cannot be made again, the leader is gone, and
//! the voters need not wait for raft's timeout: they ask one another, and begin an election at once, one after the
//! other. Each has to begin one itself: a voter that has heard from a leader lately grants its vote to nobody (raft's
//! lease), until it has become a candidate of its own accord. In openraft 0.9 a vote is ordered by term and id, so in
//! the order of their ids each later candidate takes over the votes of those before it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use broky_proto::id::{MapVersion, Member};
use broky_proto::peer_v1 as pb;
use tokio::time::{Instant, MissedTickBehavior};

use super::detector::{How, Suspicion, second_opinions};
use super::group::Group;
use super::ids::pb_member;
use super::links::{CallError, Use};
use super::shared::{Shared, lock};
use super::timing;
use super::types::{Peer, RaftId};

/// Rounds of elections before it is left to raft's own timeout.
const ELECTIONS_MAX: u32 = 6;
/// How long a report that a peer cannot be reached is repeated.
const REPORT: Duration = Duration::from_secs(1);
/// How long after a majority found the leader silent that counts: more than the elections take that follow.
const LOST: Duration = Duration::from_secs(2);

/// The leader as this node sees it.
struct Seen {
    raft: RaftId,
    answered: Instant,
    /// It was said that it refuses connections.
    is_known_gone: bool,
}

/// A peer that could not be reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unreachable {
    how: How,
    /// When that was noticed.
    noted: Instant,
}

/// A raft leader that a majority of the voters found silent. Should this process lead in its place, the silence has not
/// to be waited for again.
#[derive(Clone, Copy, Debug)]
pub(super) struct LostLeader {
    member: Member,
    /// When this process last heard it.
    since: Instant,
    /// When the majority was asked.
    agreed: Instant,
}

/// Sends heartbeats for ever.
pub(super) async fn keep_beating(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(timing::HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: Option<Seen> = None;
    let mut last = Instant::now();
    while shared.ended.borrow().is_none() {
        let mut link = match (&seen, shared.group().and_then(|group| group.leader())) {
            // Not dialled if there is none: that takes a while, in which nobody would look at the time.
            (Some(seen), Some((raft, peer))) if seen.raft == raft => {
                shared.way(&peer.address, Use::Other).link().map(|link| link.ending())
            }
            _ => None,
        };
        let is_broken = tokio::select! {
            _ = ticks.tick() => false,
            () = shared.beat.notified() => false,
            () = async { match &mut link { Some(link) => link.reached().await, None => std::future::pending().await } } => true,
        };
        let was_paused = last.elapsed() > timing::PAUSED + timing::HEARTBEAT;
        last = Instant::now();
        let (Some(group), Some(me)) = (shared.group(), shared.me()) else { continue };
        let Some((raft, peer)) = group.leader().filter(|_| !group.is_leader()) else {
            seen = None;
            continue;
        };
        let leader = match &mut seen {
            Some(leader) if leader.raft == raft => leader,
            _ => seen.insert(Seen { raft, answered: last, is_known_gone: false }),
        };
        if was_paused {
            leader.answered = last;
        }
        if is_broken {
            tokio::spawn(shared.clone().look_around(group.clone()));
        }
        match beat(&shared, &group, me, &peer).await {
            Ok(()) => {
                (leader.answered, leader.is_known_gone) = (Instant::now(), false);
                shared.forget_lost_leader();
            }
            Err(CallError::Dial(error)) if error.is_gone() => {
                // Whoever reported it may have been faster than the end of our own connection.
                tokio::spawn(shared.clone().look_around(group.clone()));
                if !std::mem::replace(&mut leader.is_known_gone, true) {
                    tracing::warn!(node = peer.name, "the raft leader refuses connections");
                }
                replace_leader(&shared, &group, raft, &peer, How::Refused, last).await;
            }
            Err(error) => {
                tracing::debug!(%error, is_broken, "the raft leader did not take a heartbeat");
                let silent = leader.answered.elapsed().min(group.leaderless().unwrap_or_default());
                if silent > timing::SILENCE {
                    let now = Instant::now();
                    leader.answered = now;
                    replace_leader(&shared, &group, raft, &peer, How::Silent, now - silent).await;
                }
            }
        }
        last = Instant::now();
    }
}

/// Sends one heartbeat and heeds the answer. An error that says that the leader is gone may also come of another
/// process answering in its place, one that was started at once.
pub(super) async fn beat(shared: &Arc<Shared>, group: &Group, me: Member, leader: &Peer) -> Result<(), CallError> {
    let sent = Instant::now();
    let unreachable = lock(&shared.unreachable).clone();
    let reported = |which: How| {
        let fresh = unreachable.iter().filter(|(_, report)| report.how == which && report.noted.elapsed() < REPORT);
        fresh.map(|(member, _)| pb_member(*member)).collect()
    };
    let MapVersion(map_version) = shared.map().version();
    let request = pb::HeartbeatRequest {
        me: Some(pb_member(me)),
        map_version,
        refused: reported(How::Refused),
        silent: reported(How::Silent),
    };
    let call = |mut client: super::Client| async move { client.heartbeat(request).await };
    let response = shared.ask(&leader.address, timing::HEARTBEAT, call).await?;
    if response.standing() == pb::Standing::NotLeader
        && let Some((member, address)) = shared.node_called(&leader.name)
        && let Err(error) = shared.probe(member, &address).await
        && error.is_gone()
    {
        return Err(error.into());
    }
    if let Some(age) = response.quorum_age_ms {
        group.note_answer(sent, age, MapVersion(response.map_version));
    }
    let may_stay = match response.standing() {
        pb::Standing::Ok | pb::Standing::NotLeader | pb::Standing::Unspecified => true,
        pb::Standing::Replaced | pb::Standing::Forgotten => false,
    };
    // Raft brings the map as a rule. A learner that has just been added, or is cut off from it, need not wait for that;
    // and who is no member any more is told by nobody else.
    if (response.map_version > map_version || !may_stay)
        && let Err(error) = shared.pull_map(&leader.address).await
    {
        tracing::debug!(%error, "the map could not be pulled from the raft leader");
    }
    Ok(())
}

impl Shared {
    /// Notes that a peer cannot be reached, and tells the leader at once.
    pub(super) fn report_unreachable(&self, member: Member, how: How) {
        self.note_unreachable(member, how);
        // Should this process lead, it is told like anybody else. Nobody listens when the node ends.
        let _ = self.suspicions.send(Suspicion { member, how, by: self.me() });
        self.beat.notify_one();
    }

    fn note_unreachable(&self, member: Member, how: How) {
        let mut unreachable = lock(&self.unreachable);
        unreachable.retain(|_, report| report.noted.elapsed() < REPORT);
        unreachable.insert(member, Unreachable { how, noted: Instant::now() });
    }

    /// Has those looked at who refused connections when this process was not the leader yet.
    pub(super) fn suspect_refusers(&self) {
        for (member, Unreachable { how, .. }) in lock(&self.unreachable).clone() {
            match how {
                // Each is tried again before anything is decided.
                How::Refused => drop(self.suspicions.send(Suspicion { member, how, by: None })),
                // That somebody was silent towards others says nothing of its heartbeats.
                How::Silent => {}
            }
        }
    }

    /// Notes that a majority of the voters finds the leader silent, who was last heard at `since`.
    pub(super) fn note_lost_leader(&self, member: Member, since: Instant) {
        *lock(&self.lost_leader) = Some(LostLeader { member, since, agreed: Instant::now() });
    }

    /// A leader has answered: from now on that one judges who is silent.
    pub(super) fn forget_lost_leader(&self) {
        *lock(&self.lost_leader) = None;
    }

    /// The leader that was lost a moment ago, and since when it is silent. What is older says nothing of now.
    pub(super) fn take_lost_leader(&self) -> Option<(Member, Instant)> {
        let lost = lock(&self.lost_leader).take()?;
        (lost.agreed.elapsed() < LOST).then_some((lost.member, lost.since))
    }
}

/// Begins elections until there is another leader, if the other voters agree that this one is gone.
async fn replace_leader(shared: &Arc<Shared>, group: &Arc<Group>, old: RaftId, peer: &Peer, how: How, since: Instant) {
    let Some((member, _)) = shared.node_called(&peer.name) else { return };
    shared.note_unreachable(member, how);
    let voters = group.voters();
    if !voters.contains(&group.raft_id) || !is_agreed(shared, group, &voters, old, member, peer).await {
        return;
    }
    if how == How::Silent {
        shared.note_lost_leader(member, since);
    }
    let rank = voters.iter().filter(|id| **id != old && **id < group.raft_id).count();
    let rank = u32::try_from(rank).unwrap_or_default();
    let others = u32::try_from(voters.len()).unwrap_or(1);
    tokio::time::sleep(timing::ELECTION_STAGGER * rank).await;
    for _ in 0..ELECTIONS_MAX {
        if group.leader().is_some_and(|(leader, _)| leader != old) || shared.ended.borrow().is_some() {
            return;
        }
        tracing::info!(rank, "the raft leader is gone; an election begins");
        if group.raft.trigger().elect().await.is_err() {
            return;
        }
        tokio::time::sleep(timing::ELECTION_STAGGER * others).await;
    }
}

/// Whether a majority of the voters cannot reach the leader either. Without that question, a voter that is cut off
/// would raise the term again and again, and unseat a leader that everybody else is content with as soon as it is back.
async fn is_agreed(
    shared: &Arc<Shared>,
    group: &Arc<Group>,
    voters: &BTreeSet<RaftId>,
    old: RaftId,
    member: Member,
    leader: &Peer,
) -> bool {
    let metrics = group.metrics();
    let others = voters.iter().filter(|id| **id != old && **id != group.raft_id).filter_map(|id| {
        let peer = metrics.membership_config.membership().get_node(id)?;
        shared.node_called(&peer.name)
    });
    let verdicts = second_opinions(shared, member, &leader.address, others.collect()).await;
    let agree = verdicts.iter().filter(|reach| matches!(reach, Some(pb::Reach::Refused | pb::Reach::Silent))).count();
    agree + 1 > voters.len() / 2
}

#[cfg(test)]
mod tests {
    use broky_proto::id::{Incarnation, NodeId};
    use broky_ring::member::BootId;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_was_known_of_a_lost_leader_counts_for_a_moment_and_once() {
        let config = super::super::tests::lone_config("n0");
        let shared = Shared::new(config, BootId([1; 16]), mpsc::unbounded_channel().0);
        let (member, since) = (Member { node: NodeId(1), incarnation: Incarnation(1) }, Instant::now());
        shared.note_lost_leader(member, since);
        assert_eq!(shared.take_lost_leader(), Some((member, since)));
        assert_eq!(shared.take_lost_leader(), None);
        *lock(&shared.lost_leader) = Some(LostLeader { member, since, agreed: since - LOST });
        assert_eq!(shared.take_lost_leader(), None);
    }
}
