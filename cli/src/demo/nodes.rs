//! The demo's nodes: processes of this very program that end with the demo, however that ends.
//!
//! A node's stdin is a pipe whose other end only the demo has: when the demo ends, by itself, by a signal or by `kill
//! -9`, the pipe is closed, and the node stops (`serve --stop-with-stdin`). What a node says goes to a file, which is
//! shown when it does not start.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use broky_node::Ports;

use super::watch::is_ready;
use crate::exit::{CONFIG, FAILED, OrExit as _, fail};

/// Memory of each node for messages.
pub(super) const MEMORY_MIB: usize = 96;
/// Time that the nodes may take to form a cluster.
const FORMED_WITHIN: Duration = Duration::from_secs(20);
/// How often it is looked whether they have.
const PERIOD: Duration = Duration::from_millis(20);
/// Lines of a log that are shown.
const LOG_LINES: usize = 20;
/// Attempts to find ports: those that are free may be taken before a node has them.
const ATTEMPTS: usize = 3;

/// The nodes. Dropped, they are killed and what they wrote is removed.
pub(super) struct Nodes {
    nodes: Vec<DemoNode>,
    join: String,
    logs: Logs,
}

/// One node.
pub(super) struct DemoNode {
    pub(super) name: String,
    pub(super) client: SocketAddr,
    peer: SocketAddr,
    pub(super) admin: String,
    log: PathBuf,
    /// `None` before it is started.
    process: Option<Child>,
}

/// Where the nodes' logs are.
struct Logs {
    directory: PathBuf,
    is_kept: bool,
}

/// Why the nodes did not form a cluster.
enum Failure {
    /// A node has ended: which one, and how.
    Ended(usize, ExitStatus),
    TooSlow,
}

impl Nodes {
    /// Starts nodes of these names, and waits until they take calls as one cluster.
    pub(super) async fn start(names: &[&str]) -> anyhow::Result<Self> {
        let mut ports = Ports::of_this_process();
        for _ in 1..ATTEMPTS {
            let mut nodes = Self::spawn(names, &mut ports)?;
            match nodes.until_ready().await {
                Ok(()) => return Ok(nodes),
                Err(Failure::Ended(_, status)) if status.code() == Some(i32::from(CONFIG)) => {}
                Err(failure) => return Err(nodes.describe(failure)),
            }
        }
        let mut nodes = Self::spawn(names, &mut ports)?;
        let ready = nodes.until_ready().await;
        ready.map_err(|failure| nodes.describe(failure)).map(|()| nodes)
    }

    fn spawn(names: &[&str], ports: &mut Ports) -> anyhow::Result<Self> {
        let logs = Logs::new().context("cannot make a directory for the nodes' logs").or_exit(CONFIG)?;
        let ports = (0..3 * names.len())
            .map(|_| ports.free())
            .collect::<io::Result<Vec<_>>>()
            .context("no free ports")
            .or_exit(CONFIG)?;
        let node = |(name, [client, peer, admin]): (&&str, &[SocketAddr; 3])| DemoNode {
            name: (*name).to_owned(),
            client: *client,
            peer: *peer,
            admin: admin.to_string(),
            log: logs.directory.join(format!("{name}.log")),
            process: None,
        };
        let nodes: Vec<_> = names.iter().zip(ports.as_chunks().0).map(node).collect();
        let join: Vec<_> = nodes.iter().map(|node| node.peer.to_string()).collect();
        let mut nodes = Self { nodes, join: join.join(","), logs };
        (0..names.len()).try_for_each(|at| nodes.start_one(at))?;
        Ok(nodes)
    }

    /// Starts a node that does not run, or was killed.
    pub(super) fn start_one(&mut self, at: usize) -> anyhow::Result<()> {
        let expect = self.nodes.len().to_string();
        let Some(node) = self.nodes.get_mut(at) else { return Ok(()) };
        if let Some(mut killed) = node.process.take() {
            // Only then its ports are free.
            let _ = killed.wait();
        }
        let process = node.command(&self.join, &expect).and_then(|mut command| command.spawn());
        node.process = Some(process.with_context(|| format!("cannot start {}", node.name)).or_exit(CONFIG)?);
        Ok(())
    }

    async fn until_ready(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + FORMED_WITHIN;
        for at in 0..self.nodes.len() {
            loop {
                if let Some((at, status)) = self.ended() {
                    return Err(Failure::Ended(at, status));
                }
                let Some(node) = self.nodes.get(at) else { break };
                if is_ready(&node.admin).await {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(Failure::TooSlow);
                }
                tokio::time::sleep(PERIOD).await;
            }
        }
        Ok(())
    }

    /// A node that has ended by itself.
    fn ended(&mut self) -> Option<(usize, ExitStatus)> {
        let statuses = self.nodes.iter_mut().map(|node| node.process.as_mut()?.try_wait().ok().flatten());
        statuses.enumerate().find_map(|(at, status)| Some((at, status?)))
    }

    /// Says what went wrong, and shows what the nodes concerned have said.
    fn describe(&self, failure: Failure) -> anyhow::Error {
        let (words, concerned) = match failure {
            Failure::Ended(at, status) => {
                let name = self.nodes.get(at).map_or("a node", |node| &node.name);
                (format!("{name} did not start ({status})"), at..at + 1)
            }
            Failure::TooSlow => (format!("the nodes formed no cluster within {FORMED_WITHIN:?}"), 0..self.nodes.len()),
        };
        let logs = self.nodes.get(concerned).unwrap_or_default().iter().map(DemoNode::log_tail);
        fail(FAILED, std::iter::once(words).chain(logs).collect::<Vec<_>>().join("\n"))
    }

    /// Ends a node as nothing else does.
    pub(super) fn kill(&mut self, at: usize) {
        if let Some(process) = self.nodes.get_mut(at).and_then(|node| node.process.as_mut()) {
            // It may have ended already.
            let _ = process.kill();
        }
    }

    pub(super) fn get(&self, at: usize) -> Option<&DemoNode> {
        self.nodes.get(at)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &DemoNode> {
        self.nodes.iter()
    }

    /// Keeps the logs, and says where they are.
    pub(super) fn keep_logs(&mut self) -> &Path {
        self.logs.is_kept = true;
        &self.logs.directory
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            // It may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl DemoNode {
    /// Its process' id.
    pub(super) fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Child::id)
    }

    fn command(&self, join: &str, expect: &str) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        // What is set for a node of the user's own is not for these.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name != "BROKY_LOG") {
            if name.to_string_lossy().starts_with("BROKY_") {
                command.env_remove(name);
            }
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        command.args(["serve", "--stop-with-stdin", "--name", &self.name, "--join", join, "--expect", expect]);
        command.args(["--listen", &self.client.to_string(), "--peer-listen", &self.peer.to_string()]);
        command.args(["--admin-listen", &self.admin, "--memory", &format!("{MEMORY_MIB}MiB")]);
        command.args(["--workers", &workers().to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        Ok(command)
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES);
        format!("{} said:\n{}", self.name, lines.get(from..).unwrap_or_default().join("\n"))
    }
}

/// Worker threads of each node: all of them and the demo share this machine.
fn workers() -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) / 4).clamp(1, 4)
}

impl Logs {
    fn new() -> io::Result<Self> {
        let nanos = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let directory = std::env::temp_dir().join(format!("broky-demo-{}-{nanos}", std::process::id()));
        // Not one that is there already: somebody else's.
        std::fs::create_dir(&directory)?;
        Ok(Self { directory, is_kept: false })
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        if !self.is_kept {
            // What cannot be removed stays.
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}
