//! The control plane: the replicated state itself, without raft.

use std::num::NonZeroU16;

use broky_proto::id::{ClusterId, Lineage, Member, Offset, VBucketCount, VBucketId};
use broky_ring::command::{Command, Outcome};
use broky_ring::lineage::lineage_base;
use broky_ring::map::ClusterMap;
use broky_ring::member::{Addresses, BootId, Copies, LogIndex, Zone};
use broky_ring::state::{ClusterState, MoveLimits};

/// A control plane without a network.
pub(crate) struct Cluster {
    state: ClusterState,
    boots: u64,
    lineages: Vec<Lineage>,
}

impl Cluster {
    pub(crate) fn new(vbuckets: VBucketCount, replicas: u8, min_isr: u8) -> Self {
        let mut cluster = Self { state: ClusterState::new(), boots: 0, lineages: Vec::new() };
        let (id, copies) = (ClusterId([5; 16]), Copies { replicas, min_isr });
        cluster.apply(Command::Found { cluster: id, vbuckets, shards: NonZeroU16::MIN, copies, expect: 1 });
        cluster
    }

    pub(crate) fn map(&self) -> &ClusterMap {
        self.state.map()
    }

    pub(crate) fn apply(&mut self, command: Command) -> Outcome {
        let next = LogIndex(self.state.applied().0 + 1);
        let outcome = self.state.apply(next, command);
        self.state.check_invariants().unwrap();
        outcome
    }

    /// Registers a process under a name; again under the same name, it is a new one.
    pub(crate) fn register(&mut self, name: &str) -> Member {
        self.boots += 1;
        let mut boot = [0; 16];
        boot[..8].copy_from_slice(&self.boots.to_be_bytes());
        let boot = BootId(boot);
        let (name, addresses, zone) = (name.to_owned(), Addresses::default(), Zone::default());
        match self.apply(Command::Register { name, boot, addresses, zone }) {
            Outcome::Register(Ok(registration)) => registration.member,
            other => panic!("{other:?}"),
        }
    }

    /// Applies what a controller would propose, as far as it can be done at once.
    pub(crate) fn settle(&mut self) {
        for _ in 0..64 {
            let moves = self.state.next_moves(MoveLimits::default());
            if moves.is_empty() {
                return;
            }
            moves.into_iter().for_each(|command| drop(self.apply(command)));
        }
    }

    /// Vbuckets whose history has ended since the last call, each with the first offset of the new one.
    pub(crate) fn new_lineages(&mut self) -> Vec<(VBucketId, Offset)> {
        let now: Vec<Lineage> = self.state.map().vbuckets().map(|(_, vbucket)| vbucket.lineage).collect();
        let before = std::mem::replace(&mut self.lineages, now.clone());
        let pairs = (0..).map(VBucketId).zip(now.into_iter().zip(before));
        pairs.filter(|(_, (now, before))| now > before).map(|(id, (now, _))| (id, lineage_base(now))).collect()
    }
}
