//! What was done to the cluster, and when it was left alone.

use crate::history::{Fault, FaultOutcome, FaultPhase, Nanos};

/// What the nemesis recorded.
#[derive(Default, Debug)]
pub(crate) struct Nemesis {
    faults: Vec<(Nanos, Fault)>,
    healed: Option<Nanos>,
    ended: Option<Nanos>,
}

impl Nemesis {
    pub(crate) fn fault(&mut self, at: Nanos, fault: Fault) {
        self.faults.push((at, fault));
    }

    pub(crate) fn heal(&mut self, at: Nanos) {
        self.healed = self.healed.max(Some(at));
    }

    pub(crate) fn end(&mut self, at: Nanos) {
        self.ended = self.ended.max(Some(at));
    }

    /// When everything was whole again for good. `None` when nobody said so.
    pub(crate) fn healed(&self) -> Option<Nanos> {
        self.healed
    }

    pub(crate) fn ended(&self) -> Option<Nanos> {
        self.ended
    }

    /// From the first fault that was installed on.
    pub(crate) fn first_fault(&self) -> Option<Nanos> {
        self.installed().map(|(at, _)| at).min()
    }

    /// Whether a fault of this kind was installed.
    pub(crate) fn has_installed(&self, kind: &str) -> bool {
        self.installed().any(|(_, fault)| fault.kind == kind)
    }

    /// The kind of the newest fault that had begun by then.
    pub(crate) fn newest_kind(&self, by: Nanos) -> Option<&str> {
        let begun = self.installed().filter(|(at, _)| *at <= by);
        begun.max_by_key(|(at, fault)| (*at, fault.kind.as_str())).map(|(_, fault)| fault.kind.as_str())
    }

    fn installed(&self) -> impl Iterator<Item = (Nanos, &Fault)> {
        let installed = self
            .faults
            .iter()
            .filter(|(_, fault)| fault.phase == FaultPhase::Start && fault.outcome == FaultOutcome::Installed);
        installed.map(|(at, fault)| (*at, fault))
    }
}
