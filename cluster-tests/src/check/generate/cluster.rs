//! Three nodes that live and die, and the control log's word on it.

use broky_proto::id::{Epoch, Incarnation, IsrVersion, Lineage, MapVersion, Member, NodeId, VBucketId};
use broky_ring::lineage::lineage_base;

use super::{CLUSTER, Process, World};
use crate::history::{
    Event, Exit, Fault, FaultOutcome, FaultPhase, HistoryError, IncarnationStart, Meta, Nanos, Pid, Record, Spawn,
};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The nodes.
#[derive(Default, Debug)]
pub(super) struct Nodes {
    members: Vec<(Member, Pid)>,
    /// The newest entry of the control log.
    index: u64,
    pids: u32,
    next_victim: usize,
}

impl<S: FnMut(Process, &Record<'_>) -> Result<(), HistoryError>> World<'_, S> {
    /// Starts all nodes, and makes them lead.
    pub(super) fn found(&mut self) -> Result<(), HistoryError> {
        for node in 0..NAMES.len() {
            self.start(node)?;
        }
        self.decide(|_, at| at % NAMES.len())
    }

    /// Kills a node, lets others lead, and starts it again.
    pub(super) fn kill_one(&mut self) -> Result<(), HistoryError> {
        let victim = self.nodes.next_victim % NAMES.len();
        self.nodes.next_victim += 1;
        self.fault("kill", victim)?;
        self.exit(victim)?;
        self.decide_without(victim)?;
        self.start(victim)?;
        self.decide(|_, at| at % NAMES.len())
    }

    /// Kills all nodes at once: what they held is gone, and every vbucket goes on in another lineage.
    pub(super) fn kill_all(&mut self) -> Result<(), HistoryError> {
        for victim in 0..NAMES.len() {
            self.fault("kill-all", victim)?;
            self.exit(victim)?;
        }
        for victim in 0..NAMES.len() {
            self.start(victim)?;
        }
        for log in &mut self.logs {
            log.lineage = Lineage(log.lineage.0 + 1);
            log.base = lineage_base(log.lineage);
            log.stored.clear();
        }
        self.decide(|_, at| at % NAMES.len())
    }

    fn fault(&mut self, kind: &str, node: usize) -> Result<(), HistoryError> {
        let (kind, target) = (kind.to_owned(), name(node));
        let (phase, outcome) = (FaultPhase::Start, FaultOutcome::Installed);
        self.write(0, Event::Fault(Fault { kind, target, phase, outcome }))
    }

    fn exit(&mut self, node: usize) -> Result<(), HistoryError> {
        let Some((_, pid)) = self.nodes.members.get(node).copied() else { return Ok(()) };
        self.write(0, Event::Exit(Exit { node: name(node), pid, signal: Some(9) }))
    }

    fn start(&mut self, node: usize) -> Result<(), HistoryError> {
        self.nodes.pids += 1;
        self.nodes.index += 1;
        let pid = Pid(self.nodes.pids);
        let id = NodeId(u32::try_from(node).unwrap_or_default() + 1);
        let member = Member { node: id, incarnation: Incarnation(self.nodes.index) };
        match self.nodes.members.get_mut(node) {
            Some(known) => *known = (member, pid),
            None => self.nodes.members.push((member, pid)),
        }
        self.write(0, Event::Spawn(Spawn { node: name(node), pid }))?;
        let start = IncarnationStart { node: name(node), pid, cluster: CLUSTER.to_owned(), member };
        self.write(0, Event::IncarnationStart(start))
    }

    fn decide_without(&mut self, victim: usize) -> Result<(), HistoryError> {
        let living: Vec<usize> = (0..NAMES.len()).filter(|node| *node != victim).collect();
        self.decide(move |isr, at| {
            isr.retain(|node| *node != victim);
            living.get(at % living.len()).copied().unwrap_or_default()
        })
    }

    /// An entry for every vbucket: who is in its ISR, and who of the nodes leads it.
    fn decide(&mut self, leader: impl Fn(&mut Vec<usize>, usize) -> usize) -> Result<(), HistoryError> {
        self.nodes.index += 1;
        let index = self.nodes.index;
        for at in 0..self.logs.len() {
            let mut isr = (0..NAMES.len()).collect();
            let leader = leader(&mut isr, at);
            let member = |node: &usize| self.nodes.members.get(*node).map(|(member, _)| *member);
            let (isr, leader) = (isr.iter().filter_map(member).collect(), member(&leader));
            let Some(log) = self.logs.get_mut(at) else { continue };
            log.epoch = Epoch(index);
            let meta = Meta {
                by: None,
                cluster: CLUSTER.to_owned(),
                index: MapVersion(index),
                vbucket: VBucketId(u16::try_from(at).unwrap_or_default()),
                epoch: log.epoch,
                isr_version: IsrVersion(index),
                leader,
                isr,
                eligible: Vec::new(),
                min_isr: 2,
                lineage: log.lineage,
            };
            self.write(0, Event::Meta(meta))?;
        }
        Ok(())
    }

    /// The newest version of the map.
    pub(super) fn map_version(&self) -> MapVersion {
        MapVersion(self.nodes.index)
    }

    /// A moment long after the last: what had time to happen has happened.
    pub(super) fn wait(&mut self) {
        self.now = Nanos(self.now.0 + 1_000_000);
    }
}

fn name(node: usize) -> String {
    NAMES.get(node).copied().unwrap_or_default().to_owned()
}
