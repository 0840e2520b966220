//! What nodes do, as far as it shows in their logs and roles, and what the control log says.

use std::collections::BTreeMap;
use std::hash::Hasher as _;

use broky_proto::id::{Epoch, Lineage, Member, Offset, VBucketId};
use broky_replication::{EpochHistory, Replica, Role as Holds};
use broky_ring::lineage::lineage_base;
use broky_ring::map::ClusterMap;
use broky_shard::{ExceptionKind, PartOutcome};
use rustc_hash::FxHasher;

use super::CLUSTER;
use crate::history::{
    AckSent, Append, ChainHash, Continue, Event, Exit, Hash64, HwAdvance, IncarnationStart, Meta, Pid, Role,
    RoleChange, Spawn, Stop, Truncate,
};
use crate::sim::node::Process;
use crate::sim::world::World;

/// A log's hash is told whenever so many more messages are committed.
const HASH_EVERY: u64 = 16;
/// The signal of a kill.
const SIGKILL: i32 = 9;

/// What was last seen of one replica.
#[derive(Clone, Copy, Debug)]
struct Seen {
    lineage: Lineage,
    end: Offset,
    high_watermark: Offset,
    epoch: Epoch,
    role: Role,
}

/// A hash over everything committed in a log, from the beginning of its lineage on.
#[derive(Clone, Copy, Debug)]
struct Chain {
    next: u64,
    hash: u64,
}

/// What is known of every node, by number.
#[derive(Default)]
pub(super) struct Nodes {
    seen: BTreeMap<(usize, VBucketId), Seen>,
    chains: BTreeMap<(usize, VBucketId), Chain>,
}

/// The vbuckets that an entry has changed, as they are by it.
pub(in crate::sim) fn metas(before: &ClusterMap, after: &ClusterMap) -> Vec<Meta> {
    let is_new = |vbucket: VBucketId| before.vbucket(vbucket) != after.vbucket(vbucket);
    let changed = after.vbuckets().filter(|(vbucket, _)| before.version() != after.version() && is_new(*vbucket));
    let meta = |(vbucket, now): (VBucketId, &broky_ring::map::VBucket)| Meta {
        by: None,
        cluster: CLUSTER.to_owned(),
        index: now.version,
        vbucket,
        epoch: now.epoch,
        isr_version: now.isr_version,
        leader: now.leader,
        isr: now.isr.clone(),
        eligible: now.eligible.clone(),
        min_isr: now.min_isr,
        lineage: now.lineage,
    };
    changed.map(meta).collect()
}

impl World {
    /// What was decided since it was last written down.
    pub(in crate::sim) fn record_decisions(&mut self) {
        for meta in self.metadata.take_changes() {
            self.record(|| Event::Meta(meta));
        }
    }

    fn pid(&self, at: usize) -> Pid {
        Pid(u32::try_from(at as u64 * 1_000_000 + self.nodes[at].life).unwrap())
    }

    pub(in crate::sim) fn record_spawn(&mut self, at: usize) {
        let (node, pid) = (self.nodes[at].name.clone(), self.pid(at));
        self.record(|| Event::Spawn(Spawn { node, pid }));
    }

    pub(in crate::sim) fn record_exit(&mut self, at: usize) {
        let (node, pid) = (self.nodes[at].name.clone(), self.pid(at));
        self.record(|| Event::Exit(Exit { node, pid, signal: Some(SIGKILL) }));
        if let Some(recorder) = &mut self.recorder {
            recorder.nodes.seen.retain(|(node, _), _| *node != at);
            recorder.nodes.chains.retain(|(node, _), _| *node != at);
        }
    }

    pub(in crate::sim) fn record_stop(&mut self, at: usize) {
        let (node, pid) = (self.nodes[at].name.clone(), self.pid(at));
        self.record(|| Event::Stop(Stop { node, pid }));
    }

    pub(in crate::sim) fn record_continue(&mut self, at: usize) {
        let (node, pid) = (self.nodes[at].name.clone(), self.pid(at));
        self.record(|| Event::Continue(Continue { node, pid }));
    }

    /// The control plane has given a process its name: also one that is dead by now, whose name it is all the same.
    pub(in crate::sim) fn record_incarnation(&mut self, at: usize, member: Member) {
        let (node, pid, cluster) = (self.nodes[at].name.clone(), self.pid(at), CLUSTER.to_owned());
        self.record(|| Event::IncarnationStart(IncarnationStart { node, pid, cluster, member }));
    }

    /// A shard has answered. What it leads it has committed by itself; what others lead it answers as they told.
    pub(in crate::sim) fn record_answer(&mut self, at: usize, outcome: &PartOutcome) {
        if self.recorder.is_none() {
            return;
        }
        let is_excepted = |index: u32| {
            let exception = outcome.exceptions.iter().find(|exception| exception.index == index);
            exception.is_some_and(|exception| exception.kind != ExceptionKind::Duplicate)
        };
        for position in &outcome.positions {
            let mut committed = (0..position.count).rev().filter(|number| !is_excepted(position.first + number));
            let Some(last) = committed.next() else { continue };
            let vbucket = VBucketId(u16::try_from(position.vbucket).unwrap());
            let Some(process) = &self.nodes[at].process else { return };
            let leader = process.shard.replica(vbucket).and_then(Replica::leader);
            let Some(epoch) = leader.map(broky_replication::Leader::epoch) else { continue };
            let offset = Offset(position.offset + u64::from(last));
            let (cluster, member, lineage) = (CLUSTER.to_owned(), process.member, Lineage(position.lineage));
            self.record(|| Event::AckSent(AckSent { cluster, member, vbucket, lineage, epoch, offset }));
        }
    }

    /// Looks what a node's shard has done.
    pub(in crate::sim) fn record_node(&mut self, at: usize) {
        let now = self.now();
        let (Some(recorder), Some(process)) = (&mut self.recorder, &self.nodes[at].process) else { return };
        let mut events = Vec::new();
        for vbucket in self.vbuckets.iter() {
            let known = recorder.nodes.seen.get(&(at, vbucket)).copied();
            match process.shard.replica(vbucket) {
                Some(replica) => {
                    let seen = look_at(process, vbucket, replica, known, &mut events);
                    recorder.nodes.seen.insert((at, vbucket), seen);
                }
                None => {
                    recorder.nodes.seen.remove(&(at, vbucket));
                    recorder.nodes.chains.remove(&(at, vbucket));
                    events.extend(known.map(|known| role(process.member, vbucket, known.epoch, Role::Absent)));
                }
            }
        }
        events.into_iter().for_each(|event| recorder.add(now, event));
    }

    /// A node was found to hold messages of a vbucket as committed, from an offset on and without a hole.
    pub(in crate::sim) fn record_held<'a>(
        &mut self,
        at: usize,
        (vbucket, lineage): (VBucketId, Lineage),
        from: u64,
        held: impl Iterator<Item = (u64, &'a [u8])>,
    ) {
        let now = self.now();
        let (Some(recorder), Some(member)) = (&mut self.recorder, self.nodes[at].member()) else { return };
        let key = (at, vbucket);
        if lineage_base(lineage).0 == from {
            recorder.nodes.chains.insert(key, Chain { next: from, hash: 0 });
        }
        // Of a log that goes on above a hole it is not known what lay below.
        let Some(mut chain) = recorder.nodes.chains.remove(&key).filter(|chain| chain.next == from) else { return };
        for (epoch, payload) in held {
            let mut hasher = FxHasher::default();
            hasher.write_u64(chain.hash);
            hasher.write_u64(epoch);
            hasher.write(payload);
            chain = Chain { next: chain.next + 1, hash: hasher.finish() };
            if chain.next.is_multiple_of(HASH_EVERY) {
                recorder.add(now, chain_hash(member, vbucket, lineage, chain));
            }
        }
        recorder.nodes.chains.insert(key, chain);
    }

    /// What every log comes to in the end.
    pub(super) fn record_last_hashes(&mut self) {
        let now = self.now();
        let Some(recorder) = &mut self.recorder else { return };
        let mut events = Vec::new();
        for ((at, vbucket), chain) in &recorder.nodes.chains {
            let lineage = recorder.nodes.seen.get(&(*at, *vbucket)).map(|seen| seen.lineage);
            let is_some = lineage.is_some_and(|lineage| chain.next > lineage_base(lineage).0);
            let member = self.nodes[*at].member().filter(|_| is_some);
            events.extend(member.zip(lineage).map(|(member, lineage)| chain_hash(member, *vbucket, lineage, *chain)));
        }
        events.into_iter().for_each(|event| recorder.add(now, event));
    }
}

fn chain_hash(member: Member, vbucket: VBucketId, lineage: Lineage, chain: Chain) -> Event<'static> {
    let (cluster, offset, hash) = (CLUSTER.to_owned(), Offset(chain.next - 1), Hash64(chain.hash));
    Event::ChainHash(ChainHash { cluster, member, vbucket, lineage, offset, hash })
}

fn role(member: Member, vbucket: VBucketId, epoch: Epoch, role: Role) -> Event<'static> {
    Event::RoleChange(RoleChange { cluster: CLUSTER.to_owned(), member, vbucket, epoch, role })
}

/// Compares a replica with what it was.
fn look_at(
    process: &Process,
    vbucket: VBucketId,
    replica: &Replica,
    known: Option<Seen>,
    events: &mut Vec<Event<'static>>,
) -> Seen {
    let (log, member) = (replica.log(), process.member);
    let (lineage, start, end, high_watermark) = (log.lineage(), log.start(), log.end(), log.high_watermark());
    let map = process.map.vbucket(vbucket);
    let (epoch, role_now) = match replica.role() {
        Holds::Leader(leader) => (leader.epoch(), Role::Leader),
        Holds::Follower(following) if map.is_some_and(|vbucket| vbucket.learners.contains(&member.node)) => {
            (following.epoch, Role::Learner)
        }
        Holds::Follower(following) => (following.epoch, Role::Follower),
        Holds::Idle => (replica.epoch(), Role::Idle),
    };
    let base = lineage_base(lineage);
    let anew = Seen { lineage, end: base, high_watermark: base, epoch: Epoch(0), role: Role::Absent };
    let known = known.filter(|known| known.lineage == lineage).unwrap_or(anew);
    if (known.epoch, known.role) != (epoch, role_now) {
        events.push(role(member, vbucket, epoch, role_now));
    }
    let cluster = || CLUSTER.to_owned();
    if end < known.end {
        let (cluster, from, to, why) = (cluster(), end, known.end, "its leader's log goes on elsewhere".to_owned());
        events.push(Event::Truncate(Truncate { cluster, member, vbucket, lineage, from, to, why }));
    }
    // What lies below the start of a log that began anew was not taken.
    let mut from = known.end.max(start);
    let epochs = if from < end { replica.summary().epochs } else { EpochHistory::default() };
    while from < end {
        let epoch = epochs.epoch_at(from).unwrap_or_default();
        let to = epochs.end_of(epoch, end).map_or(end, |(_, to)| to);
        events.push(Event::Append(Append { cluster: cluster(), member, vbucket, lineage, epoch, from, to }));
        from = to;
    }
    if high_watermark > known.high_watermark {
        let (cluster, hw) = (cluster(), high_watermark);
        events.push(Event::HwAdvance(HwAdvance { cluster, member, vbucket, lineage, hw }));
    }
    Seen { lineage, end, high_watermark, epoch, role: role_now }
}
