//! A project of docker-compose's: an image, a network, volumes and three containers, all of its own names.
//!
//! `docker-compose.yml` is taken as it is. A second file, which is written to the folder of the logs, lets the
//! supervisor alone decide who lives, publishes the peer port for whoever observes, and adds what a run sets. It is
//! JSON, which is YAML.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::super::options::ClusterOptions;
use super::engine::{Engine, run};
use super::guard::Guard;
use crate::error::HarnessError;

/// The services of `docker-compose.yml`.
pub(super) const NAMES: [&str; 3] = ["n1", "n2", "n3"];
/// Where nodes listen for each other in their containers.
const PEER_PORT: u16 = 7401;
/// Where the folder of the logs is in a container.
const MOUNT: &str = "/audit";

/// Where a node is reached from this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodePorts {
    pub(super) client: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) admin: SocketAddr,
}

/// See the module. Dropping it removes everything.
#[derive(Debug)]
pub(super) struct Project {
    engine: Engine,
    name: String,
    _guard: Guard,
}

impl Project {
    /// Builds the image and creates the containers.
    ///
    /// # Errors
    /// When that fails, or `binary` is not where the image's build sees it.
    pub(super) fn create(
        engine: Engine,
        binary: &Path,
        options: &ClusterOptions,
        ports: &[NodePorts],
    ) -> Result<Self, HarnessError> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
        let at = |path: &Path| path.canonicalize().map_err(HarnessError::io(format!("find {}", path.display())));
        let (binary, directory) = (at(binary)?, at(&options.directory)?);
        let binary = binary.strip_prefix(at(root)?).ok().filter(|path| path.starts_with("target/static"));
        let outside = || HarnessError::answer("build the image", "the binary is not within target/static");
        let (binary, name) = (binary.ok_or_else(outside)?, project_name(ports));
        let file = directory.join("compose.json");
        let text = override_text(ports, options.vbuckets, options.is_audited.then_some(directory.as_path()));
        std::fs::write(&file, text).map_err(HarnessError::io(format!("write {}", file.display())))?;
        let compose = |arguments: &[&str]| {
            let (first, rest) = engine.compose().split_first().unwrap_or((&"docker-compose", &[]));
            let mut command = Command::new(first);
            command.args(rest).arg("--project-directory").arg(root);
            command.arg("--file").arg(root.join("docker-compose.yml")).arg("--file").arg(&file).args(arguments);
            command.envs(environment(&name, binary, &options.memory, ports));
            command
        };
        let down = compose(&["down", "--volumes", "--remove-orphans", "--timeout", "0", "--rmi", "all"]);
        let guard = Guard::set(&down, &directory.join("compose-down.log"))?;
        // All three have the same image.
        run(&mut compose(&["build", "n1"]))?;
        run(&mut compose(&["up", "--no-start", "--no-build"]))?;
        Ok(Self { engine, name, _guard: guard })
    }

    /// Who runs it.
    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The id of a service's container.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn container(&self, service: &str) -> Result<String, HarnessError> {
        let project = format!("label=com.docker.compose.project={}", self.name);
        let service = format!("label=com.docker.compose.service={service}");
        let command = ["ps", "--all", "--quiet", "--no-trunc", "--filter", &project, "--filter", &service];
        let ids = self.engine.docker(&command)?;
        let mut ids = ids.split_whitespace();
        match (ids.next(), ids.next()) {
            (Some(id), None) => Ok(id.to_owned()),
            (None, _) | (Some(_), Some(_)) => Err(HarnessError::answer("docker ps", format!("not one {service}"))),
        }
    }
}

/// The name, relative to the folder of the logs, under which a node's process opens its audit.
pub(super) fn audit_link(name: &str) -> String {
    format!("{name}.current")
}

/// No two harnesses have the same, nor do two clusters of one: ports are handed out once.
fn project_name(ports: &[NodePorts]) -> String {
    let first = ports.first().map(|ports| ports.client.port()).unwrap_or_default();
    format!("broky-chaos-{}-{first}", std::process::id())
}

/// What `docker-compose.yml` takes from the environment.
fn environment(name: &str, binary: &Path, memory: &str, ports: &[NodePorts]) -> Vec<(String, PathBuf)> {
    let fixed = [
        ("COMPOSE_PROJECT_NAME", Path::new(name)),
        ("BROKY_IMAGE", Path::new(name)),
        ("BROKY_TARGET", Path::new("prebuilt")),
        ("BROKY_BINARY", binary),
        ("BROKY_MEMORY", Path::new(memory)),
    ];
    let mut all: Vec<_> = fixed.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    for (name, ports) in NAMES.iter().zip(ports) {
        let name = name.to_uppercase();
        all.push((format!("{name}_PORT"), ports.client.port().to_string().into()));
        all.push((format!("{name}_ADMIN"), ports.admin.port().to_string().into()));
    }
    all
}

/// The second file: what a run has otherwise than `docker-compose.yml`. Audits go to a folder, if there is one.
fn override_text(ports: &[NodePorts], vbuckets: u32, audits: Option<&Path>) -> String {
    let service = |(name, ports): (&&str, &NodePorts)| {
        let mut command = vec!["serve".to_owned(), "--vbuckets".to_owned(), vbuckets.to_string()];
        if audits.is_some() {
            command.extend(["--audit".to_owned(), format!("{MOUNT}/{}", audit_link(name))]);
        }
        // Docker-compose takes $ for a variable.
        let source = |folder: &Path| folder.display().to_string().replace('$', "$$");
        let volumes: Vec<_> =
            audits.iter().map(|folder| json!({"type": "bind", "source": source(folder), "target": MOUNT})).collect();
        let peer = format!("{}:{PEER_PORT}", ports.peer);
        let service = json!({"restart": "no", "command": command, "ports": [peer], "volumes": volumes});
        ((*name).to_owned(), service)
    };
    let services: serde_json::Map<String, Value> = NAMES.iter().zip(ports).map(service).collect();
    json!({ "services": services }).to_string()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ports() -> Vec<NodePorts> {
        let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let node = |first| NodePorts { client: at(first), peer: at(first + 1), admin: at(first + 2) };
        [100, 200, 300].map(node).into()
    }

    #[test]
    fn override_takes_restarts_away_and_adds_audits() {
        let text = override_text(&ports(), 64, Some(Path::new("/dev/shm/a $b/nodes")));
        let all: Value = serde_json::from_str(&text).unwrap();
        let command = ["serve", "--vbuckets", "64", "--audit", "/audit/n2.current"];
        let volume = json!({"type": "bind", "source": "/dev/shm/a $$b/nodes", "target": "/audit"});
        let wanted = json!({"restart": "no", "command": command, "ports": ["127.0.0.1:201:7401"], "volumes": [volume]});
        assert_eq!(all["services"]["n2"], wanted);
        assert_eq!(all["services"].as_object().unwrap().len(), NAMES.len());
    }

    #[test]
    fn override_without_audits_mounts_nothing() {
        let all: Value = serde_json::from_str(&override_text(&ports(), 8, None)).unwrap();
        assert_eq!(all["services"]["n1"]["command"], json!(["serve", "--vbuckets", "8"]));
        assert_eq!(all["services"]["n1"]["volumes"], json!([]));
    }

    #[test]
    fn environment_names_every_port_and_the_image() {
        let all = environment("p", Path::new("target/static/dev/broky"), "64MiB", &ports());
        let get = |key: &str| all.iter().find(|(name, _)| name == key).map(|(_, value)| value.display().to_string());
        assert_eq!(get("N3_PORT").as_deref(), Some("300"));
        assert_eq!(get("N1_ADMIN").as_deref(), Some("102"));
        assert_eq!(get("BROKY_IMAGE"), get("COMPOSE_PROJECT_NAME"));
    }
}
