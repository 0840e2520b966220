//! A control plane of one, that gives incarnations and maps.

use std::num::NonZeroU16;
use std::sync::Arc;

use broky_proto::id::{ClusterId, Member, NodeId, VBucketCount};
use broky_ring::command::{Command, Outcome};
use broky_ring::map::ClusterMap;
use broky_ring::member::{Addresses, BootId, Copies, LogIndex, Zone};
use broky_ring::state::ClusterState;

pub(super) const CLUSTER: ClusterId = ClusterId([7; 16]);
pub(super) const VBUCKETS: VBucketCount = VBucketCount::DEFAULT;

pub(super) struct Registry {
    state: ClusterState,
    index: u64,
}

impl Registry {
    pub(super) fn new() -> Self {
        let mut registry = Self { state: ClusterState::new(), index: 0 };
        registry.apply(Command::Found {
            cluster: CLUSTER,
            vbuckets: VBUCKETS,
            shards: NonZeroU16::MIN,
            copies: Copies::DEFAULT,
            expect: 1,
        });
        registry
    }

    fn apply(&mut self, command: Command) -> Outcome {
        self.index += 1;
        self.state.apply(LogIndex(self.index), command)
    }

    /// Registers a new process of a node.
    pub(super) fn register(&mut self, name: &str, address: impl ToString) -> Member {
        let boot = BootId(u128::from(self.index).to_be_bytes());
        let addresses = Addresses { peer: address.to_string(), ..Addresses::default() };
        let zone = Zone(format!("zone-{name}"));
        match self.apply(Command::Register { name: name.to_owned(), boot, addresses, zone }) {
            Outcome::Register(Ok(registration)) => registration.member,
            refused => panic!("{refused:?}"),
        }
    }

    /// Removes a node for good.
    pub(super) fn forget(&mut self, member: Member) {
        self.apply(Command::Fence { member });
        self.apply(Command::Forget { node: member.node });
        assert!(self.state.map().node(member.node).is_none());
    }

    /// Any change of the map.
    pub(super) fn bump(&mut self, node: NodeId) {
        let before = self.state.map().version();
        self.apply(Command::Drain { node, force: true });
        if self.state.map().version() == before {
            self.apply(Command::Undrain { node });
        }
        assert!(self.state.map().version() > before);
    }

    pub(super) fn map(&self) -> Arc<ClusterMap> {
        Arc::new(self.state.map().clone())
    }
}
