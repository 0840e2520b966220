//! Cluster maps for tests, made the way a cluster makes them: by applying commands.

use std::num::NonZeroU16;

use broky_proto::id::{ClusterId, Member, NodeId, VBucketCount, VBucketId};
use broky_ring::command::{Command, Outcome};
use broky_ring::map::ClusterMap;
use broky_ring::member::{Addresses, BootId, Copies, LogIndex, Zone};
use broky_ring::placement::Placement;
use broky_ring::state::ClusterState;

/// A control plane without a network.
pub(crate) struct Cluster {
    state: ClusterState,
    boots: u8,
}

impl Cluster {
    pub(crate) fn new(vbuckets: VBucketCount, replicas: u8, min_isr: u8) -> Self {
        let mut cluster = Self { state: ClusterState::new(), boots: 0 };
        let (id, copies) = (ClusterId([5; 16]), Copies { replicas, min_isr });
        cluster.apply(Command::Found { cluster: id, vbuckets, shards: NonZeroU16::MIN, copies, expect: 1 });
        cluster
    }

    pub(crate) fn map(&self) -> &ClusterMap {
        self.state.map()
    }

    pub(crate) fn apply(&mut self, command: Command) -> Outcome {
        let next = LogIndex(self.state.applied().0 + 1);
        self.state.apply(next, command)
    }

    /// Registers a process under a name; again under the same name, it is a new one.
    pub(crate) fn register(&mut self, name: &str) -> Member {
        self.boots += 1;
        let boot = BootId([self.boots; 16]);
        let (name, addresses, zone) = (name.to_owned(), Addresses::default(), Zone::default());
        match self.apply(Command::Register { name, boot, addresses, zone }) {
            Outcome::Register(Ok(registration)) => registration.member,
            other => panic!("{other:?}"),
        }
    }

    /// Says in one entry, `index` or a later one, which nodes hold these vbuckets, the leaders first.
    pub(crate) fn place(&mut self, index: u64, vbuckets: impl Iterator<Item = VBucketId>, nodes: &[NodeId]) {
        let targets = vbuckets.map(|vbucket| (vbucket, Placement(nodes.to_vec()))).collect();
        let index = LogIndex(index.max(self.state.applied().0 + 1));
        self.state.apply(index, Command::Reassign { targets });
    }
}
