//! A worker's thread.

use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use broky_proto::v1::TopologyResponse;
use broky_ring::map::ClusterMap;
use broky_shard::{Shard, ShardConfig};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tonic::service::Routes;

use super::inbox::{Inbox, ToWorker};
use super::{FromWorker, Worker};
use crate::config::StartError;

/// Time that open calls have to end when the node stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// What a worker needs to start.
pub(crate) struct WorkerConfig {
    pub(crate) shard: ShardConfig,
    pub(crate) message_bytes_max: usize,
    pub(crate) inboxes: Vec<Inbox>,
    pub(crate) topology: watch::Receiver<TopologyResponse>,
    /// The map to begin with.
    pub(crate) map: Arc<ClusterMap>,
    pub(crate) to_control: mpsc::UnboundedSender<FromWorker>,
    pub(crate) routes: Routes,
}

/// Starts a worker's thread.
pub(crate) fn spawn(
    config: WorkerConfig,
    inbox: mpsc::UnboundedReceiver<ToWorker>,
) -> Result<JoinHandle<()>, StartError> {
    let system = |what| move |source| StartError::System { what, source };
    let workers = config.shard.shards;
    config.shard.validate().map_err(|source| StartError::Memory { workers, source })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("a runtime"))?;
    std::thread::Builder::new()
        .name(format!("broky-shard-{}", config.shard.shard.0))
        .spawn(move || {
            LocalSet::new().block_on(&runtime, run(config, inbox));
            // What is left are connections that would not end.
            runtime.shutdown_background();
        })
        .map_err(system("a worker thread"))
}

async fn run(config: WorkerConfig, mut inbox: mpsc::UnboundedReceiver<ToWorker>) {
    let shard = match Shard::new(config.shard.clone()) {
        Ok(shard) => shard,
        // `spawn` has validated the settings.
        Err(error) => return tracing::error!(%error, "a shard cannot start"),
    };
    let worker = Rc::new_cyclic(|this| Worker::new(&config, shard, this.clone()));
    worker.take_map(config.map.clone());
    let flusher = tokio::task::spawn_local(worker.clone().keep_flushing());
    let awake = tokio::task::spawn_local(worker.clone().keep_awake());
    let heartbeats = tokio::task::spawn_local(worker.clone().keep_heartbeats());
    let rerouting = tokio::task::spawn_local(worker.clone().keep_rerouting());
    let notices = tokio::task::spawn_local(worker.clone().keep_noticing());
    let ticks = tokio::task::spawn_local(worker.clone().keep_ticking());
    worker.keep_receiving(&mut inbox).await;
    worker.stop.stop();
    worker.end_subscriptions();
    let _ = tokio::time::timeout(STOP_TIMEOUT, async {
        while worker.has_connections() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    flusher.abort();
    awake.abort();
    heartbeats.abort();
    ticks.abort();
    notices.abort();
    rerouting.abort();
}

impl Worker {
    fn has_connections(&self) -> bool {
        !self.connections.borrow().is_empty()
    }
}
