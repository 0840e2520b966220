//! The control plane: one replicated cluster state, and everything that keeps it true.
//!
//! Raft orders the commands, [`ClusterState`](broky_ring::state::ClusterState) says what they do. Around that: how
//! processes find one another and found exactly one cluster ([`seek`], [`founding`]), what happens when a majority is
//! lost for good ([`refound`]), who is dead ([`detector`], [`heartbeat`]), who votes ([`voters`], [`steward`]), and how
//! anybody gets an entry into the log ([`propose`]).
//!
//! All of it runs on the control thread's runtime, apart from the data path: a busy shard delays no heartbeat.
//! Everything that follows from the state is level-triggered: whoever acts looks at the newest [`ClusterMap`], never at
//! what an entry did, so it makes no difference whether the state came by entries, by a snapshot or from a peer.
//!
//! Only this module names openraft.

mod contact;
mod detector;
mod detour;
mod founding;
mod group;
mod heartbeat;
mod ids;
mod links;
mod network;
mod propose;
mod pull;
mod refound;
mod seek;
mod server;
mod shared;
mod status;
mod steward;
mod store;
#[cfg(test)]
mod tests;
mod timing;
mod types;
mod voters;

use std::fmt;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use broky_proto::id::{ClusterId, Epoch, MapVersion, Member};
use broky_proto::peer_v1::control_client::ControlClient;
use broky_proto::peer_v1::control_server::ControlServer;
use broky_ring::command::{Command, Outcome};
use broky_ring::map::{ClusterMap, DiffError, MapDiff};
use broky_ring::member::BootId;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::peer::{DataConnection, Link, PeerStats, accept_peers};
use group::{Group, GroupError};
use ids::random;
use shared::{Shared, lock};
use store::StoreError;

pub(crate) use detector::How;
pub(crate) use propose::ProposeError;
pub(crate) use pull::PullError;
pub(crate) use shared::ControlConfig;
pub use shared::End;
pub(crate) use status::ClusterStatus;
pub(crate) use timing::DEAD_AFTER;

type Client = ControlClient<Link>;

/// The control plane of this process. Clones are handles to the same one; it ends with the runtime it was started on.
#[derive(Clone)]
pub(crate) struct Control(Arc<Shared>);

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("name", &self.0.config.name).field("me", &self.0.me()).finish_non_exhaustive()
    }
}

/// Why the control plane did not start.
#[derive(Debug, Error)]
pub(crate) enum ControlError {
    /// The data directory or what is in it cannot be used.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The system refuses randomness.
    #[error(transparent)]
    System(#[from] std::io::Error),
}

impl Control {
    /// Starts the control plane: it serves its peers, and looks for a cluster. It belongs to one when
    /// [`registered`](Self::registered) says so. Connections of the data plane go to `data`.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub(crate) async fn launch(
        config: ControlConfig,
        listener: TcpListener,
        data: mpsc::UnboundedSender<DataConnection>,
    ) -> Result<Self, ControlError> {
        let (suspicions, suspected) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(config, BootId(random()?), suspicions));
        if let Some(directory) = shared.config.data_dir.clone() {
            let group = reopen(&shared, &directory).await?;
            lock(&shared.place).group = group;
        }
        let server = ControlServer::new(server::Server(shared.clone()))
            .max_decoding_message_size(links::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(links::MESSAGE_BYTES_MAX);
        let server = Served(server);
        tokio::spawn(accept_peers(listener, shared.clone(), server, data, shared.peers.clone()));
        tokio::spawn(seek::keep_seeking(shared.clone()));
        tokio::spawn(heartbeat::keep_beating(shared.clone()));
        tokio::spawn(detector::keep_inquiring(shared.clone(), suspected));
        tokio::spawn(refound::keep_ready(shared.clone()));
        Ok(Self(shared))
    }

    /// Waits until this process is registered in a cluster, and has applied that itself: should it be the only one
    /// left, the cluster that it re-founds must not have forgotten it. `Err` when it never will be.
    pub(crate) async fn registered(&self) -> Result<Member, End> {
        let (mut me, mut ended, mut map) = (self.0.me.subscribe(), self.0.ended.subscribe(), self.map());
        loop {
            if let Some(end) = ended.borrow_and_update().clone() {
                return Err(end);
            }
            let member = *me.borrow_and_update();
            let is_known = |member: &Member| map.borrow_and_update().is_current(*member) && self.0.is_applied(*member);
            if let Some(member) = member.filter(is_known) {
                return Ok(member);
            }
            // The senders live as long as `self`.
            tokio::select! {
                _ = me.changed() => {}
                _ = ended.changed() => {}
                _ = map.changed() => {}
                () = tokio::time::sleep(APPLIED) => {}
            }
        }
    }

    /// Puts a command into the control log, and returns what came of it.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        self.0.propose(command).await
    }

    /// The newest map known here, whichever way it came. Its version never goes back.
    pub(crate) fn map(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.0.map.subscribe()
    }

    /// How the cluster is doing.
    pub(crate) fn status(&self) -> ClusterStatus {
        self.0.status()
    }

    /// Why this node is not ready; `None` when it is.
    pub(crate) fn not_ready(&self) -> Option<String> {
        self.0.not_ready()
    }

    /// Why this process may not go on, once that is so.
    pub(crate) fn ended(&self) -> watch::Receiver<Option<End>> {
        self.0.ended.subscribe()
    }

    /// Waits, but not for long, until the raft group can do without this process. One that ends while it votes takes
    /// the majority of a group of two with it.
    pub(crate) async fn farewell(&self) {
        let Some(group) = self.0.group() else { return };
        let mut metrics = group.raft.metrics();
        let is_out = |metrics: &types::Metrics| !metrics.membership_config.voter_ids().any(|id| id == metrics.id);
        let _ = tokio::time::timeout(timing::CALL, metrics.wait_for(is_out)).await;
    }

    /// What became of the connections of peers.
    pub(crate) fn peers(&self) -> Arc<PeerStats> {
        self.0.peers.clone()
    }

    /// Ends raft in order, so that a data directory can be used again at once.
    pub(crate) async fn halt(&self) {
        if let Some(group) = self.0.group() {
            group.halt().await;
        }
    }
}

/// For the data plane and for gossip.
#[cfg_attr(not(test), expect(dead_code, reason = "the data plane and gossip come behind the control plane"))]
impl Control {
    /// Who this process is. `None` before it is registered.
    pub(crate) fn me(&self) -> Option<Member> {
        self.0.me()
    }

    /// The cluster it is in.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.0.cluster()
    }

    /// Merges what a peer says has changed. True when that was news.
    ///
    /// # Errors
    /// See [`DiffError`].
    pub(crate) fn offer_diff(&self, diff: MapDiff) -> Result<bool, DiffError> {
        self.0.merge(diff)
    }

    /// Gets what has changed from the peer at an address. True when there was news.
    ///
    /// # Errors
    /// See [`PullError`].
    pub(crate) async fn pull_map(&self, address: &str) -> Result<bool, PullError> {
        self.0.pull_map(address).await
    }

    /// Sees to it that this process knows a version of the map that the peer at an address knows. Raft brings it as a
    /// rule: only if it does not, it is pulled.
    ///
    /// # Errors
    /// See [`PullError`].
    pub(crate) async fn hear_of_map(&self, address: &str, version: MapVersion) -> Result<(), PullError> {
        let mut map = self.map();
        let arrived = map.wait_for(|map| map.version() >= version);
        if tokio::time::timeout(timing::RAFT_BRINGS, arrived).await.is_err() {
            self.pull_map(address).await?;
        }
        Ok(())
    }

    /// Gets the map that says who leads since `epoch`: from that leader, or, if it cannot be had there, from anybody.
    pub(crate) async fn hear_of_leader(&self, leader: Member, epoch: Epoch) {
        self.0.hear_of_leader(leader, epoch).await;
    }

    /// Says that a link to a member broke, or that it does not answer.
    pub(crate) fn report_unreachable(&self, member: Member, how: How) {
        self.0.report_unreachable(member, how);
    }
}

impl Shared {
    /// Whether this process has applied its own registration.
    fn is_applied(&self, me: Member) -> bool {
        self.group().is_some_and(|group| group.replicated.with(|machine| machine.state().map().is_current(me)))
    }
}

/// How often it is looked whether the registration has been applied here.
const APPLIED: std::time::Duration = std::time::Duration::from_millis(5);

/// tonic's service, as hyper calls it.
#[derive(Clone)]
struct Served(ControlServer<server::Server>);

impl tower_service::Service<http::Request<hyper::body::Incoming>> for Served {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<hyper::body::Incoming>) -> Self::Future {
        Box::pin(tower_service::Service::call(&mut self.0, request))
    }
}

/// The name of the file that is locked while a process uses a data directory.
const LOCK: &str = "control.lock";

/// Takes part again in the group that the directory knows of.
async fn reopen(shared: &Arc<Shared>, directory: &Path) -> Result<Option<Arc<Group>>, GroupError> {
    *lock(&shared.directory) = Some(lock_directory(directory)?);
    let mut newest: Option<Arc<Group>> = None;
    for path in store::files(directory)? {
        let group = Group::reopen(shared, &path).await?;
        let rank = |group: &Group| group.replicated.with(|machine| (machine.is_seeded(), machine.state().applied()));
        let (keep, obsolete) = match newest.take() {
            Some(other) if rank(&other) >= rank(&group) => (other, Some(group)),
            other => (group, other),
        };
        if let Some(obsolete) = obsolete {
            obsolete.retire().await;
        }
        newest = Some(keep);
    }
    // A founding or joining that was broken off. Nobody waits for this process under that raft id, and it has none
    // else.
    if let Some(unfounded) = newest.take_if(|group| !group.is_seeded()) {
        unfounded.retire().await;
    }
    Ok(newest)
}

fn lock_directory(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join(LOCK);
    let io = |source| StoreError::Io { path: path.clone(), source };
    std::fs::create_dir_all(directory).map_err(io)?;
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: directory.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    Ok(file)
}
