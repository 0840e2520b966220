//! A node of a supervised cluster: where it is, how it is started, and whether it runs.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::options::ClusterOptions;
use super::process::Process;

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
    pub(super) advertised: Option<IpAddr>,
    /// Nodes to meet at the start.
    pub(super) join: Vec<SocketAddr>,
    /// How many have to meet for a founding. `None`: it only joins.
    pub(super) expect: Option<usize>,
    pub(super) lifetimes: u32,
    pub(super) process: Option<Process>,
    pub(super) is_paused: bool,
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

    pub(super) fn audit(&self, options: &ClusterOptions) -> PathBuf {
        options.directory.join(format!("{}.{}.audit", self.name, self.lifetimes))
    }

    /// Where clients connect.
    #[must_use]
    pub fn client_address(&self) -> SocketAddr {
        SocketAddr::new(self.advertised.unwrap_or(self.client.ip()), self.client.port())
    }

    /// Where other nodes connect.
    pub(super) fn peer_address(&self) -> SocketAddr {
        SocketAddr::new(self.advertised.unwrap_or(self.peer.ip()), self.peer.port())
    }

    pub(super) fn arguments(&self, options: &ClusterOptions) -> Vec<String> {
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
