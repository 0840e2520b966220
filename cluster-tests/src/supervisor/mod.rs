//! Real `broky serve` processes on loopback: started, killed, paused and started again at the same addresses.
//!
//! What is alive is what this module has started and not killed: the truth that the cluster's own opinion is measured
//! against. Each lifetime of each node has a log of its own.
//!
//! Nodes and clients reach nodes directly, or through a [`Proxy`] that can break the links between them. Then each node
//! advertises an address of the proxy's, and the proxy is told whenever a process begins or is gone. Whoever observes uses
//! the real addresses either way: no fault is to blind the judge.

mod node;
mod options;
mod ports;
mod process;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;

pub use self::node::SupervisedNode;
pub use self::options::{ClusterOptions, Network};
pub use self::ports::Ports;
pub use self::process::{Process, leash};
use crate::error::HarnessError;
use crate::proxy::{Place, Proxy};

/// Time that a node has to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A cluster's processes.
#[derive(Debug)]
pub struct Supervisor {
    options: ClusterOptions,
    ports: Ports,
    proxy: Option<Proxy>,
    nodes: Vec<SupervisedNode>,
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
        let proxy = match options.network {
            Network::Direct => None,
            Network::Proxied { seed } => Some(Proxy::start(seed)),
        };
        let ports = Ports::new(std::process::id().wrapping_mul(97));
        let mut supervisor = Self { ports, proxy, nodes: Vec::new(), options };
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
        let mut free = || self.ports.free().map_err(HarnessError::io("find a free port"));
        let (client, peer, admin) = (free()?, free()?, free()?);
        let advertised = self.proxy.is_some().then(|| Proxy::address_of(at));
        if let (Some(proxy), Some(advertised)) = (&self.proxy, advertised) {
            proxy.add_node(Place { advertised, client, peer })?;
        }
        self.nodes.push(SupervisedNode {
            name: format!("n{at}"),
            client,
            peer,
            admin,
            advertised,
            join: Vec::new(),
            expect,
            lifetimes: 0,
            process: None,
            is_paused: false,
        });
        Ok(at)
    }

    /// Starts a node's process: the first, or again after it has ended.
    ///
    /// # Errors
    /// When that fails, or there is no such node.
    pub fn start_node(&mut self, at: usize) -> Result<(), HarnessError> {
        let options = self.options.clone();
        let node = self.node_mut(at)?;
        node.lifetimes += 1;
        let log = options.directory.join(format!("{}.{}.log", node.name, node.lifetimes));
        let what = format!("start {}", node.name);
        let started =
            File::create(&log).and_then(|log| Process::start(&options.binary, &node.arguments(&options), log));
        let process = started.map_err(HarnessError::io(what))?;
        let pid = process.id();
        node.process = Some(process);
        node.is_paused = false;
        self.proxy.as_ref().map_or(Ok(()), |proxy| proxy.set_up(at, pid))
    }

    /// `kill -9`. The process is gone when this returns.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn kill(&mut self, at: usize) -> Result<(), HarnessError> {
        drop(self.node_mut(at)?.process.take());
        self.note_gone(at);
        Ok(())
    }

    /// A node's process is gone, so whoever dials it has to be refused.
    fn note_gone(&self, at: usize) {
        self.proxy.iter().for_each(|proxy| proxy.set_down(at));
    }

    /// Kills several at once: none is waited for before all are signalled.
    ///
    /// # Errors
    /// When one of them does not exist.
    pub fn kill_together(&mut self, nodes: &[usize]) -> Result<(), HarnessError> {
        for at in nodes {
            self.node_mut(*at)?.process.iter().for_each(|process| process.signal(Signal::KILL));
        }
        nodes.iter().try_for_each(|at| self.kill(*at))
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&mut self, at: usize) -> Result<(), HarnessError> {
        let node = self.node_mut(at)?;
        let Some(mut process) = node.process.take() else { return Ok(()) };
        let what = format!("{} ends after SIGTERM", node.name);
        let late = HarnessError::Late { what, limit: STOP_LIMIT, seen: "it runs".to_owned() };
        let ended = process.terminate(STOP_LIMIT).await;
        // It has not ended if it is late.
        drop(process);
        self.note_gone(at);
        ended.map(|_| ()).ok_or(late)
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn pause(&mut self, at: usize) -> Result<(), HarnessError> {
        let node = self.node_mut(at)?;
        node.is_paused = true;
        node.process.iter().for_each(|process| process.signal(Signal::STOP));
        Ok(())
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn resume(&mut self, at: usize) -> Result<(), HarnessError> {
        let node = self.node_mut(at)?;
        node.is_paused = false;
        node.process.iter().for_each(|process| process.signal(Signal::CONT));
        Ok(())
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
        self.nodes.get(at).ok_or_else(|| HarnessError::answer(format!("node {at}"), "there is no such node"))
    }

    fn node_mut(&mut self, at: usize) -> Result<&mut SupervisedNode, HarnessError> {
        self.nodes.get_mut(at).ok_or_else(|| HarnessError::answer(format!("node {at}"), "there is no such node"))
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

    /// The network between its nodes, if it can be broken.
    #[must_use]
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
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
        Ok(self.options.directory.join(format!("{}.data", self.node(at)?.name)))
    }

    /// Where a node's present process notes what the control log decides, if the cluster is audited.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn audit(&self, at: usize) -> Result<PathBuf, HarnessError> {
        Ok(self.node(at)?.audit(&self.options))
    }

    /// How a node's process ended, if it did by itself; it is not the node's any more then.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn take_ended(&mut self, at: usize) -> Result<Option<ExitStatus>, HarnessError> {
        let node = self.node_mut(at)?;
        let ended = node.process.as_mut().and_then(Process::ended);
        if ended.is_some() {
            node.process = None;
            self.note_gone(at);
        }
        Ok(ended)
    }

    /// Fails when a process has ended that nobody killed.
    ///
    /// # Errors
    /// Then.
    pub fn check(&mut self) -> Result<(), HarnessError> {
        for node in &mut self.nodes {
            let Some(status) = node.process.as_mut().and_then(Process::ended) else { continue };
            let log = self.options.directory.join(format!("{}.{}.log", node.name, node.lifetimes));
            let (node, status, log) = (node.name.clone(), status.to_string(), log.display().to_string());
            return Err(HarnessError::Ended { node, status, log });
        }
        Ok(())
    }
}
