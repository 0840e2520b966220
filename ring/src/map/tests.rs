//! Differences of maps.

use std::num::NonZeroU16;

use super::*;
use crate::command::Command;
use crate::member::{BootId, LogIndex};
use crate::state::{ClusterState, MoveLimits};

fn apply(state: &mut ClusterState, command: Command) {
    state.apply(LogIndex(state.applied().0 + 1), command);
}

fn register(state: &mut ClusterState, name: &str) {
    let boot = BootId(u128::from(state.applied().0).to_le_bytes());
    let command = Command::Register { name: name.into(), boot, addresses: Addresses::default(), zone: Zone::default() };
    apply(state, command);
}

fn founded() -> ClusterState {
    let mut state = ClusterState::new();
    let vbuckets = VBucketCount::new(8).unwrap();
    apply(
        &mut state,
        Command::Found {
            cluster: ClusterId([1; 16]),
            vbuckets,
            shards: NonZeroU16::MIN,
            copies: Copies::DEFAULT,
            expect: 1,
        },
    );
    ["a", "b", "c"].iter().for_each(|name| register(&mut state, name));
    for command in state.next_moves(MoveLimits::default()) {
        apply(&mut state, command);
    }
    state
}

#[test]
fn merging_a_difference_gives_the_same_map() {
    let mut state = founded();
    let mut follower = ClusterMap::default();
    assert_eq!(follower.merge(state.map().diff(MapVersion(0))), Ok(true));
    assert_eq!(&follower, state.map());
    let before = follower.version();
    let member = state.map().alive(NodeId(2)).unwrap();
    apply(&mut state, Command::Fence { member });
    apply(&mut state, Command::Forget { node: NodeId(2) });
    let diff = state.map().diff(before);
    assert!(diff.nodes.is_empty() && diff.registered == [NodeId(1), NodeId(3)]);
    assert_eq!(follower.merge(diff.clone()), Ok(true));
    assert_eq!(&follower, state.map());
    assert_eq!(follower.merge(diff), Ok(false), "again changes nothing");
}

#[test]
fn difference_holds_only_what_changed() {
    let mut state = founded();
    let before = state.map().version();
    assert!(state.map().diff(before).vbuckets.is_empty());
    let (id, vb) = state.map().vbuckets().find(|(_, vb)| vb.leader.unwrap().node == NodeId(1)).unwrap();
    let step = crate::command::Step::TransferLeadership { vbucket: id, to: vb.replicas[1] };
    apply(&mut state, Command::Move { steps: vec![step] });
    let diff = state.map().diff(before);
    assert_eq!((diff.vbuckets.len(), diff.nodes.len()), (1, 0));
}

#[test]
fn map_never_goes_back_and_never_skips() {
    let mut state = founded();
    let old = state.map().diff(MapVersion(0));
    let since = state.map().version();
    register(&mut state, "d");
    let newer = state.map().diff(since);
    let mut map = state.map().clone();
    assert_eq!(map.merge(old.clone()), Ok(false));
    assert_eq!(&map, state.map());
    let mut empty = ClusterMap::default();
    assert_eq!(empty.merge(newer), Err(DiffError::Hole { since, ours: MapVersion(0) }));
    let mut theirs = old;
    theirs.cluster = ClusterId([2; 16]);
    let other = DiffError::OtherCluster { ours: ClusterId([1; 16]), theirs: ClusterId([2; 16]) };
    assert_eq!(map.merge(theirs), Err(other));
}

#[test]
fn self_contradicting_difference_is_refused() {
    let state = founded();
    let mut diff = state.map().diff(MapVersion(0));
    diff.vbuckets.pop();
    assert_eq!(ClusterMap::default().merge(diff), Err(DiffError::Malformed));
    let mut diff = state.map().diff(MapVersion(0));
    diff.registered.clear();
    assert_eq!(ClusterMap::default().merge(diff), Err(DiffError::Malformed));
}

#[test]
fn process_is_caught_up_when_in_sync_wherever_it_is_a_replica() {
    let mut state = founded();
    let member = state.map().alive(NodeId(2)).unwrap();
    assert!(state.map().is_caught_up(member));
    register(&mut state, "b");
    assert!(!state.map().is_caught_up(member), "replaced");
    assert!(!state.map().is_caught_up(state.map().alive(NodeId(2)).unwrap()), "not copied yet");
}
