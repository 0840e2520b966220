//! Real nodes: started, killed, paused and started again at the same addresses.
//!
//! What is alive is what this module has started and not killed: the truth that the cluster's own opinion is measured
//! against. Each lifetime of each node has a log of its own. How a node is run is behind a seam ([`runner`]): as
//! a process on loopback ([`processes`]), or as a container of `docker-compose.yml` ([`containers`]).
//!
//! Nodes and clients reach nodes directly, or through a [`Proxy`] that can break the links between them. Whoever
//! observes uses the real addresses either way: no fault is to blind the judge.

mod containers;
mod node;
mod options;
mod process;
mod processes;
mod runner;

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use self::containers::Containers;
pub use self::containers::{Engine, NoEngine};
pub use self::node::SupervisedNode;
pub use self::options::{ClusterOptions, Host, Network};
pub use self::process::leash;
use self::processes::Processes;
use self::runner::{Files, Order, Runner};
use crate::error::HarnessError;
use crate::journal::now;
use crate::proxy::Proxy;

/// Time that a node has to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How often it is looked whether a process has ended.
const PERIOD: Duration = Duration::from_millis(2);

/// A cluster's processes.
#[derive(Debug)]
pub struct Supervisor {
    options: ClusterOptions,
    runner: Box<dyn Runner>,
    nodes: Vec<SupervisedNode>,
    lifetimes: Vec<Lifetime>,
}

/// A process that was started, and where it notes what the control log decides.
#[derive(Clone, Debug)]
pub struct Lifetime {
    /// Its pid. In a container a process does not know it.
    pub pid: u32,
    /// The file, if the cluster is audited. One that ended early has not begun it.
    pub audit: PathBuf,
}

impl Supervisor {
    /// Starts the nodes that found the cluster. They are not ready yet.
    ///
    /// # Errors
    /// When there are no ports, or a process cannot be started.
    ///
    /// # Panics
    /// Outside of a tokio runtime, if there is to be a proxy.
    pub fn start(options: ClusterOptions) -> Result<Self, HarnessError> {
        std::fs::create_dir_all(&options.directory).map_err(HarnessError::io("make the log directory"))?;
        let runner: Box<dyn Runner> = match options.host.clone() {
            Host::Processes { binary, network } => Box::new(Processes::new(binary, network, options.clone())),
            Host::Containers { engine, binary } => Box::new(Containers::new(engine, &binary, &options)?),
        };
        let mut supervisor = Self { runner, nodes: Vec::new(), lifetimes: Vec::new(), options };
        let founders = supervisor.options.nodes;
        for _ in 0..founders {
            supervisor.add(Some(founders))?;
        }
        let join: Vec<_> = supervisor.nodes.iter().map(SupervisedNode::peer_address).collect();
        for at in 0..founders {
            supervisor.node_mut(at)?.join.clone_from(&join);
            supervisor.start_node(at)?;
        }
        Ok(supervisor)
    }

    /// Starts another node, which joins. Gives its index.
    ///
    /// # Errors
    /// As [`Supervisor::start`].
    pub fn join_node(&mut self) -> Result<usize, HarnessError> {
        let join = self.nodes.iter().map(SupervisedNode::peer_address).collect();
        let at = self.add(None)?;
        self.node_mut(at)?.join = join;
        self.start_node(at)?;
        Ok(at)
    }

    fn add(&mut self, expect: Option<usize>) -> Result<usize, HarnessError> {
        let at = self.nodes.len();
        let place = self.runner.place(at)?;
        self.nodes.push(SupervisedNode::new(place, expect));
        Ok(at)
    }

    /// Starts a node's process: the first, or again after it has ended.
    ///
    /// # Errors
    /// When that fails, or there is no such node.
    pub fn start_node(&mut self, at: usize) -> Result<(), HarnessError> {
        self.node_mut(at)?.lifetimes += 1;
        let audit = self.audit(at)?;
        let node = self.node(at)?;
        let files = Files { log: self.log_of(node), audit: self.options.is_audited.then(|| audit.clone()) };
        let node = self.nodes.get(at).ok_or_else(|| no_node(at))?;
        let life = self.runner.start(at, node, &files)?;
        self.lifetimes.push(Lifetime { pid: life.pid(), audit });
        let node = self.node_mut(at)?;
        node.life = Some(life);
        node.since = now();
        node.is_paused = false;
        Ok(())
    }

    /// `kill -9`. The process is gone when this returns.
    ///
    /// # Errors
    /// When there is no such node, or it cannot be killed.
    pub fn kill(&mut self, at: usize) -> Result<(), HarnessError> {
        self.kill_together(&[at])
    }

    /// Kills several at once: none is waited for before all are signalled.
    ///
    /// # Errors
    /// When one of them does not exist, or cannot be killed.
    pub fn kill_together(&mut self, nodes: &[usize]) -> Result<(), HarnessError> {
        for at in nodes {
            self.node_mut(*at)?.life.iter_mut().try_for_each(|life| life.order(Order::Kill))?;
        }
        for at in nodes {
            if let Some(mut life) = self.node_mut(*at)?.life.take() {
                life.wait()?;
            }
            self.runner.note_gone(*at);
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&mut self, at: usize) -> Result<(), HarnessError> {
        let node = self.node_mut(at)?;
        let Some(life) = &mut node.life else { return Ok(()) };
        life.order(Order::Terminate)?;
        let deadline = Instant::now() + STOP_LIMIT;
        while life.ended().is_none() {
            if Instant::now() > deadline {
                let what = format!("{} ends after SIGTERM", node.name);
                self.kill(at)?;
                return Err(HarnessError::Late { what, limit: STOP_LIMIT, seen: "it runs".to_owned() });
            }
            tokio::time::sleep(PERIOD).await;
        }
        node.life = None;
        self.runner.note_gone(at);
        Ok(())
    }

    /// Stops a process as SIGSTOP does.
    ///
    /// # Errors
    /// When there is no such node, or that cannot be done.
    pub fn pause(&mut self, at: usize) -> Result<(), HarnessError> {
        let node = self.node_mut(at)?;
        node.is_paused = true;
        node.life.iter_mut().try_for_each(|life| life.order(Order::Pause))
    }

    /// Lets it go on, as SIGCONT does.
    ///
    /// # Errors
    /// When there is no such node, or that cannot be done.
    pub fn resume(&mut self, at: usize) -> Result<(), HarnessError> {
        let node = self.node_mut(at)?;
        node.is_paused = false;
        node.life.iter_mut().try_for_each(|life| life.order(Order::Resume))
    }

    /// Cuts a node off from all others there are, in both directions.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn isolate(&mut self, at: usize) -> Result<(), HarnessError> {
        self.runner.isolate(at)
    }

    /// Makes the network whole.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn mend(&mut self) -> Result<(), HarnessError> {
        self.runner.mend()
    }

    /// Every node, by index.
    #[must_use]
    pub fn nodes(&self) -> &[SupervisedNode] {
        &self.nodes
    }

    /// A node.
    ///
    /// # Errors
    /// When there is none of this index.
    pub fn node(&self, at: usize) -> Result<&SupervisedNode, HarnessError> {
        self.nodes.get(at).ok_or_else(|| no_node(at))
    }

    fn node_mut(&mut self, at: usize) -> Result<&mut SupervisedNode, HarnessError> {
        self.nodes.get_mut(at).ok_or_else(|| no_node(at))
    }

    /// The nodes whose processes run, by index.
    pub fn running(&self) -> impl Iterator<Item = (usize, &SupervisedNode)> {
        self.nodes.iter().enumerate().filter(|(_, node)| node.is_running())
    }

    /// Client addresses of all nodes, as a client is given them.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client_address().to_string()).collect()
    }

    /// The network between its nodes, if its links can be broken one by one.
    #[must_use]
    pub fn proxy(&self) -> Option<&Proxy> {
        self.runner.proxy()
    }

    /// Every process that was started, in that order.
    #[must_use]
    pub fn lifetimes(&self) -> &[Lifetime] {
        &self.lifetimes
    }

    /// Where the logs are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.options.directory
    }

    /// Where a node keeps its control log, if the cluster is durable.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn data(&self, at: usize) -> Result<PathBuf, HarnessError> {
        Ok(processes::data_of(self.directory(), self.node(at)?))
    }

    /// Where a node's present process notes what the control log decides, if the cluster is audited.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn audit(&self, at: usize) -> Result<PathBuf, HarnessError> {
        let node = self.node(at)?;
        Ok(self.directory().join(format!("{}.{}.audit", node.name, node.lifetimes)))
    }

    /// How a node's process ended, if it did by itself; it is not the node's any more then.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn take_ended(&mut self, at: usize) -> Result<Option<ExitStatus>, HarnessError> {
        let node = self.node_mut(at)?;
        let ended = node.life.as_mut().and_then(|life| life.ended());
        if ended.is_some() {
            node.life = None;
            self.runner.note_gone(at);
        }
        Ok(ended)
    }

    /// Fails when a process has ended that nobody killed.
    ///
    /// # Errors
    /// Then.
    pub fn check(&mut self) -> Result<(), HarnessError> {
        let ended = |(at, node): (usize, &mut SupervisedNode)| Some((at, node.life.as_mut()?.ended()?));
        let Some((at, status)) = self.nodes.iter_mut().enumerate().find_map(ended) else { return Ok(()) };
        let node = self.node(at)?;
        let (log, node, status) = (self.log_of(node).display().to_string(), node.name.clone(), status.to_string());
        Err(HarnessError::Ended { node, status, log })
    }

    fn log_of(&self, node: &SupervisedNode) -> PathBuf {
        self.directory().join(format!("{}.{}.log", node.name, node.lifetimes))
    }
}

fn no_node(at: usize) -> HarnessError {
    HarnessError::answer(format!("node {at}"), "there is no such node")
}
