//! Nodes as the containers of `docker-compose.yml`: the image, the file and the network as they are shipped.
//!
//! A project of its own is built and created, and removed again however the harness ends ([`project`]). From then on
//! containers are started, killed, paused and cut off one by one by the engine's own commands ([`container`]): what
//! Docker would restart by itself would not be known to whoever says who lives.
//!
//! A cut-off container has no network at all: its published ports are closed too, so clients and whoever observes lose
//! it as other nodes do. It must be an engine on this machine, and not in a virtual one: records of containers and
//! harness are told apart by pid and put in order by the clock, which only a common kernel has.

mod container;
mod engine;
mod guard;
mod inspect;
mod project;

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use broky_node::Ports;

use self::container::Container;
pub use self::engine::{Engine, NoEngine};
use self::inspect::Attachment;
use self::project::{NAMES, NodePorts, Project};
use super::node::{Place, SupervisedNode};
use super::options::ClusterOptions;
use super::runner::{Files, Life, Runner};
use crate::error::HarnessError;
use crate::proxy::Proxy;

/// See the module.
#[derive(Debug)]
pub(super) struct Containers {
    nodes: Vec<Node>,
    /// Removes the project when it is dropped.
    project: Project,
}

/// A container, which stays while its processes come and go.
#[derive(Debug)]
struct Node {
    id: String,
    ports: NodePorts,
    network: Attachment,
    is_cut: bool,
}

impl Containers {
    /// Builds the image and creates the containers, none of which runs yet.
    pub(super) fn new(engine: Engine, binary: &Path, options: &ClusterOptions) -> Result<Self, HarnessError> {
        let mut ports = Ports::of_this_process();
        let mut free = || ports.free().map_err(HarnessError::io("find a free port"));
        let mut places = Vec::new();
        for _ in NAMES {
            places.push(NodePorts { client: free()?, peer: free()?, admin: free()? });
        }
        let project = Project::create(engine, binary, options, &places)?;
        let mut nodes = Vec::new();
        for (name, ports) in NAMES.iter().zip(places) {
            let id = project.container(name)?;
            let network = project.engine().inspect(&id)?.attachment(&id)?;
            nodes.push(Node { id, ports, network, is_cut: false });
        }
        Ok(Self { nodes, project })
    }

    fn node(&mut self, at: usize) -> Result<&mut Node, HarnessError> {
        let none = || HarnessError::answer(format!("container {at}"), "docker-compose.yml has no such node");
        self.nodes.get_mut(at).ok_or_else(none)
    }
}

impl Runner for Containers {
    fn place(&mut self, at: usize) -> Result<Place, HarnessError> {
        let NodePorts { client, peer, admin } = self.node(at)?.ports;
        let name = NAMES.get(at).copied().unwrap_or_default().to_owned();
        Ok(Place { name, client, peer, admin, advertised: None })
    }

    fn start(&mut self, at: usize, node: &SupervisedNode, files: &Files) -> Result<Box<dyn Life>, HarnessError> {
        let id = self.node(at)?.id.clone();
        files.audit.iter().try_for_each(|audit| prepare_audit(audit, &node.name))?;
        Ok(Box::new(Container::start(self.project.engine(), &id, &node.name, &files.log)?))
    }

    /// Docker closes its ports by itself.
    fn note_gone(&mut self, _at: usize) {}

    fn isolate(&mut self, at: usize) -> Result<(), HarnessError> {
        let node = self.node(at)?;
        if node.is_cut {
            return Ok(());
        }
        node.is_cut = true;
        let (id, network) = (node.id.clone(), node.network.network.clone());
        self.project.engine().docker(&["network", "disconnect", &network, &id]).map(|_| ())
    }

    fn mend(&mut self) -> Result<(), HarnessError> {
        for node in self.nodes.iter_mut().filter(|node| node.is_cut) {
            let mut command = vec!["network", "connect"];
            node.network.aliases.iter().for_each(|alias| command.extend(["--alias", alias]));
            command.extend([node.network.network.as_str(), node.id.as_str()]);
            self.project.engine().docker(&command)?;
            node.is_cut = false;
        }
        Ok(())
    }

    fn proxy(&self) -> Option<&Proxy> {
        None
    }
}

/// Has a container's next process, whose command stays as it was created, write to this file of the host's.
fn prepare_audit(audit: &Path, name: &str) -> Result<(), HarnessError> {
    let failed = || HarnessError::io(format!("make {}", audit.display()));
    File::create(audit).map_err(failed())?;
    // The image's user is nobody here.
    std::fs::set_permissions(audit, Permissions::from_mode(0o666)).map_err(failed())?;
    let link: PathBuf = audit.with_file_name(project::audit_link(name));
    if link.is_symlink() {
        std::fs::remove_file(&link).map_err(failed())?;
    }
    std::os::unix::fs::symlink(audit.file_name().unwrap_or_default(), link).map_err(failed())
}
