//! Real `broky serve` processes on loopback: started, killed, paused and started again at the same addresses.
//!
//! What is alive is what this module has started and not killed: the truth that the cluster's own opinion is measured
//! against. Each lifetime of each node has a log of its own.
//!
//! Nodes and clients reach nodes directly, or through a [`Proxy`] that can break the links between them. Then each node
//! advertises an address of the proxy's, and the proxy is told whenever a process begins or is gone. Whoever observes uses
//! the real addresses either way: no fault is to blind the judge.

mod ports;
mod process;

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;

pub use self::ports::Ports;
pub use self::process::{Process, leash};
use crate::error::HarnessError;
use crate::proxy::{Place, Proxy};

/// Time that a node has to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// How nodes and clients reach the nodes of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Network {
    /// Where they listen.
    #[default]
    Direct,
    /// Through a proxy of the cluster's own ([`Supervisor::proxy`]).
    Proxied {
        /// What its chance comes from.
        seed: u64,
    },
}

/// How the nodes of a cluster are started.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The `broky` binary.
    pub binary: PathBuf,
    /// Where logs and data directories go.
    pub directory: PathBuf,
    /// Nodes that found it.
    pub nodes: usize,
    /// Whether the control log is kept on disk (`--data-dir`).
    pub is_durable: bool,
    /// `--vbuckets`.
    pub vbuckets: u32,
    /// `--memory`.
    pub memory: String,
    /// Whether each process notes what the control log decides, in a file beside its log.
    pub is_audited: bool,
    /// How they are reached.
    pub network: Network,
}

/// A cluster's processes.
#[derive(Debug)]
pub struct Supervisor {
    options: ClusterOptions,
    ports: Ports,
    proxy: Option<Proxy>,
    nodes: Vec<SupervisedNode>,
}

/// A node: its addresses, which stay, and its process, which does not.
#[derive(Debug)]
pub struct SupervisedNode {
    /// Its name.
    pub name: String,
    /// Where it listens for clients.
    pub client: SocketAddr,
    /// Where it listens for other nodes.
    pub peer: SocketAddr,
    /// Where the admin HTTP is.
    pub admin: SocketAddr,
    /// The address that clients and other nodes use instead, with the same ports.
    advertised: Option<IpAddr>,
    /// Nodes to meet at the start.
    join: Vec<SocketAddr>,
    /// How many have to meet for a founding. `None`: it only joins.
    expect: Option<usize>,
    lifetimes: u32,
    process: Option<Process>,
    is_paused: bool,
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

impl SupervisedNode {
    /// Its process, while there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Its process' resident memory.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    }

    /// Whether its process is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.process.is_some() && self.is_paused
    }

    /// Whether its process runs and is not paused.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some() && !self.is_paused
    }

    fn audit(&self, options: &ClusterOptions) -> PathBuf {
        options.directory.join(format!("{}.{}.audit", self.name, self.lifetimes))
    }

    /// Where clients connect.
    #[must_use]
    pub fn client_address(&self) -> SocketAddr {
        SocketAddr::new(self.advertised.unwrap_or(self.client.ip()), self.client.port())
    }

    /// Where other nodes connect.
    fn peer_address(&self) -> SocketAddr {
        SocketAddr::new(self.advertised.unwrap_or(self.peer.ip()), self.peer.port())
    }

    fn arguments(&self, options: &ClusterOptions) -> Vec<String> {
        let join: Vec<_> = self.join.iter().map(SocketAddr::to_string).collect();
        let mut arguments = vec!["serve".to_owned()];
        let mut flag = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        flag("--name", self.name.clone());
        flag("--listen", self.client.to_string());
        flag("--peer-listen", self.peer.to_string());
        flag("--admin-listen", self.admin.to_string());
        flag("--join", join.join(","));
        flag("--vbuckets", options.vbuckets.to_string());
        flag("--memory", options.memory.clone());
        if let Some(advertised) = self.advertised {
            flag("--advertise", advertised.to_string());
        }
        if let Some(expect) = self.expect {
            flag("--expect", expect.to_string());
        }
        if options.is_audited {
            flag("--audit", self.audit(options).display().to_string());
        }
        if options.is_durable {
            flag("--data-dir", options.directory.join(format!("{}.data", self.name)).display().to_string());
        }
        arguments
    }
}
