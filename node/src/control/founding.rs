//! Founding a raft group, exactly once.
//!
//! A founder draws a group id and asks everybody who is to take part for a promise. A process promises itself to one
//! founding at a time, and takes part in it under a raft id of its own; when all have promised, the founder initializes
//! the group with them as its voters, and raft does the rest: whoever it elects first puts the seed into the log.
//!
//! A promise alone could not make foundings unique: a founder may be paused after it has collected them, until they
//! have expired and another founding has begun. Therefore all who promised are *voters* of the group from its first
//! entry. To commit anything a founding needs a majority of them, each process serves one founding at a time, and one
//! that has accepted an entry of a founding stays with it. So of two foundings with the same people at most one gets
//! anywhere.
//!
//! A process is released when the founder says so, or when the promise expires without the founding having begun; when
//! it has begun and does not get on, once every other founder is known not to take part in it (any more).

use std::collections::BTreeMap;
use std::sync::Arc;

use broky_proto::id::ClusterId;
use broky_proto::peer_v1 as pb;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::group::{Group, GroupError};
use super::ids::{group_id, random, random_raft_id};
use super::shared::{Promised, Shared, lock};
use super::timing;
use super::types::{GroupId, Machine, Peer, RaftId};

/// What is to be founded.
pub(super) struct Plan {
    pub(super) cluster: ClusterId,
    pub(super) seed: Machine,
    /// Who takes part besides this process.
    pub(super) others: Vec<pb::Process>,
    /// The group that has lost its quorum, and term and index of the newest entry of it here.
    pub(super) previous: Option<(GroupId, (u64, u64))>,
}

/// Why nothing was founded. Whoever had promised is released.
#[derive(Debug, Error)]
pub(super) enum FoundingError {
    #[error("{name} does not take part: {reason}")]
    Refused { name: String, reason: String },
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error("raft: {0}")]
    Raft(String),
    #[error("the seed cannot be encoded")]
    Seed,
}

/// Why a process does not take part in a founding.
#[derive(Debug, Error)]
enum Refusal {
    #[error("promised to another founding")]
    Promised,
    #[error("in a cluster already")]
    Founded,
    #[error("still led")]
    Led,
    #[error("knows more than the founder")]
    Newer,
    #[error("malformed")]
    Malformed,
    #[error("{0}")]
    Group(#[from] GroupError),
}

impl Shared {
    /// Founds a group. Returns when it is initialized; it is there when its seed has been applied.
    pub(super) async fn found(self: &Arc<Self>, plan: Plan) -> Result<(), FoundingError> {
        let id = GroupId(random().map_err(GroupError::System)?);
        let (previous, last) = plan.previous.unzip();
        let (last_term, last_index) = last.unwrap_or_default();
        let request = pb::PromiseRequest {
            group: id.0.to_vec().into(),
            cluster: plan.cluster.0.to_vec().into(),
            founder: Some(self.process()),
            seed: postcard::to_stdvec(&plan.seed).map_err(|_| FoundingError::Seed)?.into(),
            previous: previous.map(|previous| previous.0.to_vec()).unwrap_or_default().into(),
            last_term,
            last_index,
            release: false,
        };
        let founded = self.collect_and_initialize(&plan, id, &request).await;
        if founded.is_err() {
            let release = pb::PromiseRequest { seed: bytes::Bytes::new(), release: true, ..request };
            self.ask_promises(&plan.others, &release).await;
            self.release(id).await;
        }
        founded
    }

    async fn collect_and_initialize(
        self: &Arc<Self>,
        plan: &Plan,
        id: GroupId,
        request: &pb::PromiseRequest,
    ) -> Result<(), FoundingError> {
        let name = self.config.name.clone();
        let mine = self.promise(request).await;
        let mine = mine.map_err(|refusal| FoundingError::Refused { name, reason: refusal.to_string() })?;
        let mut founders = BTreeMap::new();
        for (process, answer) in self.ask_promises(&plan.others, request).await {
            let name = process.name.clone();
            match answer {
                Some(answer) if answer.granted => {
                    founders.insert(RaftId(answer.raft), Peer { name, address: process.address });
                }
                Some(answer) => return Err(FoundingError::Refused { name, reason: answer.reason }),
                None => return Err(FoundingError::Refused { name, reason: "no answer".to_owned() }),
            }
        }
        // All of them, however many: a promise binds nobody who does not vote. The steward makes them fewer.
        let mut voters = founders;
        voters.insert(mine, Peer { name: self.config.name.clone(), address: self.config.addresses.peer.clone() });
        let _promising = self.promising.lock().await;
        let group = self.group_of(&id.0).ok_or(FoundingError::Raft("the promise has expired".to_owned()))?;
        tracing::info!(group = %id, voters = voters.len(), cluster = %plan.cluster, "founding");
        group.raft.initialize(voters).await.map_err(|error| FoundingError::Raft(error.to_string()))
    }

    /// Asks everybody at once.
    async fn ask_promises(
        self: &Arc<Self>,
        others: &[pb::Process],
        request: &pb::PromiseRequest,
    ) -> Vec<(pb::Process, Option<pb::PromiseResponse>)> {
        let mut asking = JoinSet::new();
        for process in others.iter().cloned() {
            let (shared, request) = (self.clone(), request.clone());
            asking.spawn(async move {
                let call = |mut client: super::Client| async move { client.promise(request).await };
                let answer = shared.ask(&process.address, timing::CALL, call).await.ok();
                (process, answer)
            });
        }
        asking.join_all().await
    }

    /// Answers a founder.
    pub(super) async fn handle_promise(self: &Arc<Self>, request: pb::PromiseRequest) -> pb::PromiseResponse {
        if request.release {
            if let Some(id) = group_id(&request.group) {
                self.release(id).await;
            }
            return pb::PromiseResponse::default();
        }
        match self.promise(&request).await {
            Ok(raft) => pb::PromiseResponse { granted: true, raft: raft.0, reason: String::new() },
            Err(refusal) => pb::PromiseResponse { reason: refusal.to_string(), ..Default::default() },
        }
    }

    /// Takes part in a founding, if that is right now.
    async fn promise(self: &Arc<Self>, request: &pb::PromiseRequest) -> Result<RaftId, Refusal> {
        let id = group_id(&request.group).ok_or(Refusal::Malformed)?;
        let cluster = ClusterId::from_bytes(&request.cluster).ok_or(Refusal::Malformed)?;
        let seed: Machine = postcard::from_bytes(&request.seed).map_err(|_| Refusal::Malformed)?;
        let _promising = self.promising.lock().await;
        if let Some(promised) = lock(&self.place).promised.as_ref() {
            return if promised.group.id == id { Ok(promised.group.raft_id) } else { Err(Refusal::Promised) };
        }
        if let Some(group) = self.group() {
            if group.cluster != cluster || group_id(&request.previous) != Some(group.id) {
                return Err(Refusal::Founded);
            }
            if group.living_leader().is_some() {
                return Err(Refusal::Led);
            }
            if group.log.last() > (request.last_term, request.last_index) {
                return Err(Refusal::Newer);
            }
        }
        let raft_id = random_raft_id().map_err(GroupError::System)?;
        let group = Group::create(self, cluster, id, raft_id, Some(seed)).await?;
        let expires = Instant::now() + timing::PROMISE;
        lock(&self.place).promised = Some(Promised { group, expires });
        tokio::spawn(self.clone().keep_promise(id));
        Ok(raft_id)
    }

    /// Releases this process when the founding does not get on.
    async fn keep_promise(self: Arc<Self>, id: GroupId) {
        loop {
            let Some(promised) = lock(&self.place).promised.clone().filter(|promised| promised.group.id == id) else {
                return;
            };
            tokio::time::sleep_until(promised.expires.max(Instant::now() + timing::MEET)).await;
            if !promised.group.log.has_entries() || self.is_abandoned(&promised.group).await {
                self.release(id).await;
            }
        }
    }

    /// Takes part in a founding no longer, unless it has begun and others take part in it still.
    async fn release(self: &Arc<Self>, id: GroupId) {
        let _promising = self.promising.lock().await;
        let Some(promised) = lock(&self.place).promised.take_if(|promised| promised.group.id == id) else { return };
        let group = promised.group;
        // From here on nothing of the group reaches raft; but an entry may have got in just before.
        group.halt().await;
        if !group.log.has_entries() || self.is_abandoned(&group).await {
            group.retire().await;
            return;
        }
        match group.resume(self).await {
            Ok(group) => {
                lock(&self.place).promised = Some(Promised { group, expires: Instant::now() + timing::PROMISE });
            }
            Err(error) => self.end(super::End::Storage(error.to_string())),
        }
    }

    /// Whether a founding can have come to nothing: it has no leader, and every other founder says that it does not
    /// take part. One that does not answer may be paused, and may go on.
    async fn is_abandoned(self: &Arc<Self>, group: &Arc<Group>) -> bool {
        if group.is_seeded() {
            return false;
        }
        let metrics = group.metrics();
        for (id, peer) in metrics.membership_config.membership().nodes().filter(|(id, _)| **id != group.raft_id) {
            let address = self.acquaintance(&peer.name).map_or(peer.address.clone(), |process| process.address);
            match self.introduce(&address).await {
                Some(answer) if *answer.group != group.id.0 || answer.raft != id.0 => {}
                Some(_) | None => return false,
            }
        }
        true
    }

    /// Introduces this process to whoever is at an address.
    pub(super) async fn introduce(self: &Arc<Self>, address: &str) -> Option<pb::MeetResponse> {
        let request = pb::MeetRequest { me: Some(self.process()), known: self.acquaintances() };
        let call = |mut client: super::Client| async move { client.meet(request).await };
        let answer = self.ask(address, timing::CALL, call).await.ok()?;
        if let Some(process) = &answer.me {
            self.meet(process.clone());
        }
        self.note_rumours(answer.known.clone());
        Some(answer)
    }

    /// Goes by a group from now on, when it is the one that was being founded. The one before ends.
    pub(super) async fn adopt(self: &Arc<Self>, group: &Arc<Group>) {
        if self.group().is_some_and(|current| current.id == group.id) {
            return;
        }
        let old = {
            let mut place = lock(&self.place);
            if place.promised.take_if(|promised| promised.group.id == group.id).is_none() {
                return;
            }
            place.group.replace(group.clone())
        };
        tracing::info!(cluster = %group.cluster, group = %group.id, "founded");
        self.seek.notify_one();
        if let Some(old) = old {
            old.retire().await;
        }
    }
}
