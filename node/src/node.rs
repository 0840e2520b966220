//! A running node: starting its threads, and stopping them.
//!
//! The control thread comes first: it takes part in the cluster's control plane and answers operators. Only when the
//! process is registered, and thereby knows its cluster and who it is in it, the shards start and clients are served.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use broky_proto::id::{Incarnation, Member, NodeId};
use broky_proto::peer::Hello;
use broky_proto::v1::TopologyResponse;
use broky_ring::map::ClusterMap;
use broky_ring::member::{Addresses, Zone};
use broky_shard::{ShardConfig, ShardId};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use crate::admin::{self, Admin};
use crate::advertise::{advertised, gossip_address};
use crate::audit::Audit;
use crate::config::{NodeConfig, StartError};
use crate::control::{Control, ControlConfig, End, How};
use crate::gossip::{self, GossipConfig, GossipEvent, GossipHandle, GossipStats, Leads};
use crate::grpc::{routes, set_not_serving};
use crate::listener::{ListenerStats, bind, keep_accepting};
use crate::metrics::Exporter;
use crate::peer::DataConnection;
use crate::topology::topology;
use crate::worker::{self, FromWorker, Inbox, ToWorker, WorkerConfig};

/// Time for the first placement, before the node serves what it has: in a large cluster some vbuckets may have to wait
/// for others.
const PLACEMENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for what still runs on the control thread when the node stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(100);

/// A running node. Dropped, it stops.
#[derive(Debug)]
pub struct Node {
    client_address: SocketAddr,
    peer_address: SocketAddr,
    admin_address: SocketAddr,
    control: Control,
    inboxes: Arc<OnceLock<Vec<Inbox>>>,
    started: Option<oneshot::Receiver<Result<(), StartError>>>,
    thread: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Node {
    /// Starts a node, and waits until it is in a cluster: when this returns, it takes calls.
    ///
    /// # Errors
    /// See [`StartError`]; nothing keeps running then.
    ///
    /// # Panics
    /// Within a tokio runtime: a node has its own.
    pub fn start(config: NodeConfig) -> Result<Self, StartError> {
        let mut node = Self::begin(config)?;
        match node.started.take().map(oneshot::Receiver::blocking_recv) {
            Some(Ok(started)) => started.map(|()| node),
            Some(Err(_)) | None => Err(StartError::Stopped),
        }
    }

    /// Begins to start a node: when this returns, it looks for a cluster and answers operators.
    /// [`started`](Self::started) says when it takes calls.
    ///
    /// # Errors
    /// See [`StartError`]; nothing keeps running then.
    ///
    /// # Panics
    /// Within a tokio runtime: a node has its own.
    pub fn begin(config: NodeConfig) -> Result<Self, StartError> {
        let system = |what| move |source| StartError::System { what, source };
        shard_config(&config, ShardId(0), NOBODY, &ClusterMap::default())
            .validate()
            .map_err(|source| StartError::Memory { workers: config.shards().get(), source })?;
        let clients = bind(config.listen, "clients (--listen)")?;
        let peers = bind(config.peer_listen, "other nodes (--peer-listen)")?;
        let admins = bind(config.admin_listen, "the admin HTTP (--admin-listen)")?;
        let client_address = clients.local_addr().map_err(system("the client listener"))?;
        let peer_address = peers.local_addr().map_err(system("the peer listener"))?;
        let admin_address = admins.local_addr().map_err(system("the admin listener"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system("the control runtime"))?;
        let (routes, health) = runtime.block_on(routes()).map_err(system("the gRPC services"))?;
        let addresses = Addresses {
            client: advertised(config.advertise.as_deref(), client_address, true),
            peer: advertised(config.advertise.as_deref(), peer_address, false),
            admin: advertised(config.advertise.as_deref(), admin_address, false),
        };
        // What the data plane does with the connections it is handed is its own affair.
        let (data, data_connections) = mpsc::unbounded_channel();
        let audit = config.audit.as_deref().map(|path| Audit::begin(path, &config.name));
        let audit = audit.transpose().map_err(system("the audit"))?;
        let control = control_config(&config, addresses.clone(), audit);
        let launch = async {
            let peers = tokio::net::TcpListener::from_std(peers).map_err(system("the peer listener"))?;
            Control::launch(control, peers, data).await.map_err(|source| StartError::Control(source.into()))
        };
        let control = runtime.block_on(launch)?;
        let listener = Arc::new(ListenerStats::default());
        let inboxes = Arc::new(OnceLock::new());
        let gossip_stats = Arc::new(OnceLock::new());
        let admin = Admin {
            name: config.name.clone(),
            control: control.clone(),
            address: addresses.client,
            host: config.advertise.clone(),
            inboxes: inboxes.clone(),
            listener: listener.clone(),
            memory_max_bytes: config.memory_bytes,
            started: Instant::now(),
            exporter: Exporter::new(),
            gossip: gossip_stats.clone(),
        };
        let (report, started) = oneshot::channel();
        let gossip_socket = gossip::bind(peer_address).map_err(|source| StartError::Listen {
            address: peer_address,
            purpose: "gossip (--peer-listen)",
            source,
        })?;
        let shell = Shell {
            config,
            control: control.clone(),
            routes,
            health,
            inboxes: inboxes.clone(),
            listener,
            data_connections,
            peer_address,
            gossip_stats,
            gossip_socket: std::sync::Mutex::new(Some(gossip_socket)),
        };
        let thread = shell.spawn(runtime, clients, admins, admin, report)?;
        let (started, thread) = (Some(started), Some(thread));
        Ok(Self { client_address, peer_address, admin_address, control, inboxes, started, thread })
    }

    /// Waits until the node takes calls, which may be until others have come.
    ///
    /// # Errors
    /// See [`StartError`]. Stop the node then.
    pub async fn started(&mut self) -> Result<(), StartError> {
        match &mut self.started {
            Some(started) => {
                let result = started.await.unwrap_or(Err(StartError::Stopped));
                self.started = None;
                result
            }
            None => Ok(()),
        }
    }

    /// Waits until this process may not go on, because another one has taken its place or an operator has removed it.
    /// Stop the node then.
    pub async fn ended(&self) -> End {
        let mut ended = self.control.ended();
        loop {
            let end = ended.borrow_and_update().clone();
            if let Some(end) = end {
                self.control.farewell().await;
                return end;
            }
            if ended.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Where clients connect.
    #[must_use]
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Where other nodes connect.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.peer_address
    }

    /// Where the admin HTTP is served.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// How many worker threads it has: as many as every node of its cluster. Zero before it takes calls.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.inboxes.get().map_or(0, Vec::len)
    }

    /// Stops the node: takes no more connections, tells subscribers and publishers, and returns when its threads have
    /// ended, which takes a few seconds at the most.
    pub fn stop(mut self) {
        self.stop_threads();
    }

    fn stop_threads(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

const NOBODY: Member = Member { node: NodeId(0), incarnation: Incarnation(0) };

fn shard_config(config: &NodeConfig, shard: ShardId, me: Member, map: &ClusterMap) -> ShardConfig {
    let shards = map.shards().unwrap_or_else(|| config.shards());
    ShardConfig {
        shard,
        shards: shards.get(),
        me,
        cluster: map.cluster(),
        vbuckets: map.vbucket_count().unwrap_or(config.vbuckets),
        memory_bytes: config.memory_bytes / usize::from(shards.get()),
        block_bytes_max: ShardConfig::BLOCK_BYTES_MAX_DEFAULT,
    }
}

fn control_config(config: &NodeConfig, addresses: Addresses, audit: Option<Audit>) -> ControlConfig {
    ControlConfig {
        name: config.name.clone(),
        addresses,
        zone: Zone(config.zone.clone()),
        join: config.join.clone(),
        expect: config.expect,
        copies: config.copies,
        vbuckets: config.vbuckets,
        shards: config.shards(),
        data_dir: config.data_dir.clone(),
        dead_after: config.dead_after,
        audit,
    }
}

/// What the control thread runs.
struct Shell {
    config: NodeConfig,
    control: Control,
    routes: Routes,
    health: HealthReporter,
    /// Set when the workers run.
    inboxes: Arc<OnceLock<Vec<Inbox>>>,
    listener: Arc<ListenerStats>,
    data_connections: mpsc::UnboundedReceiver<DataConnection>,
    peer_address: SocketAddr,
    /// Set when gossip begins.
    gossip_stats: Arc<OnceLock<Arc<GossipStats>>>,
    /// Taken when gossip begins.
    gossip_socket: std::sync::Mutex<Option<std::net::UdpSocket>>,
}

impl Shell {
    fn spawn(
        mut self,
        runtime: Runtime,
        clients: std::net::TcpListener,
        admins: std::net::TcpListener,
        admin: Admin,
        report: oneshot::Sender<Result<(), StartError>>,
    ) -> Result<(oneshot::Sender<()>, JoinHandle<()>), StartError> {
        let (stop, stopped) = oneshot::channel();
        let run = async move {
            let (Ok(clients), Ok(admins)) =
                (tokio::net::TcpListener::from_std(clients), tokio::net::TcpListener::from_std(admins))
            else {
                return tracing::error!("the listeners cannot be registered with the runtime");
            };
            let serving = tokio::spawn(admin::serve(admins, Arc::new(admin)));
            let mut workers = Vec::new();
            tokio::select! {
                () = self.serve(clients, report, &mut workers) => {}
                // A dropped node stops like one that is told to.
                _ = stopped => {}
            }
            set_not_serving(&self.health).await;
            for inbox in self.inboxes.get().into_iter().flatten() {
                let _ = inbox.send(ToWorker::Stop);
            }
            // Open calls end meanwhile; the control plane goes on until they have.
            let _ =
                tokio::task::spawn_blocking(move || workers.into_iter().for_each(|worker| drop(worker.join()))).await;
            serving.abort();
            self.control.halt().await;
        };
        let thread = std::thread::Builder::new().name("broky-control".to_owned()).spawn(move || {
            runtime.block_on(run);
            runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
        });
        Ok((stop, thread.map_err(|source| StartError::System { what: "the control thread", source })?))
    }

    /// Waits for a cluster, starts the workers, and serves clients. Returns when there is no cluster to serve in.
    async fn serve(
        &mut self,
        clients: tokio::net::TcpListener,
        report: oneshot::Sender<Result<(), StartError>>,
        workers: &mut Vec<JoinHandle<()>>,
    ) {
        let me = match self.control.registered().await {
            Ok(me) => me,
            Err(end) => return drop(report.send(Err(StartError::Ended(end)))),
        };
        let mut map = self.control.map();
        let is_placed = |map: &Arc<ClusterMap>| map.vbuckets().all(|(_, vbucket)| vbucket.leader.is_some());
        let _ = tokio::time::timeout(PLACEMENT_TIMEOUT, map.wait_for(is_placed)).await;
        let newest = map.borrow_and_update().clone();
        let told = watch::Sender::new(topology(&newest));
        let (to_control, mut from_workers) = mpsc::unbounded_channel();
        let started = self.start_workers(me, &newest, &told, &to_control, workers);
        let has_started = started.is_ok();
        let _ = report.send(started);
        if !has_started {
            return;
        }
        let inboxes = self.inboxes.get().cloned().unwrap_or_default();
        let mut gossip = self.start_gossip(me, &newest);
        let accepting = tokio::spawn(keep_accepting(clients, inboxes, self.listener.clone()));
        let _accepting = AbortOnDrop(accepting.abort_handle());
        loop {
            tokio::select! {
                changed = map.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let newest = map.borrow_and_update().clone();
                    told.send_replace(topology(&newest));
                    if let Some(gossip) = &gossip {
                        gossip.set_leads(led_by(me, &newest));
                    }
                    for inbox in self.inboxes.get().into_iter().flatten() {
                        // A worker that is gone reads nothing any more.
                        let _ = inbox.send(ToWorker::Map(newest.clone()));
                    }
                }
                Some((stream, hello)) = self.data_connections.recv() => self.hand_on(stream, hello),
                Some(wish) = from_workers.recv() => self.fulfil(wish),
                Some(event) = next_event(gossip.as_mut()) => self.heed(event),
            }
        }
    }

    /// Begins to gossip with the other nodes. Without it the node works, and hears of changes from raft only.
    fn start_gossip(&self, me: Member, map: &Arc<ClusterMap>) -> Option<GossipHandle> {
        let config = GossipConfig {
            socket: self.gossip_socket.lock().ok()?.take()?,
            me,
            cluster: map.cluster(),
            vbuckets: map.vbucket_count()?,
            address: gossip_address(self.config.advertise.as_deref(), self.peer_address),
            zone: Zone(self.config.zone.clone()),
            seeds: self.config.join.clone(),
            map: self.control.map(),
        };
        match gossip::spawn(config) {
            Ok(gossip) => {
                gossip.set_leads(led_by(me, map));
                self.gossip_stats.get_or_init(|| gossip.stats.clone());
                Some(gossip)
            }
            Err(error) => {
                tracing::warn!(%error, "this node does not gossip");
                None
            }
        }
    }

    /// Looks into what gossip suggests.
    fn heed(&self, event: GossipEvent) {
        match event {
            GossipEvent::NewerMap { from, address, version } => {
                let control = self.control.clone();
                tokio::spawn(async move {
                    if let Err(error) = control.hear_of_map(&address.to_string(), version).await {
                        tracing::debug!(%from, %version, %error, "a newer map was not to be had");
                    }
                });
            }
            GossipEvent::Suspect(member) => self.control.report_unreachable(member, How::Silent),
            // Its followers refuse what this node sends in any case; with the map it stops to lead.
            GossipEvent::LeaderElsewhere { member, vbuckets } => {
                tracing::debug!(%member, vbuckets = vbuckets.len(), "somebody else leads what this node led");
                let Some(epoch) = vbuckets.iter().map(|(_, epoch)| *epoch).max() else { return };
                let control = self.control.clone();
                tokio::spawn(async move { control.hear_of_leader(member, epoch).await });
            }
            GossipEvent::Alive(member) => tracing::debug!(%member, "heard"),
        }
    }

    /// Gives a leader's connection to the shard of the same number.
    fn hand_on(&self, stream: std::net::TcpStream, hello: Hello) {
        let inboxes = self.inboxes.get().map(Vec::as_slice).unwrap_or_default();
        match inboxes.get(usize::from(hello.shard)) {
            Some(inbox) => drop(inbox.send(ToWorker::Peer { stream, hello })),
            // Before this node has started its own; it is dialled again.
            None if inboxes.is_empty() => {}
            None => tracing::warn!(from = ?hello.from, shard = hello.shard, "a link to a shard that no node has"),
        }
    }

    /// Does what a worker asks for.
    fn fulfil(&self, wish: FromWorker) {
        match wish {
            FromWorker::Unreachable { member, how } => self.control.report_unreachable(member, how),
            FromWorker::Propose { command } => {
                let control = self.control.clone();
                tokio::spawn(async move {
                    // What becomes of it is in the map; what is not there after a while is proposed again.
                    if let Err(error) = control.propose(command).await {
                        tracing::debug!(%error, "a proposal has no outcome");
                    }
                });
            }
        }
    }

    fn start_workers(
        &self,
        me: Member,
        map: &Arc<ClusterMap>,
        told: &watch::Sender<TopologyResponse>,
        to_control: &mpsc::UnboundedSender<FromWorker>,
        workers: &mut Vec<JoinHandle<()>>,
    ) -> Result<(), StartError> {
        let shards = map.shards().unwrap_or_else(|| self.config.shards()).get();
        if let Some(wanted) = self.config.workers.filter(|wanted| wanted.get() != shards) {
            tracing::warn!(wanted, shards, "each node has as many workers as the cluster was founded with");
        }
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..shards).map(|_| mpsc::unbounded_channel()).unzip();
        let inboxes = self.inboxes.get_or_init(|| senders);
        for (shard, inbox) in (0..).map(ShardId).zip(receivers) {
            let config = WorkerConfig {
                shard: shard_config(&self.config, shard, me, map),
                message_bytes_max: self.config.message_bytes_max,
                inboxes: inboxes.clone(),
                topology: told.subscribe(),
                map: map.clone(),
                to_control: to_control.clone(),
                routes: self.routes.clone(),
            };
            workers.push(worker::spawn(config, inbox)?);
        }
        Ok(())
    }
}

/// What a process leads, by the map.
fn led_by(me: Member, map: &ClusterMap) -> Leads {
    let led = map.vbuckets().filter(|(_, vbucket)| vbucket.leader == Some(me));
    led.map(|(id, vbucket)| (id, vbucket.epoch)).collect()
}

/// What gossip suggests next; never, where there is none.
async fn next_event(gossip: Option<&mut GossipHandle>) -> Option<GossipEvent> {
    match gossip {
        Some(gossip) => gossip.events.recv().await,
        None => std::future::pending().await,
    }
}

/// Ends a task when its owner does.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
