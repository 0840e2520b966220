//! The audit: what the control log decides, as this process applies it, and who the process is, in a file.
//!
//! For whoever judges a run of a whole cluster afterwards: only the processes themselves see every entry, and a checker
//! that asked now and then what the map is would miss what lasted shorter than the time between two questions. A thread
//! of its own writes; nothing waits for it, least of all an acknowledgement. What was handed over and not written when
//! the process is killed is lost, so the last line of a file may be cut short.
//!
//! One JSON object a line, an [`AuditRecord`], with the time of `CLOCK_MONOTONIC`, which all processes of a machine
//! share.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use broky_proto::id::{MapVersion, Member};
use broky_ring::command::{IsrChange, Outcome};
use broky_ring::map::{ClusterMap, MapDiff};
use broky_ring::state::IsrRefusal;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A line of the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub t_ns: u64,
    /// What.
    pub event: AuditEvent,
}

/// What is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditEvent {
    /// The file's first line: whose it is.
    Process {
        /// The node's name.
        node: String,
        /// The process.
        pid: u32,
    },
    /// The cluster calls this process so from now on.
    Registered(Member),
    /// An entry, or a snapshot in place of several, changed the cluster map.
    Map(MapDiff),
    /// An entry would have changed an ISR, and was refused.
    Refused {
        /// What was proposed.
        change: IsrChange,
        /// Why not.
        refusal: IsrRefusal,
    },
}

/// Where the audit goes. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    lines: Sender<AuditRecord>,
}

impl Audit {
    /// Begins a file, in place of what is there, and the thread that writes it.
    pub(crate) fn begin(path: &Path, node: &str) -> io::Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        let (lines, received) = channel();
        std::thread::Builder::new().name("broky-audit".to_owned()).spawn(move || write(file, &received))?;
        let audit = Self { lines };
        audit.add(AuditEvent::Process { node: node.to_owned(), pid: std::process::id() });
        Ok(audit)
    }

    /// Notes what the cluster calls this process.
    pub(crate) fn registered(&self, member: Member) {
        self.add(AuditEvent::Registered(member));
    }

    /// Notes what has changed in a map, if anything has.
    pub(crate) fn map(&self, map: &ClusterMap, since: MapVersion) {
        if map.version() > since {
            self.add(AuditEvent::Map(map.diff(since)));
        }
    }

    /// Notes which of these changes of an ISR were refused.
    pub(crate) fn isr_changes(&self, changes: Vec<IsrChange>, outcome: &Outcome) {
        if let Outcome::AlterIsr(Ok(outcomes)) = outcome {
            for (change, outcome) in changes.into_iter().zip(outcomes) {
                if let Err(refusal) = outcome {
                    self.add(AuditEvent::Refused { change, refusal: *refusal });
                }
            }
        }
    }

    fn add(&self, event: AuditEvent) {
        let now = clock_gettime(ClockId::Monotonic);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
        let t_ns = seconds.unwrap_or_default() * 1_000_000_000 + nanos.unwrap_or_default();
        // The thread ends when the file cannot be written, and has said so.
        let _ = self.lines.send(AuditRecord { t_ns, event });
    }
}

/// Writes until nobody has anything more to say.
fn write(mut file: BufWriter<File>, lines: &Receiver<AuditRecord>) {
    while let Ok(first) = lines.recv() {
        let written = std::iter::once(first).chain(lines.try_iter()).try_for_each(|record| {
            serde_json::to_writer(&mut file, &record)?;
            file.write_all(b"\n")
        });
        if let Err(error) = written.and_then(|()| file.flush()) {
            return tracing::error!(%error, "the audit cannot be written, and ends");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broky_proto::id::{Epoch, Incarnation, IsrVersion, NodeId, VBucketId};
    use std::time::{Duration, Instant};

    #[test]
    fn file_tells_whose_it_is_and_what_it_is_called() {
        let folder = std::env::temp_dir().join(format!("broky-audit-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.audit");
        let audit = Audit::begin(&path, "a").unwrap();
        let member = Member { node: NodeId(3), incarnation: Incarnation(7) };
        audit.registered(member);
        audit.map(&ClusterMap::default(), MapVersion(0));
        let change = |vbucket| IsrChange {
            vbucket: VBucketId(vbucket),
            epoch: Epoch(1),
            expected: IsrVersion(2),
            isr: vec![member],
        };
        let (taken, refusal) = (Ok(IsrVersion(3)), IsrRefusal::StaleVersion { current: IsrVersion(3) });
        audit.isr_changes(vec![change(1), change(2)], &Outcome::AlterIsr(Ok(vec![taken, Err(refusal)])));
        let deadline = Instant::now() + Duration::from_secs(10);
        let lines = loop {
            let text = std::fs::read_to_string(&path).unwrap();
            if text.lines().count() == 3 && text.ends_with('\n') {
                break text;
            }
            assert!(Instant::now() < deadline, "three lines are written, and not {text:?}");
            std::thread::yield_now();
        };
        let records: Vec<AuditRecord> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records[0].event, AuditEvent::Process { node: "a".to_owned(), pid: std::process::id() });
        assert_eq!(records[1].event, AuditEvent::Registered(member));
        assert_eq!(records[2].event, AuditEvent::Refused { change: change(2), refusal });
        assert!(records[0].t_ns <= records[1].t_ns);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
