//! What audited nodes recorded, by vbucket, and what was done to them, which is little and is kept.

use broky_proto::id::{Member, VBucketId};

use super::{Intake, Refusal, check_range};
use crate::check::compact::{Act, ActKind};
use crate::check::finding::Origin;
use crate::history::{
    AckSent, Append, ChainHash, Continue, Exit, Fault, HwAdvance, IncarnationStart, Meta, Nanos, RoleChange, Spawn,
    Stop, Truncate,
};

impl Intake {
    pub(super) fn take_incarnation(
        &mut self,
        origin: Origin,
        at: Nanos,
        start: &IncarnationStart,
    ) -> Result<(), Refusal> {
        let cluster = self.cluster(&start.cluster, at, origin)?;
        self.lives.register(cluster, start.member, start.node.clone(), start.pid);
        Ok(())
    }

    pub(super) fn take_meta(&mut self, origin: Origin, at: Nanos, meta: &Meta) -> Result<(), Refusal> {
        let cluster = self.cluster(&meta.cluster, at, origin)?;
        self.vbucket(meta.vbucket, origin);
        self.control.add(cluster, at, origin, meta.clone(), &mut self.findings);
        Ok(())
    }

    pub(super) fn take_append(&mut self, origin: Origin, at: Nanos, it: &Append) -> Result<(), Refusal> {
        check_range(it.from.0, it.to.0)?;
        self.counts.appends += 1;
        let what = ActKind::Append { lineage: it.lineage, epoch: it.epoch, from: it.from, to: it.to };
        self.act(origin, at, (&it.cluster, it.vbucket, it.member), what)
    }

    pub(super) fn take_hw(&mut self, origin: Origin, at: Nanos, it: &HwAdvance) -> Result<(), Refusal> {
        let what = ActKind::Hw { lineage: it.lineage, hw: it.hw };
        self.act(origin, at, (&it.cluster, it.vbucket, it.member), what)
    }

    pub(super) fn take_truncate(&mut self, origin: Origin, at: Nanos, it: &Truncate) -> Result<(), Refusal> {
        check_range(it.from.0, it.to.0)?;
        let what = ActKind::Truncate { lineage: it.lineage, from: it.from };
        self.act(origin, at, (&it.cluster, it.vbucket, it.member), what)
    }

    pub(super) fn take_ack(&mut self, origin: Origin, at: Nanos, it: &AckSent) -> Result<(), Refusal> {
        let what = ActKind::Ack { epoch: it.epoch, offset: it.offset };
        self.act(origin, at, (&it.cluster, it.vbucket, it.member), what)
    }

    pub(super) fn take_role(&mut self, origin: Origin, at: Nanos, it: &RoleChange) -> Result<(), Refusal> {
        let what = ActKind::Role { epoch: it.epoch, role: it.role };
        self.act(origin, at, (&it.cluster, it.vbucket, it.member), what)
    }

    pub(super) fn take_chain(&mut self, origin: Origin, at: Nanos, it: &ChainHash) -> Result<(), Refusal> {
        self.counts.chains += 1;
        let what = ActKind::Chain { lineage: it.lineage, offset: it.offset, hash: it.hash };
        self.act(origin, at, (&it.cluster, it.vbucket, it.member), what)
    }

    pub(super) fn take_spawn(&mut self, at: Nanos, it: &Spawn) {
        self.lives.spawn(it.node.clone(), it.pid, at);
    }

    pub(super) fn take_exit(&mut self, at: Nanos, it: &Exit) {
        self.lives.exit(it.node.clone(), it.pid, at, it.signal.is_some());
    }

    pub(super) fn take_stop(&mut self, at: Nanos, it: &Stop) {
        self.lives.pause(it.node.clone(), it.pid, at);
    }

    pub(super) fn take_continue(&mut self, at: Nanos, it: &Continue) {
        self.lives.resume(it.node.clone(), it.pid, at);
    }

    pub(super) fn take_fault(&mut self, at: Nanos, it: &Fault) {
        self.nemesis.fault(at, it.clone());
    }

    pub(super) fn take_heal(&mut self, at: Nanos) {
        self.nemesis.heal(at);
    }

    pub(super) fn take_end(&mut self, at: Nanos) {
        self.nemesis.end(at);
    }

    fn act(
        &mut self,
        origin: Origin,
        at: Nanos,
        (cluster, vbucket, member): (&str, VBucketId, Member),
        what: ActKind,
    ) -> Result<(), Refusal> {
        self.counts.acts += 1;
        let cluster = self.cluster(cluster, at, origin)?;
        self.vbucket(vbucket, origin);
        self.spools.push_act(&Act { cluster, vbucket, member, at, origin, what })?;
        Ok(())
    }
}
