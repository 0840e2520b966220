//! From what nodes noted of themselves to the history: who a process was in the cluster, and what the control log
//! decided.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use broky_node::{AuditEvent, AuditRecord};
use broky_proto::id::Member;
use broky_ring::map::MapDiff;
use broky_ring::state::{Ineligible, IsrRefusal};

use crate::error::HarnessError;
use crate::history::{Event, IncarnationStart, Meta, Nanos, Pid};
use crate::journal::{Folder, Journal};
use crate::supervisor::Lifetime;

/// Adds the audits of all processes to the history, as far as they were noted before it ended. Gives how many there
/// were.
pub(super) fn add(lifetimes: &[Lifetime], ended: Nanos, folder: &Folder) -> Result<usize, HarnessError> {
    let mut count = 0;
    // One that was killed at once has none.
    for lifetime in lifetimes.iter().filter(|lifetime| lifetime.audit.exists()) {
        let name = lifetime.audit.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let journal = folder.journal(&format!("audit-{name}"))?;
        convert(lifetime, ended, &journal)?;
        journal.flush();
        count += 1;
    }
    Ok(count)
}

/// What the cluster calls the process whose audit this is, once it is registered.
pub(super) fn registered(path: &Path) -> Option<Member> {
    let lines = BufReader::new(File::open(path).ok()?).lines();
    let records = lines.filter_map(|line| serde_json::from_str::<AuditRecord>(&line.ok()?).ok());
    let members = records.filter_map(|record| match record.event {
        AuditEvent::Registered(member) => Some(member),
        AuditEvent::Process { .. } | AuditEvent::Map(_) | AuditEvent::Refused { .. } => None,
    });
    members.last()
}

/// Changes of an ISR that the control log refused because a process that was to be in it had been replaced, or declared
/// dead, meanwhile, as any of these processes noted.
pub(super) fn came_too_late(lifetimes: &[Lifetime]) -> usize {
    let lines = lifetimes.iter().filter_map(|lifetime| Some(BufReader::new(File::open(&lifetime.audit).ok()?).lines()));
    let records = lines.flatten().filter_map(|line| serde_json::from_str::<AuditRecord>(&line.ok()?).ok());
    let late = records.filter_map(|record| match record.event {
        AuditEvent::Refused { change, refusal } => {
            let IsrRefusal::Ineligible { reason, .. } = refusal else { return None };
            let is_late = matches!(reason, Ineligible::Replaced { .. } | Ineligible::Fenced);
            is_late.then_some((change.vbucket, change.epoch, change.expected))
        }
        AuditEvent::Process { .. } | AuditEvent::Registered(_) | AuditEvent::Map(_) => None,
    });
    // Every node notes each.
    late.collect::<BTreeSet<_>>().len()
}

fn convert(lifetime: &Lifetime, ended: Nanos, journal: &Journal) -> Result<(), HarnessError> {
    let path = &lifetime.audit;
    let file = File::open(path).map_err(HarnessError::io(format!("read {}", path.display())))?;
    let mut whose = Whose { pid: lifetime.pid, node: String::new(), cluster: None, registered: None };
    let mut lines = BufReader::new(file).lines().peekable();
    while let Some(line) = lines.next() {
        let line = line.map_err(HarnessError::io(format!("read {}", path.display())))?;
        let record: AuditRecord = match serde_json::from_str(&line) {
            Ok(record) => record,
            // Its process was killed while it wrote.
            Err(_) if lines.peek().is_none() => break,
            Err(error) => return Err(HarnessError::answer(format!("read {}", path.display()), error)),
        };
        if Nanos(record.t_ns) > ended {
            break;
        }
        whose.take(record, journal);
    }
    Ok(())
}

/// Whose audit it is.
struct Whose {
    node: String,
    /// As whoever started it knows: in a container it counts otherwise itself.
    pid: u32,
    cluster: Option<String>,
    registered: Option<(Nanos, Member)>,
}

impl Whose {
    fn take(&mut self, record: AuditRecord, journal: &Journal) {
        let at = Nanos(record.t_ns);
        match record.event {
            AuditEvent::Process { node, pid: _ } => self.node = node,
            AuditEvent::Registered(member) => self.registered = Some((at, member)),
            AuditEvent::Map(diff) => {
                self.cluster = Some(diff.cluster.to_string());
                note(&self.node, at, diff, journal);
            }
            AuditEvent::Refused { .. } => {}
        }
        if let (Some(cluster), Some((at, member))) = (&self.cluster, self.registered) {
            let (node, pid, cluster) = (self.node.clone(), Pid(self.pid), cluster.clone());
            journal.note_at(at, Event::IncarnationStart(IncarnationStart { node, pid, cluster, member }));
            self.registered = None;
        }
    }
}

fn note(node: &str, at: Nanos, diff: MapDiff, journal: &Journal) {
    let cluster = diff.cluster.to_string();
    for (vbucket, vb) in diff.vbuckets {
        // Not a change of the vbucket: it was set up with the cluster, and has not been placed.
        if vb.leader.is_none() && vb.isr.is_empty() && vb.replicas.is_empty() {
            continue;
        }
        journal.note_at(
            at,
            Event::Meta(Meta {
                by: Some(node.to_owned()),
                cluster: cluster.clone(),
                index: vb.version,
                vbucket,
                epoch: vb.epoch,
                isr_version: vb.isr_version,
                leader: vb.leader,
                isr: vb.isr,
                eligible: vb.eligible,
                min_isr: vb.min_isr,
                lineage: vb.lineage,
            }),
        );
    }
}
