//! A running node: starting its threads, and stopping them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use broky_proto::v1::TopologyResponse;
use broky_ring::member::Addresses;
use broky_shard::{Assignment, ShardConfig, ShardId};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::service::Routes;

use crate::admin::{self, Admin};
use crate::config::{NodeConfig, StartError};
use crate::control::{Founded, found};
use crate::grpc::{routes, set_not_serving};
use crate::listener::{ListenerStats, bind, keep_accepting};
use crate::metrics::Exporter;
use crate::worker::{self, Inbox, ToWorker, WorkerConfig};

/// A running node. Dropped, it stops.
#[derive(Debug)]
pub struct Node {
    client_address: SocketAddr,
    admin_address: SocketAddr,
    inboxes: Vec<Inbox>,
    /// What topology watchers follow; it has to live as long as they do.
    topology: watch::Sender<TopologyResponse>,
    workers: Vec<JoinHandle<()>>,
    control: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Node {
    /// Starts a node: when this returns, it takes calls.
    ///
    /// # Errors
    /// See [`StartError`]; nothing keeps running then.
    ///
    /// # Panics
    /// Within a tokio runtime: a node has its own.
    pub fn start(config: NodeConfig) -> Result<Self, StartError> {
        let clients = bind(config.listen, "clients (--listen)")?;
        let admins = bind(config.admin_listen, "the admin HTTP (--admin-listen)")?;
        let system = |what| move |source| StartError::System { what, source };
        let client_address = clients.local_addr().map_err(system("the client listener"))?;
        let admin_address = admins.local_addr().map_err(system("the admin listener"))?;
        let address = config.advertise.clone().unwrap_or_else(|| client_address.to_string());
        let addresses = Addresses { client: address.clone(), peer: String::new(), admin: admin_address.to_string() };
        let founded = found(&config.name, addresses, config.vbuckets).map_err(system("a cluster"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system("the control runtime"))?;
        let (routes, health) = runtime.block_on(routes()).map_err(system("the gRPC services"))?;
        let mut node = Self {
            client_address,
            admin_address,
            inboxes: Vec::new(),
            topology: watch::Sender::new(founded.topology()),
            workers: Vec::new(),
            control: None,
        };
        node.start_workers(&config, &founded, &routes)?;
        let listener = Arc::new(ListenerStats::default());
        let admin = Arc::new(Admin {
            name: config.name,
            cluster: founded.cluster(),
            address,
            inboxes: node.inboxes.clone(),
            listener: listener.clone(),
            memory_max_bytes: config.memory_bytes,
            started: Instant::now(),
            exporter: Exporter::new(),
        });
        let (stop, stopped) = oneshot::channel();
        let inboxes = node.inboxes.clone();
        let control = async move {
            let (Ok(clients), Ok(admins)) =
                (tokio::net::TcpListener::from_std(clients), tokio::net::TcpListener::from_std(admins))
            else {
                return tracing::error!("the listeners cannot be registered with the runtime");
            };
            let accepting = tokio::spawn(keep_accepting(clients, inboxes, listener));
            let serving = tokio::spawn(admin::serve(admins, admin));
            // A dropped node stops like one that is told to.
            let _ = stopped.await;
            set_not_serving(&health).await;
            accepting.abort();
            serving.abort();
        };
        let thread = std::thread::Builder::new()
            .name("broky-control".to_owned())
            .spawn(move || {
                runtime.block_on(control);
                runtime.shutdown_timeout(Duration::from_millis(100));
            })
            .map_err(system("the control thread"))?;
        node.control = Some((stop, thread));
        Ok(node)
    }

    fn start_workers(&mut self, config: &NodeConfig, founded: &Founded, routes: &Routes) -> Result<(), StartError> {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..config.workers).map(|_| mpsc::unbounded_channel()).unzip();
        self.inboxes = senders;
        let assignments: Vec<Assignment> = founded.assignments();
        for (shard, inbox) in (0..).map(ShardId).zip(receivers) {
            let shard = ShardConfig {
                shard,
                shards: config.workers,
                me: founded.me,
                cluster: founded.cluster(),
                vbuckets: config.vbuckets,
                memory_bytes: config.memory_bytes / usize::from(config.workers),
                block_bytes_max: ShardConfig::BLOCK_BYTES_MAX_DEFAULT,
            };
            let config = WorkerConfig {
                shard,
                message_bytes_max: config.message_bytes_max,
                inboxes: self.inboxes.clone(),
                topology: self.topology.subscribe(),
                assignments: assignments.clone(),
                routes: routes.clone(),
            };
            self.workers.push(worker::spawn(config, inbox)?);
        }
        Ok(())
    }

    /// Where clients connect.
    #[must_use]
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Where the admin HTTP is served.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Stops the node: takes no more connections, tells subscribers and publishers, and returns when its threads have
    /// ended, which takes a few seconds at the most.
    pub fn stop(mut self) {
        self.stop_threads();
    }

    fn stop_threads(&mut self) {
        if let Some((stop, thread)) = self.control.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
        for inbox in &self.inboxes {
            let _ = inbox.send(ToWorker::Stop);
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop_threads();
    }
}
