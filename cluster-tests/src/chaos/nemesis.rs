//! What a scenario does to a cluster: each act is written down as a fault, and as what became of the process.

use std::time::{Duration, Instant};

use super::arena::Arena;
use crate::error::HarnessError;
use crate::history::{Continue, Event, Exit, Fault, FaultOutcome, FaultPhase, Pid, Spawn, Stop};
use crate::journal::Journal;
use crate::supervisor::SupervisedNode;

const SIGKILL: i32 = 9;
/// Time in which a node that has ended is forgotten.
const FORGET_LIMIT: Duration = Duration::from_secs(20);

/// The journal of whoever supervises.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) journal: Journal,
    installed: u64,
}

impl Log {
    pub(super) fn new(journal: Journal) -> Self {
        Self { journal, installed: 0 }
    }

    /// How many faults were done.
    pub(super) fn installed(&self) -> u64 {
        self.installed
    }

    pub(super) fn spawned(&self, node: &SupervisedNode) {
        if let Some(pid) = node.pid() {
            self.journal.note_at(node.since(), Event::Spawn(Spawn { node: node.name.clone(), pid: Pid(pid) }));
        }
    }

    pub(super) fn exited(&self, node: &str, pid: u32, signal: Option<i32>) {
        self.journal.note(Event::Exit(Exit { node: node.to_owned(), pid: Pid(pid), signal }));
    }

    /// Notes a fault that begins, and was done.
    pub(super) fn begin(&mut self, kind: &str, target: impl Into<String>) {
        self.installed += 1;
        self.fault(kind, target.into(), FaultPhase::Start);
    }

    /// Notes that a fault ends.
    pub(super) fn end(&mut self, kind: &str, target: impl Into<String>) {
        self.fault(kind, target.into(), FaultPhase::Stop);
    }

    fn fault(&self, kind: &str, target: String, phase: FaultPhase) {
        let (kind, outcome) = (kind.to_owned(), FaultOutcome::Installed);
        self.journal.note(Event::Fault(Fault { kind, target, phase, outcome }));
    }
}

impl Arena {
    /// `kill -9`.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn kill(&mut self, at: usize) -> Result<(), HarnessError> {
        self.kill_together(&[at])
    }

    /// `kill -9` of several, none of which is waited for before all are signalled.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn kill_together(&mut self, nodes: &[usize]) -> Result<(), HarnessError> {
        let mut victims = Vec::new();
        for at in nodes {
            let node = self.cluster.node(*at)?;
            let Some(pid) = node.pid() else { continue };
            victims.push((node.name.clone(), pid));
            self.log.begin("kill", node.name.clone());
        }
        self.cluster.kill_together(nodes)?;
        victims.iter().for_each(|(name, pid)| self.log.exited(name, *pid, Some(SIGKILL)));
        Ok(())
    }

    /// Starts a node's process again.
    ///
    /// # Errors
    /// When that fails.
    pub fn start(&mut self, at: usize) -> Result<(), HarnessError> {
        self.cluster.start_node(at)?;
        self.log.spawned(self.cluster.node(at)?);
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&mut self, at: usize) -> Result<(), HarnessError> {
        let node = self.cluster.node(at)?;
        let (name, pid) = (node.name.clone(), node.pid());
        self.log.begin("stop", name.clone());
        self.cluster.stop(at).await?;
        pid.iter().for_each(|pid| self.log.exited(&name, *pid, None));
        Ok(())
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn pause(&mut self, at: usize) -> Result<(), HarnessError> {
        let node = self.cluster.node(at)?;
        let (name, pid) = (node.name.clone(), node.pid());
        self.log.begin("pause", name.clone());
        self.cluster.pause(at)?;
        pid.iter().for_each(|pid| {
            self.log.journal.note(Event::Stop(Stop { node: name.clone(), pid: Pid(*pid) }));
        });
        Ok(())
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn resume(&mut self, at: usize) -> Result<(), HarnessError> {
        let node = self.cluster.node(at)?;
        let (name, pid) = (node.name.clone(), node.pid());
        self.cluster.resume(at)?;
        pid.iter().for_each(|pid| {
            self.log.journal.note(Event::Continue(Continue { node: name.clone(), pid: Pid(*pid) }));
        });
        self.log.end("pause", name);
        Ok(())
    }

    /// Starts another node, which joins; gives its index.
    ///
    /// # Errors
    /// When that fails.
    pub fn join(&mut self) -> Result<usize, HarnessError> {
        let at = self.cluster.join_node()?;
        let node = self.cluster.node(at)?;
        self.log.begin("join", node.name.clone());
        self.log.spawned(self.cluster.node(at)?);
        Ok(at)
    }

    /// `broky drain`: empties a node, and waits for that.
    ///
    /// # Errors
    /// When it is refused, or takes longer than `limit`.
    pub async fn drain(&mut self, at: usize, limit: Duration) -> Result<(), HarnessError> {
        let name = self.cluster.node(at)?.name.clone();
        self.log.begin("drain", name);
        crate::observer::drain(&mut self.cluster, at, limit).await
    }

    /// Takes a node out of the cluster for good, which has been drained: SIGTERM, and `broky forget`.
    ///
    /// # Errors
    /// When it does not end, or nobody forgets it.
    pub async fn leave(&mut self, at: usize) -> Result<(), HarnessError> {
        self.stop(at).await?;
        self.retired.insert(at);
        let name = self.cluster.node(at)?.name.clone();
        let others: Vec<_> = self.cluster.running().map(|(_, node)| node.admin).collect();
        let mut last = HarnessError::answer(format!("forget {name}"), "no node runs");
        let deadline = Instant::now() + FORGET_LIMIT;
        // It is not known to be gone at once.
        while Instant::now() < deadline {
            for admin in &others {
                match crate::observer::admin(*admin, "POST", &format!("/nodes/{name}/forget")).await {
                    Ok(_) => return Ok(()),
                    Err(error) => last = error,
                }
            }
            self.pass(Duration::from_millis(200)).await;
        }
        Err(last)
    }

    /// Ends whatever lasts: the dead are started, the paused go on, the network is whole.
    pub(super) fn mend_everything(&mut self) -> Result<(), HarnessError> {
        self.mend_network()?;
        for at in 0..self.cluster.nodes().len() {
            let node = self.cluster.node(at)?;
            if node.is_paused() {
                self.resume(at)?;
            } else if node.pid().is_none() && !self.retired.contains(&at) {
                self.start(at)?;
            }
        }
        Ok(())
    }
}
