//! The control plane of a cluster of one: the replicated cluster state, applied here alone.

use std::io;

use broky_proto::id::{ClusterId, MapVersion, Member, VBucketCount};
use broky_proto::v1::{TopologyNode, TopologyResponse};
use broky_ring::command::{Command, Outcome};
use broky_ring::map::ClusterMap;
use broky_ring::member::{Addresses, BootId, Copies, LogIndex, Zone};
use broky_ring::state::{ClusterState, MoveLimits};
use broky_shard::{Assignment, assignments};

/// A cluster that this node has founded and is alone in.
#[derive(Debug)]
pub(crate) struct Founded {
    state: ClusterState,
    pub(crate) me: Member,
}

/// Placing every vbucket takes a few entries; more is a bug.
const PLACING_ENTRIES_MAX: usize = 64;

/// Founds a cluster under a random id, so that nothing of an earlier one is mistaken for its own, and registers this
/// node in it.
pub(crate) fn found(name: &str, addresses: Addresses, vbuckets: VBucketCount) -> io::Result<Founded> {
    let mut log = Log { state: ClusterState::new(), index: 0 };
    let cluster = ClusterId(random()?);
    // One copy is what one node can hold; more nodes hold more.
    log.apply(Command::Found { cluster, vbuckets, copies: Copies::DEFAULT, expect: 1 });
    let register =
        Command::Register { name: name.to_owned(), boot: BootId(random()?), addresses, zone: Zone::default() };
    let Outcome::Register(Ok(registration)) = log.apply(register) else {
        return Err(io::Error::other("a new cluster refuses its first node"));
    };
    for _ in 0..PLACING_ENTRIES_MAX {
        let proposals = log.state.next_moves(MoveLimits::default());
        if proposals.is_empty() {
            break;
        }
        for command in proposals {
            log.apply(command);
        }
    }
    Ok(Founded { state: log.state, me: registration.member })
}

/// The control log of one: an entry is committed when it is applied.
struct Log {
    state: ClusterState,
    index: u64,
}

impl Log {
    fn apply(&mut self, command: Command) -> Outcome {
        self.index += 1;
        self.state.apply(LogIndex(self.index), command)
    }
}

fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::from)?;
    Ok(bytes)
}

impl Founded {
    fn map(&self) -> &ClusterMap {
        self.state.map()
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.map().cluster()
    }

    /// What this node leads: everything.
    pub(crate) fn assignments(&self) -> Vec<Assignment> {
        assignments(self.map(), self.me)
    }

    /// The map in the form that clients get.
    pub(crate) fn topology(&self) -> TopologyResponse {
        topology(self.map())
    }
}

fn topology(map: &ClusterMap) -> TopologyResponse {
    let MapVersion(map_version) = map.version();
    let places: Vec<_> = map.nodes().map(|(id, _)| id).collect();
    let place = |leader| places.iter().position(|id| *id == leader).map_or(0, |at| at + 1);
    TopologyResponse {
        cluster_id: map.cluster().0.to_vec().into(),
        map_version,
        vbuckets: map.vbucket_count().map_or(0, |count| u32::from(count.get())),
        nodes: map
            .nodes()
            .map(|(_, node)| TopologyNode {
                name: node.name.clone(),
                incarnation: node.incarnation.0,
                address: node.addresses.client.clone(),
                zone: node.zone.0.clone(),
            })
            .collect(),
        leaders: map
            .vbuckets()
            .map(|(_, vbucket)| vbucket.leader.map_or(0, |leader| place(leader.node)))
            .map(|place| u32::try_from(place).unwrap_or_default())
            .collect(),
        epochs: map.vbuckets().map(|(_, vbucket)| vbucket.epoch.0).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lone_node_leads_every_vbucket_with_an_isr_of_itself() {
        for count in [1, 1024, 32_768] {
            let vbuckets = VBucketCount::new(count).unwrap();
            let founded = found("n", Addresses::default(), vbuckets).unwrap();
            founded.state.check_invariants().unwrap();
            let assignments = founded.assignments();
            assert_eq!(assignments.len(), vbuckets.len());
            assert!(assignments.iter().all(|assignment| assignment.followers.is_empty() && assignment.min_isr == 1));
            let topology = founded.topology();
            assert_eq!(topology.leaders, vec![1; vbuckets.len()]);
            assert!(topology.epochs.iter().all(|epoch| *epoch > 0));
        }
    }

    #[test]
    fn clusters_do_not_share_an_id() {
        let id = || found("n", Addresses::default(), VBucketCount::DEFAULT).unwrap().cluster();
        assert_ne!(id(), id());
    }
}
