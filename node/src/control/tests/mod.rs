//! Clusters of control planes in one process: each on a runtime of its own, over real sockets.
//!
//! Dropping an instance is `kill -9`: its tasks are gone, its sockets closed, nobody is told. Blocking its runtime's
//! only thread is `SIGSTOP`: its sockets stay open and nothing answers.

mod death;
mod forming;
mod peers;
mod quorum;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use broky_proto::id::{Incarnation, NodeId, VBucketCount};
use broky_ring::map::Liveness;
use broky_ring::member::{Addresses, Copies, Zone};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use super::*;
use crate::listener::bind;

const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives something; says how long that took.
#[track_caller]
fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            println!("{what}: {:?}", started.elapsed());
            return value;
        }
        assert!(started.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until `attempt` keeps its time once: on a busy machine it does not always.
#[track_caller]
fn until_in_time(what: &str, limit: Duration, attempt: impl Fn() -> Duration) {
    until(what, || {
        let took = attempt();
        println!("{what}, in {took:?}");
        (took < limit).then_some(())
    });
}

/// Of a node that founds a cluster of its own, and is nowhere.
pub(super) fn lone_config(name: &str) -> ControlConfig {
    ControlConfig {
        name: name.to_owned(),
        addresses: Addresses::default(),
        zone: Zone::default(),
        join: Vec::new(),
        expect: None,
        copies: Copies::DEFAULT,
        vbuckets: VBucketCount::new(16).unwrap(),
        shards: NonZeroU16::MIN,
        data_dir: None,
        dead_after: DEAD_AFTER,
        audit: None,
    }
}

/// What an instance is started with.
#[derive(Clone)]
struct Spec {
    config: ControlConfig,
    address: SocketAddr,
}

impl Spec {
    /// A node that founds a cluster of its own.
    fn lone(name: &str) -> Self {
        let address = free_address();
        let mut config = lone_config(name);
        config.addresses = Addresses { peer: address.to_string(), ..Addresses::default() };
        Self { config, address }
    }

    /// Nodes that found a cluster together, each of which knows the addresses of all.
    fn many(count: usize) -> Vec<Self> {
        let mut specs: Vec<Self> = (0..count).map(|at| Self::lone(&format!("n{at}"))).collect();
        let join: Vec<String> = specs.iter().map(|spec| spec.address.to_string()).collect();
        for spec in &mut specs {
            spec.config.join = join.clone();
            spec.config.expect = Some(u16::try_from(count).unwrap());
        }
        specs
    }

    /// A node that joins whatever cluster is there.
    fn joining(name: &str, at: &Spec) -> Self {
        let mut spec = Self::lone(name);
        spec.config.join = vec![at.address.to_string()];
        spec
    }

    fn with_data(mut self, directory: &std::path::Path) -> Self {
        self.config.data_dir = Some(directory.join(&self.config.name));
        self
    }

    fn start(&self) -> Instance {
        self.try_start().unwrap()
    }

    fn try_start(&self) -> Result<Instance, ControlError> {
        if std::env::var_os("BROKY_LOG").is_some() {
            let _ = tracing_subscriber::fmt().with_env_filter(EnvFilter::from_env("BROKY_LOG")).try_init();
        }
        // One thread, so that it can be paused.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (data, data_connections) = mpsc::unbounded_channel();
        let listener = bind(self.address, "peers").unwrap();
        let control = runtime.block_on(async {
            Control::launch(self.config.clone(), tokio::net::TcpListener::from_std(listener).unwrap(), data).await
        })?;
        Ok(Instance { spec: self.clone(), control: Some(control), runtime: Some(runtime), _data: data_connections })
    }
}

/// An address of the loopback network that is this process's own. A port of 127.0.0.1 that is free now may be that of
/// somebody's outgoing connection by the time it is bound.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let [round, next] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    SocketAddr::from(([127, high | 0x40, low, next], 7401 + u16::from(round)))
}

/// A running control plane. Dropped, it is killed.
struct Instance {
    spec: Spec,
    control: Option<Control>,
    runtime: Option<Runtime>,
    _data: mpsc::UnboundedReceiver<DataConnection>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        drop(self.control.take());
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(1));
    }
}

impl Instance {
    fn control(&self) -> &Control {
        self.control.as_ref().unwrap()
    }

    fn name(&self) -> &str {
        &self.spec.config.name
    }

    fn map(&self) -> Arc<ClusterMap> {
        self.control().map().borrow().clone()
    }

    fn me(&self) -> Member {
        until("registered", || self.control().me())
    }

    fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        self.runtime.as_ref().unwrap().block_on(self.control().propose(command))
    }

    /// Stops it for this long, as a debugger would.
    fn pause(&self, time: Duration) {
        self.runtime.as_ref().unwrap().spawn(async move { std::thread::sleep(time) });
    }

    fn liveness(&self, node: NodeId) -> Option<Liveness> {
        self.map().node(node).map(|node| node.liveness)
    }

    fn is_raft_leader(&self) -> bool {
        self.control().0.group().is_some_and(|group| group.is_leader() && group.living_leader().is_some())
    }

    fn ended(&self) -> Option<End> {
        self.control().ended().borrow().clone()
    }

    fn voters(&self) -> BTreeSet<String> {
        self.control().status().raft.voters.into_iter().collect()
    }
}

fn names(instances: &[Instance]) -> BTreeSet<String> {
    instances.iter().map(|instance| instance.name().to_owned()).collect()
}

fn start_all(specs: &[Spec]) -> Vec<Instance> {
    specs.iter().map(Spec::start).collect()
}

/// Waits until all are in one cluster, alive, and know it; gives its id.
#[track_caller]
fn until_formed(instances: &[Instance]) -> ClusterId {
    let expected = names(instances);
    until("everybody is registered and knows everybody", || {
        instances
            .iter()
            .all(|instance| {
                let map = instance.map();
                let alive: BTreeSet<String> =
                    map.nodes().filter(|(id, _)| map.alive(*id).is_some()).map(|(_, node)| node.name.clone()).collect();
                let is_known = |me| map.is_alive(me) && instance.control().0.is_applied(me);
                let knows_itself = instance.control().me().is_some_and(is_known);
                if let Some(end) = instance.ended() {
                    panic!("{} has ended: {end}", instance.name());
                }
                knows_itself && expected.is_subset(&alive)
            })
            .then_some(())
    });
    let clusters: Vec<ClusterId> = instances.iter().map(|instance| instance.map().cluster()).collect();
    assert!(clusters.iter().all(|cluster| *cluster == clusters[0]), "several clusters: {clusters:?}");
    clusters[0]
}

/// Waits until everybody votes, and one leads.
#[track_caller]
fn until_settled(instances: &[Instance]) -> usize {
    let expected = names(instances);
    until("everybody votes", || instances.iter().all(|instance| instance.voters() == expected).then_some(()));
    leader(instances)
}

/// Waits until one of these leads; gives its place.
#[track_caller]
fn leader(instances: &[Instance]) -> usize {
    until("somebody leads", || instances.iter().position(Instance::is_raft_leader))
}

/// A cluster of three voters, and who leads.
fn three() -> (Vec<Spec>, Vec<Instance>, usize) {
    let specs = Spec::many(3);
    let instances = start_all(&specs);
    until_formed(&instances);
    let leader = until_settled(&instances);
    (specs, instances, leader)
}
