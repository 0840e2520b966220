//! The control plane as everybody else sees it: an ordered log that decides, sometimes late, sometimes not at all, and
//! a detector that takes silence for death.
//!
//! Raft itself is not simulated, what it promises is: entries are applied one after the other, by the real
//! [`ClusterState`], and are never taken back. Who proposes does not know whether it was heard; who learns may learn
//! late, of several entries at once, or of all as from a snapshot.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use broky_proto::id::{ClusterId, MapVersion, Member, NodeId, VBucketCount};
use broky_proto::time::Timestamp;
use broky_ring::command::{Command, Outcome};
use broky_ring::map::{ClusterMap, Liveness};
use broky_ring::member::{Addresses, BootId, Copies, LogIndex, Zone};
use broky_ring::state::{ClusterState, MoveLimits};

use super::options::Options;
use super::record::metas;
use crate::history::Meta;

/// The one cluster of a run.
pub(super) const CLUSTER: ClusterId = ClusterId([5; 16]);
/// How often a node tells that it lives.
pub(super) const BEAT: Duration = Duration::from_millis(250);
/// Who is silent for this long is fenced.
const SILENCE: Duration = Duration::from_secs(1);
/// How often that is looked at, and moves are made.
pub(super) const WATCH: Duration = Duration::from_millis(50);

/// What is known of a process' heartbeats.
#[derive(Clone, Copy, Debug)]
struct Heard {
    last: Timestamp,
    /// Since it was fenced.
    beats: u32,
    /// The map it had.
    version: MapVersion,
}

/// See the module.
pub(super) struct Metadata {
    state: ClusterState,
    heard: BTreeMap<Member, Heard>,
    leaderless_until: Timestamp,
    boots: u64,
    /// A rule of the state machine that was broken.
    pub(super) broken: Option<String>,
    pub(super) decisions: u64,
    /// What entries have changed since it was last taken, where that is recorded.
    changes: Option<Vec<Meta>>,
}

impl Metadata {
    pub(super) fn new(options: &Options, is_recorded: bool) -> Self {
        let mut metadata = Self {
            state: ClusterState::new(),
            heard: BTreeMap::new(),
            leaderless_until: Timestamp::default(),
            boots: 0,
            broken: None,
            decisions: 0,
            changes: is_recorded.then(Vec::new),
        };
        let small = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
        let copies = Copies { replicas: small(options.replicas), min_isr: small(options.min_isr) };
        let vbuckets = VBucketCount::new(u32::try_from(options.vbuckets).unwrap()).unwrap();
        let (cluster, shards, expect) = (CLUSTER, NonZeroU16::MIN, u16::try_from(options.nodes).unwrap_or(1));
        metadata.apply(Command::Found { cluster, vbuckets, shards, copies, expect });
        metadata
    }

    pub(super) fn map(&self) -> &ClusterMap {
        self.state.map()
    }

    pub(super) fn apply(&mut self, command: Command) -> Outcome {
        let before = self.state.clone();
        let next = LogIndex(self.state.applied().0 + 1);
        let outcome = self.state.apply(next, command);
        let sound = self.state.check_invariants().and_then(|()| self.state.check_successor(&before));
        if let Err(violation) = sound {
            self.broken.get_or_insert_with(|| format!("{violation:?}"));
        }
        self.decisions += 1;
        if let Some(changes) = &mut self.changes {
            changes.extend(metas(before.map(), self.state.map()));
        }
        outcome
    }

    /// What entries have changed since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<Meta> {
        self.changes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Registers a process under a name; again under the same name and boot it is the same one.
    pub(super) fn register(&mut self, name: &str, boot: BootId, now: Timestamp) -> Option<Member> {
        let (addresses, zone) = (Addresses::default(), Zone::default());
        match self.apply(Command::Register { name: name.to_owned(), boot, addresses, zone }) {
            Outcome::Register(Ok(registration)) => {
                self.hear(registration.member, MapVersion(0), now);
                Some(registration.member)
            }
            _ => None,
        }
    }

    /// The name of a process that begins now.
    pub(super) fn next_boot(&mut self) -> BootId {
        self.boots += 1;
        BootId(u128::from(self.boots).to_be_bytes())
    }

    pub(super) fn is_leaderless(&self, now: Timestamp) -> bool {
        now < self.leaderless_until
    }

    /// Nobody leads until then. Whoever leads next has heard of nobody, and holds that against nobody.
    pub(super) fn lose_leader(&mut self, until: Timestamp) {
        self.leaderless_until = until;
        self.heard.values_mut().for_each(|heard| heard.last = heard.last.max(until));
    }

    /// Notes that a process lives, and which map it has.
    pub(super) fn hear(&mut self, member: Member, version: MapVersion, now: Timestamp) {
        let heard = self.heard.entry(member).or_insert(Heard { last: now, beats: 0, version });
        heard.last = heard.last.max(now);
        heard.beats += 1;
        heard.version = heard.version.max(version);
    }

    /// The newest map that a process is known to have.
    pub(super) fn version_of(&self, member: Member) -> MapVersion {
        self.heard.get(&member).map_or(MapVersion(0), |heard| heard.version)
    }

    /// Fences a process, if it counts.
    pub(super) fn fence(&mut self, member: Member) -> bool {
        if !self.map().is_alive(member) {
            return false;
        }
        if let Some(heard) = self.heard.get_mut(&member) {
            heard.beats = 0;
        }
        self.apply(Command::Fence { member });
        true
    }

    /// Fences the silent, takes back those who are heard again, and makes the next moves. Whether anything was decided.
    pub(super) fn watch(&mut self, now: Timestamp) -> bool {
        if self.is_leaderless(now) {
            return false;
        }
        let map = self.map().clone();
        self.heard.retain(|member, _| map.is_current(*member));
        let before = self.decisions;
        for (id, node) in map.nodes() {
            let member = Member { node: id, incarnation: node.incarnation };
            let Some(heard) = self.heard.get(&member).copied() else { continue };
            let is_silent = now.since(heard.last) > SILENCE;
            match node.liveness {
                Liveness::Alive if is_silent => drop(self.fence(member)),
                Liveness::Fenced | Liveness::Evicted if !is_silent && heard.beats >= 2 => {
                    self.apply(Command::Unfence { member });
                }
                Liveness::Alive | Liveness::Fenced | Liveness::Evicted => {}
            }
        }
        for command in self.state.next_moves(MoveLimits::default()) {
            self.apply(command);
        }
        self.decisions > before
    }

    /// What an operator does with a node: drains it, has what it held rebuilt elsewhere when it is dead, and in the end
    /// forgets it.
    pub(super) fn tidy(&mut self, id: NodeId) {
        let Some(node) = self.map().node(id).cloned() else { return };
        let member = Member { node: id, incarnation: node.incarnation };
        match node.liveness {
            Liveness::Alive => drop(self.apply(Command::Drain { node: id, force: false })),
            Liveness::Fenced => drop(self.apply(Command::Evict { member })),
            Liveness::Evicted => drop(self.apply(Command::Forget { node: id })),
        }
    }

    /// Ends all that is being drained.
    pub(super) fn undrain(&mut self) {
        let draining: Vec<NodeId> = self.map().nodes().filter(|(_, node)| node.is_draining).map(|(id, _)| id).collect();
        draining.into_iter().for_each(|node| drop(self.apply(Command::Undrain { node })));
    }
}
