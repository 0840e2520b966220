//! How a cluster is started.

use std::path::PathBuf;

use super::containers::Engine;

/// What runs the nodes of a cluster.
#[derive(Clone, Debug)]
pub enum Host {
    /// Processes on loopback.
    Processes {
        /// The `broky` binary.
        binary: PathBuf,
        /// How they are reached.
        network: Network,
    },
    /// The containers of `docker-compose.yml`.
    Containers {
        /// Who runs containers.
        engine: Engine,
        /// A static `broky` within `target/static`, which is all that the image's build sees.
        binary: PathBuf,
    },
}

/// How nodes and clients reach the nodes of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Network {
    /// Where they listen.
    #[default]
    Direct,
    /// Through a proxy of the cluster's own ([`super::Supervisor::proxy`]).
    Proxied {
        /// What its chance comes from.
        seed: u64,
    },
}

/// How the nodes of a cluster are started.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// What runs them.
    pub host: Host,
    /// Where logs and data directories go.
    pub directory: PathBuf,
    /// Nodes that found it.
    pub nodes: usize,
    /// Whether the control log is kept on disk (`--data-dir`). That of a container always is.
    pub is_durable: bool,
    /// `--vbuckets`.
    pub vbuckets: u32,
    /// `--memory`.
    pub memory: String,
    /// Whether each process notes what the control log decides, in a file beside its log.
    pub is_audited: bool,
}
