//! One raft group that this process takes part in.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broky_proto::id::{ClusterId, MapVersion};
use broky_ring::member::LogIndex;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{Config, EntryPayload, ServerState, SnapshotPolicy};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::contact::{Contacts, Followed};
use super::network::Network;
use super::propose::ProposeError;
use super::shared::{Shared, lock};
use super::store::{Header, LogStore, MachineStore, Replicated, Store, StoreError};
use super::types::{Answer, GroupId, Machine, Metrics, Peer, Raft, RaftId, Request, Vote};
use super::{detector, steward, timing};

/// Entries after which the state is stored as a whole, and the log in front of it dropped.
const SNAPSHOT_ENTRIES: u64 = 256;
/// Entries kept in front of a snapshot, for members that are a little behind.
const KEPT_ENTRIES: u64 = 64;
const BEHIND_ENTRIES: u64 = 2 * SNAPSHOT_ENTRIES;
const PAYLOAD_ENTRIES: u64 = 64;

/// Why a group cannot be taken part in.
#[derive(Debug, Error)]
pub(crate) enum GroupError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("raft: {0}")]
    Raft(String),
    #[error(transparent)]
    System(#[from] std::io::Error),
}

pub(crate) struct Group {
    pub(super) id: GroupId,
    pub(super) cluster: ClusterId,
    pub(super) raft_id: RaftId,
    pub(super) raft: Raft,
    pub(super) replicated: Arc<Replicated>,
    pub(super) log: LogStore,
    store: Store,
    /// What the group begins with, when this process is there from its beginning.
    pub(super) seed: Option<Machine>,
    /// When a leader was last heard of.
    led: Mutex<Option<Instant>>,
    followed: Mutex<Followed>,
    contacts: Mutex<Contacts>,
    tasks: Mutex<Vec<AbortHandle>>,
    /// Wakes the steward.
    pub(super) stir: Notify,
}

impl Group {
    /// Takes part in a group for the first time.
    pub(super) async fn create(
        shared: &Arc<Shared>,
        cluster: ClusterId,
        id: GroupId,
        raft_id: RaftId,
        seed: Option<Machine>,
    ) -> Result<Arc<Self>, GroupError> {
        let header = Header::new(cluster, id, raft_id, shared.config.name.clone());
        let store = Store::create(shared.config.data_dir.as_deref(), &header)?;
        Self::start(shared, store, header, seed).await
    }

    /// Takes part in it again, as what the file says.
    pub(super) async fn reopen(shared: &Arc<Shared>, path: &Path) -> Result<Arc<Self>, GroupError> {
        let (store, header) = Store::open(path)?;
        let (ours, theirs) = (shared.config.name.clone(), header.name.clone());
        if ours != theirs {
            return Err(StoreError::OtherNode { path: path.to_owned(), ours, theirs }.into());
        }
        Self::start(shared, store, header, None).await
    }

    async fn start(
        shared: &Arc<Shared>,
        store: Store,
        header: Header,
        seed: Option<Machine>,
    ) -> Result<Arc<Self>, GroupError> {
        let log = LogStore::new(store.clone());
        let machine = MachineStore::load(store.clone(), shared.config.audit.clone())?;
        let replicated = machine.replicated();
        let network = Network { shared: shared.clone(), group: header.group, me: header.raft };
        let raft = Raft::new(header.raft, Arc::new(raft_config()), network, log.clone(), machine).await;
        let raft = raft.map_err(|error| GroupError::Raft(error.to_string()))?;
        let group = Arc::new(Self {
            id: header.group,
            cluster: header.cluster,
            raft_id: header.raft,
            raft,
            replicated,
            log,
            store,
            seed,
            led: Mutex::default(),
            followed: Mutex::default(),
            contacts: Mutex::default(),
            tasks: Mutex::default(),
            stir: Notify::new(),
        });
        *lock(&group.tasks) = vec![
            tokio::spawn(steward::keep_in_order(shared.clone(), group.clone())).abort_handle(),
            tokio::spawn(detector::keep_watch(shared.clone(), group.clone())).abort_handle(),
            tokio::spawn(follow(shared.clone(), group.clone())).abort_handle(),
        ];
        Ok(group)
    }

    /// Takes part no longer. Nothing of it is left.
    pub(super) async fn retire(&self) {
        self.halt().await;
        self.store.delete();
    }

    /// Takes part no longer, for now.
    pub(super) async fn halt(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, group = %self.id, "raft did not end in order");
        }
    }

    /// Begins again with what is stored, after [`halt`](Self::halt).
    pub(super) async fn resume(&self, shared: &Arc<Shared>) -> Result<Arc<Self>, GroupError> {
        let header = Header::new(self.cluster, self.id, self.raft_id, shared.config.name.clone());
        Self::start(shared, self.store.clone(), header, self.seed.clone()).await
    }

    /// What raft says of itself. A copy: whoever holds on to the original stops raft.
    pub(super) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow().clone()
    }

    pub(super) fn is_seeded(&self) -> bool {
        self.replicated.with(Machine::is_seeded)
    }

    /// The state with all that the log holds, also what is not known to be committed: the dead may have committed it,
    /// and of those who live nobody has decided otherwise.
    pub(super) fn newest_state(&self) -> Result<Machine, StoreError> {
        let (mut machine, applied) = self.replicated.snapshot();
        for entry in self.log.behind(applied)? {
            if let EntryPayload::Normal(request) = entry.payload {
                machine.apply(entry.log_id.index, request);
            }
        }
        Ok(machine)
    }

    pub(super) fn is_leader(&self) -> bool {
        self.raft.metrics().borrow().state == ServerState::Leader
    }

    /// The leader, as far as this member knows; it may be dead.
    pub(super) fn leader(&self) -> Option<(RaftId, Peer)> {
        let metrics = self.metrics();
        let leader = metrics.current_leader?;
        let peer = metrics.membership_config.membership().get_node(&leader)?.clone();
        Some((leader, peer))
    }

    /// The leader's raft id, when it showed a sign of life of late; the own one counts while it reaches a quorum.
    pub(super) fn living_leader(&self) -> Option<RaftId> {
        let metrics = self.metrics();
        let leader = metrics.current_leader?;
        let limit = timing::LEADERLESS;
        let lives = if leader == self.raft_id {
            let is_alone = metrics.membership_config.voter_ids().count() == 1;
            is_alone || metrics.millis_since_quorum_ack.is_some_and(|millis| Duration::from_millis(millis) < limit)
        } else {
            lock(&self.led).is_some_and(|at| at.elapsed() < limit)
        };
        lives.then_some(leader)
    }

    /// Notes that a leader was heard of.
    pub(super) fn note_led(&self) {
        *lock(&self.led) = Some(Instant::now());
    }

    /// How long no leader was heard of.
    pub(super) fn leaderless(&self) -> Option<Duration> {
        lock(&self.led).map(|at| at.elapsed())
    }

    /// Notes that the leader answered what was sent at `sent`, how long before a quorum had followed it, and which map
    /// it had.
    pub(super) fn note_answer(&self, sent: Instant, quorum_age_ms: u64, map: MapVersion) {
        if let Some(at) = sent.checked_sub(Duration::from_millis(quorum_age_ms)) {
            lock(&self.contacts).note(at, map);
        }
    }

    /// Notes that a member followed this process as the leader of `vote`, when it answered what was sent at `asked`.
    pub(super) fn note_followed(&self, vote: Vote, by: RaftId, asked: Instant) {
        let membership = self.raft.metrics().borrow().membership_config.membership().clone();
        lock(&self.followed).note(vote, by, asked, self.raft_id, &membership);
    }

    /// As the leader: how long ago a quorum that followed was asked.
    pub(super) fn quorum_age_ms(&self) -> Option<u64> {
        let followed = lock(&self.followed).by_quorum().filter(|_| self.is_leader())?;
        u64::try_from(followed.elapsed().as_millis()).ok()
    }

    /// The latest moment at which this process certainly knew all that the group had decided.
    pub(super) fn last_contact(&self) -> Option<Instant> {
        let (_, index) = self.log.last();
        let LogIndex(known) = self.replicated.with(|machine| machine.index_of(index));
        lock(&self.contacts).latest(MapVersion(known)).max(lock(&self.followed).by_quorum())
    }

    pub(super) fn voters(&self) -> BTreeSet<RaftId> {
        self.raft.metrics().borrow().membership_config.voter_ids().collect()
    }

    /// Puts an entry into the log, as its leader, and waits for what comes of it.
    pub(super) async fn write(&self, request: Request) -> Result<Answer, ProposeError> {
        match tokio::time::timeout(timing::COMMIT, self.raft.client_write(request)).await {
            Ok(Ok(response)) => Ok(response.data),
            // Refused before it was appended, or cut from the log uncommitted.
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(ProposeError::NoLeader),
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(_)) | RaftError::Fatal(_))) | Err(_) => {
                Err(ProposeError::Unknown)
            }
        }
    }
}

fn raft_config() -> Config {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "broky".to_owned(),
        heartbeat_interval: millis(timing::RAFT_HEARTBEAT),
        election_timeout_min: millis(timing::RAFT_ELECTION_MIN),
        election_timeout_max: millis(timing::RAFT_ELECTION_MAX),
        install_snapshot_timeout: millis(timing::RAFT_SNAPSHOT),
        max_payload_entries: PAYLOAD_ENTRIES,
        replication_lag_threshold: BEHIND_ENTRIES,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        ..Config::default()
    }
}

/// How often raft is asked whether it still works.
const HEALTH: Duration = Duration::from_millis(500);

/// Makes what the group has decided what this node goes by.
async fn follow(shared: Arc<Shared>, group: Arc<Group>) {
    let mut map = group.replicated.map();
    loop {
        let newest = map.borrow_and_update().clone();
        if newest.vbucket_count().is_some() {
            shared.adopt(&group).await;
            shared.publish(&newest);
            shared.check_registration(&group);
        }
        tokio::select! {
            changed = map.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(HEALTH) => {}
        }
        let running = group.raft.metrics().borrow().running_state.clone();
        if let Err(error @ (openraft::error::Fatal::StorageError(_) | openraft::error::Fatal::Panicked)) = running {
            shared.end(super::End::Storage(error.to_string()));
            return;
        }
    }
}
