//! Nodes as `broky serve` processes on loopback, whose links may pass through a proxy.
//!
//! Through a [`Proxy`] each node advertises an address of the proxy's, and the proxy is told whenever a process begins
//! or is gone.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use broky_node::Ports;

use super::node::{Place, SupervisedNode};
use super::options::{ClusterOptions, Network};
use super::process::Process;
use super::runner::{Files, Life, Runner};
use crate::error::HarnessError;
use crate::proxy::{self, Proxy};

/// See the module.
#[derive(Debug)]
pub(super) struct Processes {
    binary: PathBuf,
    options: ClusterOptions,
    ports: Ports,
    proxy: Option<Proxy>,
}

impl Processes {
    /// # Panics
    /// Outside of a tokio runtime, if there is to be a proxy.
    pub(super) fn new(binary: PathBuf, network: Network, options: ClusterOptions) -> Self {
        let proxy = match network {
            Network::Direct => None,
            Network::Proxied { seed } => Some(Proxy::start(seed)),
        };
        Self { binary, options, ports: Ports::of_this_process(), proxy }
    }

    fn arguments(&self, node: &SupervisedNode, audit: Option<&Path>) -> Vec<String> {
        let join: Vec<_> = node.join.iter().map(SocketAddr::to_string).collect();
        let mut arguments = vec!["serve".to_owned()];
        let mut flag = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        flag("--name", node.name.clone());
        flag("--listen", node.client.to_string());
        flag("--peer-listen", node.peer.to_string());
        flag("--admin-listen", node.admin.to_string());
        flag("--join", join.join(","));
        flag("--vbuckets", self.options.vbuckets.to_string());
        flag("--memory", self.options.memory.clone());
        if let Some(advertised) = node.advertised {
            flag("--advertise", advertised.to_string());
        }
        if let Some(expect) = node.expect {
            flag("--expect", expect.to_string());
        }
        if let Some(audit) = audit {
            flag("--audit", audit.display().to_string());
        }
        if self.options.is_durable {
            flag("--data-dir", data_of(&self.options.directory, node).display().to_string());
        }
        arguments
    }
}

impl Runner for Processes {
    fn place(&mut self, at: usize) -> Result<Place, HarnessError> {
        let mut free = || self.ports.free().map_err(HarnessError::io("find a free port"));
        let (client, peer, admin) = (free()?, free()?, free()?);
        let advertised = self.proxy.is_some().then(|| Proxy::address_of(at));
        if let (Some(proxy), Some(advertised)) = (&self.proxy, advertised) {
            proxy.add_node(proxy::Place { advertised, client, peer })?;
        }
        Ok(Place { name: format!("n{at}"), client, peer, admin, advertised })
    }

    fn start(&mut self, at: usize, node: &SupervisedNode, files: &Files) -> Result<Box<dyn Life>, HarnessError> {
        let arguments = self.arguments(node, files.audit.as_deref());
        let started = File::create(&files.log).and_then(|log| Process::start(&self.binary, &arguments, log));
        let process = started.map_err(HarnessError::io(format!("start {}", node.name)))?;
        self.proxy.iter().try_for_each(|proxy| proxy.set_up(at, process.pid()))?;
        Ok(Box::new(process))
    }

    /// Whoever dials it has to be refused.
    fn note_gone(&mut self, at: usize) {
        self.proxy.iter().for_each(|proxy| proxy.set_down(at));
    }

    /// Clients still reach it.
    fn isolate(&mut self, at: usize) -> Result<(), HarnessError> {
        let proxy = self.proxy.as_ref();
        let proxy = proxy.ok_or_else(|| HarnessError::answer(format!("cut n{at} off"), "there is no proxy"))?;
        proxy.isolate(at);
        Ok(())
    }

    fn mend(&mut self) -> Result<(), HarnessError> {
        self.proxy.iter().for_each(Proxy::heal);
        Ok(())
    }

    fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }
}

/// Where a process keeps its control log.
pub(super) fn data_of(directory: &Path, node: &SupervisedNode) -> PathBuf {
    directory.join(format!("{}.data", node.name))
}
