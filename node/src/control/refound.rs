//! When the raft group has lost its majority for good.
//!
//! Without a disk a voter that dies has forgotten its vote, so it comes back as somebody else, and a group of which
//! most died at once can never elect again. What it had decided is not lost while one of its members lives: the member
//! with the newest log founds the group anew, with the state that gives, above every log index that was ever used.
//!
//! That is right only when the old group cannot come to life behind its back. So *every* old voter must be accounted
//! for: it answers, or a newer process presents itself under its node's name. Never on a majority of guesses. Whoever
//! answers takes part in the new group, and leaves the old one with that; a learner that did not answer, and finds the
//! cluster going on without it, leaves it then.
//!
//! What only the dead had committed is lost. The gap in the indices keeps epochs and incarnations unique nevertheless.
//! A survivor that may not have known of everything ([`super::contact`]) begins new lineages: so what was lost is told,
//! and no offset is used again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use broky_proto::peer_v1 as pb;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::founding::Plan;
use super::group::Group;
use super::shared::{Shared, lock};
use super::types::{Peer, RaftId};

const ROUND: Duration = Duration::from_millis(300);
/// Between the loss of the leader being noticed and the first look around.
const PATIENCE: Duration = Duration::from_millis(500);

/// Watches for the loss of the majority. For ever.
pub(super) async fn keep_ready(shared: Arc<Shared>) {
    let mut leaderless: Option<Instant> = None;
    while shared.ended.borrow().is_none() {
        tokio::time::sleep(ROUND).await;
        let group = shared.group().filter(|group| group.is_seeded() && group.living_leader().is_none());
        let Some(group) = group.filter(|_| !shared.is_promised()) else {
            leaderless = None;
            continue;
        };
        let since = *leaderless.get_or_insert_with(Instant::now);
        if since.elapsed() < PATIENCE {
            continue;
        }
        let answers = meet_all(&shared, &group).await;
        if answers.iter().any(|answer| answer.is_elsewhere) {
            tracing::info!(group = %group.id, "the cluster goes on in another raft group");
            shared.leave(&group).await;
        } else if let Some(plan) = plan(&shared, &group, &answers)
            && let Err(error) = shared.found(plan).await
        {
            tracing::info!(%error, "the raft group was not re-founded yet");
        }
    }
}

impl Shared {
    /// Leaves a group that the cluster has left behind. The search then finds the one that took its place.
    async fn leave(&self, group: &Group) {
        let _promising = self.promising.lock().await;
        let left = lock(&self.place).group.take_if(|current| current.id == group.id);
        if let Some(left) = left {
            left.retire().await;
        }
    }
}

/// Somebody who answered.
#[derive(Clone, Debug)]
struct Answer {
    process: pb::Process,
    raft: RaftId,
    is_in_group: bool,
    /// Whether it is in another group of this cluster, one that is led.
    is_elsewhere: bool,
    /// Term and index of the newest entry it has.
    last: (u64, u64),
    has_leader: bool,
    knew_all: bool,
}

/// What to do about those who answer. A plan when the majority is lost for good and this process is the one to act.
fn plan(shared: &Arc<Shared>, group: &Group, answers: &[Answer]) -> Option<Plan> {
    let metrics = group.metrics();
    let membership = metrics.membership_config.membership();
    if answers.iter().any(|answer| answer.has_leader) {
        return None;
    }
    let mine = group.log.last();
    let members: BTreeMap<RaftId, &Answer> =
        answers.iter().filter(|answer| answer.is_in_group).map(|answer| (answer.raft, answer)).collect();
    let lives = |id: &RaftId| *id == group.raft_id || members.contains_key(id);
    let has_quorum = membership
        .get_joint_config()
        .iter()
        .all(|voters| voters.iter().filter(|id| lives(id)).count() > voters.len() / 2);
    if has_quorum {
        return None;
    }
    let missing: Vec<&Peer> =
        membership.voter_ids().filter(|id| !lives(id)).filter_map(|id| membership.get_node(&id)).collect();
    let unaccounted = unaccounted(&missing, &shared.config.name, answers);
    if !unaccounted.is_empty() {
        tracing::warn!(
            ?unaccounted,
            "the raft group has lost its majority; nothing can be decided before these return"
        );
        return None;
    }
    // Raft's rule: the newest log. Of those with as much, the smallest id.
    let is_best = members.values().all(|answer| (answer.last, group.raft_id) <= (mine, answer.raft));
    if !is_best {
        return None;
    }
    let heirs = missing.iter().filter_map(|peer| heir(&peer.name, answers)).filter(|heir| !heir.is_in_group);
    let others = members.values().copied().chain(heirs).map(|answer| answer.process.clone()).collect();
    let machine = group.newest_state().ok()?;
    // One who knew all and has no newer log than this one says so for both.
    let knew_all = shared.knew_all(group) || members.values().any(|answer| answer.knew_all);
    if !knew_all {
        let known = shared.describe_contact(group);
        tracing::warn!(
            known,
            "no survivor was in contact when the majority was lost: every vbucket begins a new lineage"
        );
    }
    let seed = machine.refounded(!knew_all);
    Some(Plan { cluster: group.cluster, seed, others, previous: Some((group.id, mine)) })
}

/// A newer process of a node. It may have been taken into the group as a learner before the older one died.
fn heir<'a>(name: &str, answers: &'a [Answer]) -> Option<&'a Answer> {
    answers.iter().find(|answer| answer.process.name == name)
}

/// The nodes among these of which no newer process has presented itself. Of this process' own node it is one itself.
fn unaccounted<'a>(missing: &[&'a Peer], me: &str, answers: &[Answer]) -> Vec<&'a str> {
    let names = missing.iter().map(|peer| peer.name.as_str());
    names.filter(|name| *name != me && heir(name, answers).is_none()).collect()
}

/// Meets every member of the group, every node of the map, and whoever has been heard of.
async fn meet_all(shared: &Arc<Shared>, group: &Arc<Group>) -> Vec<Answer> {
    let metrics = group.metrics();
    let members = metrics.membership_config.membership().nodes().map(|(_, peer)| peer.address.clone());
    let map = shared.map();
    let nodes = map.nodes().map(|(_, node)| node.addresses.peer.clone());
    let met = shared.acquaintances().into_iter().map(|process| process.address);
    let mut addresses: Vec<String> = members.chain(nodes).chain(met).collect();
    addresses.sort();
    addresses.dedup();
    let mut meeting = JoinSet::new();
    for address in addresses.into_iter().filter(|address| *address != shared.config.addresses.peer) {
        let shared = shared.clone();
        meeting.spawn(async move { shared.introduce(&address).await });
    }
    let answers = meeting.join_all().await.into_iter().flatten().filter_map(|answer| {
        let is_in_group = *answer.group == group.id.0;
        let (raft, last) = (RaftId(answer.raft), (answer.last_term, answer.last_index));
        let is_ours = *answer.cluster == group.cluster.0;
        Some(Answer {
            process: answer.me?,
            raft,
            is_in_group,
            is_elsewhere: is_ours && !is_in_group && answer.has_leader,
            last,
            has_leader: is_in_group && answer.has_leader,
            knew_all: answer.knew_all,
        })
    });
    // One process may be met at several addresses.
    let unique: BTreeMap<_, _> = answers.map(|answer| (answer.process.boot.to_vec(), answer)).collect();
    unique.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_voter_is_accounted_for_by_its_node_s_newer_process_be_it_this_one() {
        let peer = |name: &str| Peer { name: name.to_owned(), address: String::new() };
        let answer = |name: &str| Answer {
            process: pb::Process { name: name.to_owned(), ..pb::Process::default() },
            raft: RaftId(1),
            is_in_group: false,
            is_elsewhere: false,
            last: (0, 0),
            has_leader: false,
            knew_all: false,
        };
        let [a, b, c] = ["a", "b", "c"].map(peer);
        let missing = [&a, &b, &c];
        assert_eq!(unaccounted(&missing, "d", &[answer("b")]), ["a", "c"]);
        // It was taken into the group as a learner, before it was known that its node's voter is dead.
        assert_eq!(unaccounted(&missing, "a", &[answer("b")]), ["c"]);
        assert!(unaccounted(&missing, "a", &[answer("b"), answer("c")]).is_empty());
    }
}
