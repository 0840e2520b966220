//! Finding a cluster, founding one, and registering in it: what a process does until it belongs.
//!
//! Without a cluster it meets whoever is at the addresses it was given, and whoever those know. Whoever is in a cluster
//! is asked to join it; that comes first. When as many as were expected have met, and none of them is in a cluster, the
//! one with the smallest boot id founds one.

use std::collections::BTreeSet;
use std::sync::Arc;

use broky_proto::id::ClusterId;
use broky_proto::peer_v1 as pb;
use broky_ring::command::{Command, Outcome};
use broky_ring::map::MapDiff;
use broky_ring::member::{Addresses, Zone};
use broky_ring::state::RegisterRefusal;
use tokio::task::JoinSet;

use super::End;
use super::founding::Plan;
use super::group::Group;
use super::ids::{group_id, member, random, random_raft_id};
use super::shared::{Shared, lock};
use super::timing;
use super::types::{Answer, Machine, RaftId, Request};

/// Between looks of a process that belongs.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(1);
/// Addresses looked at in one round.
const ADDRESSES_MAX: usize = 64;

/// Sees to it that this process belongs to a cluster. For ever: a re-founding may change its raft id.
pub(super) async fn keep_seeking(shared: Arc<Shared>) {
    // Stays the same until it is used, so that a join that is repeated is the same join.
    let Ok(mut raft) = random_raft_id() else {
        return shared.end(End::Storage("no randomness".to_owned()));
    };
    while shared.ended.borrow().is_none() {
        let is_settled = match shared.group() {
            Some(group) if shared.is_registered(&group) => true,
            Some(group) => {
                shared.register(&group).await;
                false
            }
            None => {
                if shared.look(raft).await
                    && let Ok(fresh) = random_raft_id()
                {
                    raft = fresh;
                }
                false
            }
        };
        let pause = if is_settled { SETTLED } else { timing::MEET };
        tokio::select! {
            () = shared.seek.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Shared {
    /// Whether this process is registered, under the raft id that it has in the group.
    fn is_registered(&self, group: &Group) -> bool {
        let known =
            |me| group.replicated.with(|machine| !machine.is_seeded() || machine.raft_id(me) == Some(group.raft_id));
        self.me().is_some_and(|me| known(me.node))
    }

    /// Has the search look again when the registration does not hold.
    pub(super) fn check_registration(&self, group: &Group) {
        if !self.is_registered(group) {
            self.seek.notify_one();
        }
    }

    /// Registers in the cluster that this process takes part in.
    async fn register(self: &Arc<Self>, group: &Arc<Group>) {
        // A process that was forgotten must not come back as somebody new.
        let newest = group.replicated.map().borrow().clone();
        self.publish(&newest);
        if self.ended.borrow().is_some() {
            return;
        }
        if !group.is_leader() {
            if group.living_leader().is_none() {
                self.wait_for("a majority of the raft voters");
            }
            let (_, leader) = group.leader().unzip();
            let places = leader.into_iter().map(|leader| leader.address).chain(self.places());
            for address in places.collect::<Vec<_>>() {
                if self.join_at(&address, group.raft_id).await {
                    return;
                }
            }
            return;
        }
        if !group.is_seeded() {
            return;
        }
        let command = Command::Register {
            name: self.config.name.clone(),
            boot: self.boot,
            addresses: self.config.addresses.clone(),
            zone: self.config.zone.clone(),
        };
        match group.write(Request::Register { command, raft: group.raft_id }).await {
            Ok(Answer::Outcome(Outcome::Register(Ok(registration)))) => {
                let map = group.replicated.map().borrow().clone();
                self.publish(&map);
                self.registered(registration.member);
                group.stir.notify_one();
            }
            Ok(Answer::Outcome(Outcome::Register(Err(RegisterRefusal::Replaced { current })))) => {
                self.end(End::Replaced { name: self.config.name.clone(), by: current });
            }
            Ok(Answer::Outcome(Outcome::Register(Err(refusal)))) => self.end(End::Refused(refusal.to_string())),
            Ok(Answer::Outcome(_) | Answer::None | Answer::Seeded) => {}
            Err(error) => tracing::debug!(%error, "not registered yet"),
        }
    }

    /// Looks for a cluster to join, or for enough others to found one. True when it has joined.
    async fn look(self: &Arc<Self>, raft: RaftId) -> bool {
        // Who was in a cluster finds it again, and founds no other.
        let may_found = self.me().is_none();
        if self.config.join.is_empty() && may_found {
            self.found_with(Vec::new()).await;
            return false;
        }
        let mut meeting = JoinSet::new();
        for address in self.places() {
            let shared = self.clone();
            meeting.spawn(async move { (shared.introduce(&address).await, address) });
        }
        let answers: Vec<_> = meeting.join_all().await;
        let answers: Vec<_> = answers.into_iter().filter_map(|(answer, address)| Some((answer?, address))).collect();
        for (answer, address) in &answers {
            if answer.cluster.is_empty() {
                continue;
            }
            self.wait_for(format!("the cluster at {address}: it has no leader that could register this node"));
            let raft = self.raft_id_in(&answer.group).unwrap_or(raft);
            if self.join_at(address, raft).await {
                return true;
            }
        }
        if may_found && answers.iter().all(|(answer, _)| answer.cluster.is_empty()) {
            self.found_if_complete(&answers).await;
        }
        false
    }

    /// The raft id that this process has in a group: one that it has promised itself to, or goes by already. The
    /// founding may have come to its end since others were asked, and who then registers under another id takes its own
    /// place in the group away for a while.
    fn raft_id_in(&self, group: &[u8]) -> Option<RaftId> {
        let place = lock(&self.place);
        let promised = place.promised.as_ref().map(|promised| &promised.group);
        place.group.iter().chain(promised).find(|it| it.id.0 == *group).map(|it| it.raft_id)
    }

    /// Founds a cluster if everybody who is expected is there and this process is the one to do it.
    async fn found_if_complete(self: &Arc<Self>, answers: &[(pb::MeetResponse, String)]) {
        let Some(expect) = self.config.expect else {
            return self.wait_for("a cluster at the addresses of --join (with --expect N one would be founded)");
        };
        // Only who has answered counts: others may be gone.
        let met: BTreeSet<_> =
            answers.iter().filter_map(|(answer, _)| answer.me.as_ref()).map(|process| process.boot.clone()).collect();
        let others: Vec<pb::Process> =
            self.acquaintances().into_iter().filter(|process| met.contains(&process.boot)).collect();
        let names: BTreeSet<&str> =
            others.iter().map(|process| process.name.as_str()).chain([self.config.name.as_str()]).collect();
        if names.len() < usize::from(expect) {
            return self.wait_for(format!("{} of {expect} nodes have met: {names:?}", names.len()));
        }
        self.wait_for(format!("the founding of a cluster by {names:?}"));
        let is_first = others.iter().all(|process| process.boot.as_ref() > self.boot.0.as_slice());
        if is_first && names.len() == others.len() + 1 {
            self.found_with(others).await;
        }
    }

    async fn found_with(self: &Arc<Self>, others: Vec<pb::Process>) {
        if self.is_promised() {
            return;
        }
        let Ok(cluster) = random().map(ClusterId) else { return };
        let found = Command::Found {
            cluster,
            vbuckets: self.config.vbuckets,
            shards: self.config.shards,
            copies: self.config.copies,
            expect: self.config.expect.unwrap_or(1),
        };
        let Some(seed) = Machine::founded(found) else {
            return self.end(End::Refused("the number of copies is out of range".to_owned()));
        };
        if let Err(error) = self.found(Plan { cluster, seed, others, previous: None }).await {
            tracing::info!(%error, "no cluster was founded yet");
        }
    }

    /// Where somebody may be who knows of a cluster.
    fn places(&self) -> Vec<String> {
        let map = self.map();
        let known = map.nodes().map(|(_, node)| node.addresses.peer.clone());
        let met = self.acquaintances().into_iter().map(|process| process.address);
        let places: BTreeSet<String> =
            self.config.join.iter().cloned().chain(known).chain(met).chain(self.rumoured()).collect();
        places.into_iter().filter(|place| *place != self.config.addresses.peer).take(ADDRESSES_MAX).collect()
    }

    /// Asks the node at an address to be registered, and its leader if that is another. True when it is done.
    async fn join_at(self: &Arc<Self>, address: &str, raft: RaftId) -> bool {
        let Some(answer) = self.ask_to_join(address, raft).await else { return false };
        let answer = match answer.joining() {
            pb::Joining::Redirect => match self.ask_to_join(&answer.leader, raft).await {
                Some(answer) => answer,
                None => return false,
            },
            _ => answer,
        };
        match answer.joining() {
            pb::Joining::Done => self.joined(&answer, raft).await.is_some(),
            pb::Joining::Replaced => {
                let by = broky_proto::id::Incarnation(answer.reason.parse().unwrap_or_default());
                self.end(End::Replaced { name: self.config.name.clone(), by });
                false
            }
            pb::Joining::Refused => {
                self.end(End::Refused(answer.reason));
                false
            }
            pb::Joining::Redirect | pb::Joining::Later | pb::Joining::Unspecified => false,
        }
    }

    async fn ask_to_join(self: &Arc<Self>, address: &str, raft: RaftId) -> Option<pb::JoinResponse> {
        let Addresses { client, peer, admin } = self.config.addresses.clone();
        let Zone(zone) = self.config.zone.clone();
        let request = pb::JoinRequest {
            me: Some(self.process()),
            addresses: Some(pb::Addresses { client, peer, admin }),
            zone,
            raft: raft.0,
            group: self.group().map(|group| group.id.0.to_vec()).unwrap_or_default().into(),
        };
        let call = |mut client: super::Client| async move { client.join(request).await };
        self.ask(address, timing::COMMIT + timing::CALL, call).await.ok()
    }

    /// Goes by what the leader has answered. `None` when the answer makes no sense.
    async fn joined(self: &Arc<Self>, answer: &pb::JoinResponse, raft: RaftId) -> Option<()> {
        let id = group_id(&answer.group)?;
        let cluster = ClusterId::from_bytes(&answer.cluster)?;
        let map: MapDiff = postcard::from_bytes(&answer.map).ok()?;
        let me = member(&answer.member?);
        if let Some(group) = self.group()
            && (group.id != id || group.raft_id != raft)
        {
            return None;
        }
        if self.group().is_none() && !self.take_part(cluster, id, raft).await {
            return None;
        }
        if let Err(error) = self.merge(map) {
            tracing::warn!(%error, "the cluster's map does not fit");
        }
        self.registered(me);
        self.check_standing();
        Some(())
    }

    /// Takes part in the group that was joined.
    async fn take_part(self: &Arc<Self>, cluster: ClusterId, id: super::types::GroupId, raft: RaftId) -> bool {
        let _promising = self.promising.lock().await;
        let promised = lock(&self.place).promised.take();
        let group = match promised {
            // It is the founding that this process has promised itself to.
            Some(promised) if promised.group.id == id => Ok(promised.group),
            other => {
                if let Some(other) = other {
                    other.group.retire().await;
                }
                Group::create(self, cluster, id, raft, None).await
            }
        };
        match group {
            Ok(group) => {
                lock(&self.place).group = Some(group);
                true
            }
            Err(error) => {
                self.end(End::Storage(error.to_string()));
                false
            }
        }
    }
}
