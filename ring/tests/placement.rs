//! Claims about placement: bounds, zones, movement, stability, determinism.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use broky_proto::id::{NodeId, VBucketCount};
use broky_ring::member::Zone;
use broky_ring::placement::{Candidate, Placement, Share, fair_shares, placement, plan};
use proptest::prelude::*;

fn vbuckets(count: u32) -> VBucketCount {
    VBucketCount::new(count).unwrap()
}

fn node(id: u32, zone: &str) -> Candidate {
    Candidate { node: NodeId(id), zone: Zone(zone.into()), is_open: true }
}

fn unzoned(ids: impl IntoIterator<Item = u32>) -> Vec<Candidate> {
    ids.into_iter().map(|id| node(id, "")).collect()
}

fn copies(placements: &[Placement]) -> BTreeMap<NodeId, u64> {
    let mut loads = BTreeMap::new();
    placements.iter().flat_map(|set| &set.0).for_each(|node| *loads.entry(*node).or_default() += 1);
    loads
}

fn leaders(placements: &[Placement]) -> BTreeMap<NodeId, u64> {
    let mut loads = BTreeMap::new();
    placements.iter().filter_map(Placement::leader).for_each(|node| *loads.entry(node).or_default() += 1);
    loads
}

fn assert_within(loads: &BTreeMap<NodeId, u64>, nodes: &[Candidate], share: Share, what: &str) {
    for candidate in nodes {
        let load = loads.get(&candidate.node).copied().unwrap_or(0);
        let (least, most) = (share.least(), share.most());
        assert!((least..=most).contains(&load), "{what} of {}: {load} not in {least}..={most}", candidate.node);
    }
}

fn assert_balanced(placements: &[Placement], nodes: &[Candidate], count: VBucketCount, replicas: u8) {
    let each = u64::from(replicas).min(nodes.len() as u64);
    let share = |things| Share::new(things, nodes.len() as u64);
    assert!(placements.iter().all(|set| set.0.len() as u64 == each));
    assert_within(&copies(placements), nodes, share(u64::from(count.get()) * each), "copies");
    assert_within(&leaders(placements), nodes, share(u64::from(count.get())), "leaders");
}

fn assert_distinct(placements: &[Placement]) {
    for set in placements {
        assert_eq!(set.0.iter().collect::<BTreeSet<_>>().len(), set.0.len(), "{set:?}");
    }
}

/// Copies and leaders that change hands.
fn moved(before: &[Placement], after: &[Placement]) -> (u64, u64) {
    plan(before, after)
        .iter()
        .fold((0, 0), |(adds, leads), step| (adds + step.adds.len() as u64, leads + u64::from(step.leader.is_some())))
}

const SIZES: [(u32, u32); 7] = [(1, 1024), (2, 1024), (3, 1024), (10, 1024), (100, 1024), (1000, 1024), (1000, 16_384)];

#[test]
fn every_node_is_within_five_percent_of_the_mean() {
    for (nodes, count) in SIZES {
        let nodes = unzoned(1..=nodes);
        let placed = placement(&nodes, vbuckets(count), 3, &[]);
        assert_distinct(&placed);
        assert_balanced(&placed, &nodes, vbuckets(count), 3);
    }
}

#[test]
fn join_moves_its_share_and_only_to_the_node_that_joins() {
    for (nodes, count) in SIZES {
        let before = placement(&unzoned(1..=nodes), vbuckets(count), 3, &[]);
        let all = unzoned(1..=nodes + 1);
        let after = placement(&all, vbuckets(count), 3, &before);
        assert_balanced(&after, &all, vbuckets(count), 3);
        let each = u64::from(nodes + 1).min(3);
        let ideal = (u64::from(count) * each).div_ceil(u64::from(nodes + 1));
        let (copies, leads) = moved(&before, &after);
        assert!(copies <= ideal, "{nodes} nodes: {copies} copies moved, ideal {ideal}");
        let ideal = u64::from(count).div_ceil(u64::from(nodes + 1));
        assert!(leads <= ideal + ideal / 10 + 1, "{nodes} nodes: {leads} leaders moved, ideal {ideal}");
        for step in plan(&before, &after) {
            assert!(step.adds.iter().all(|node| node.0 == nodes + 1), "{step:?}");
        }
    }
}

#[test]
fn leave_moves_what_the_node_held() {
    for (nodes, count) in SIZES.into_iter().filter(|(nodes, _)| *nodes > 3) {
        let before = placement(&unzoned(1..=nodes), vbuckets(count), 3, &[]);
        for gone in [1, nodes] {
            let rest = unzoned((1..=nodes).filter(|id| *id != gone));
            let after = placement(&rest, vbuckets(count), 3, &before);
            assert_balanced(&after, &rest, vbuckets(count), 3);
            let held = copies(&before)[&NodeId(gone)];
            let led = leaders(&before)[&NodeId(gone)];
            let (copies, leads) = moved(&before, &after);
            assert!(copies <= held + held / 10 + 1, "{nodes} nodes: {copies} copies moved, {held} held");
            assert!(leads <= 2 * led + 2, "{nodes} nodes: {leads} leaders moved, {led} led");
        }
    }
}

#[test]
fn a_dead_nodes_vbuckets_fall_to_all_others() {
    let placed = placement(&unzoned(1..=10), vbuckets(1024), 3, &[]);
    let heirs: BTreeSet<NodeId> = placed.iter().filter(|set| set.0[0] == NodeId(4)).map(|set| set.0[1]).collect();
    assert_eq!(heirs.len(), 9, "{heirs:?}");
}

#[test]
fn copies_are_in_distinct_zones_while_there_are_enough() {
    let zones = ["a", "b", "c", "d"];
    let nodes: Vec<_> = (0..13).map(|id| node(id, zones[id as usize % 4])).collect();
    let placed = placement(&nodes, vbuckets(1024), 3, &[]);
    for set in &placed {
        assert_eq!(set.0.iter().map(|node| node.0 % 4).collect::<BTreeSet<_>>().len(), 3, "{set:?}");
    }
    assert_balanced(&placed, &nodes, vbuckets(1024), 3);
}

#[test]
fn two_zones_both_hold_a_copy() {
    let nodes: Vec<_> = (0..7).map(|id| node(id, if id < 2 { "small" } else { "large" })).collect();
    for set in placement(&nodes, vbuckets(256), 3, &[]) {
        assert!(set.0.iter().any(|node| node.0 < 2) && set.0.iter().any(|node| node.0 >= 2), "{set:?}");
    }
}

#[test]
fn no_nodes_hold_nothing() {
    assert_eq!(placement(&[], vbuckets(4), 3, &[]), vec![Placement::default(); 4]);
}

#[test]
fn closed_node_keeps_its_copies_and_gets_no_more() {
    let mut nodes = unzoned(1..=5);
    let before = placement(&nodes, vbuckets(256), 3, &[]);
    nodes[0].is_open = false;
    assert_eq!(placement(&nodes, vbuckets(256), 3, &before), before);
    let held = copies(&before)[&NodeId(1)];
    nodes.remove(3);
    let after = placement(&nodes, vbuckets(256), 3, &before);
    assert_eq!(copies(&after)[&NodeId(1)], held);
}

/// One change of the cluster's make-up.
#[derive(Clone, Debug)]
enum Change {
    Join(u8),
    Leave(u8),
    Close(u8),
    Open(u8),
    Replicas(u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..4_u8).prop_map(Change::Join),
        3 => any::<u8>().prop_map(Change::Leave),
        1 => any::<u8>().prop_map(Change::Close),
        1 => any::<u8>().prop_map(Change::Open),
        1 => (1..=5_u8).prop_map(Change::Replicas),
    ]
}

/// Copies per zone, by vbucket, may differ by one only where the smaller zone has no node left.
fn assert_zones_even(placements: &[Placement], nodes: &[Candidate]) {
    let zone_of: BTreeMap<NodeId, &Zone> = nodes.iter().map(|c| (c.node, &c.zone)).collect();
    let mut size: BTreeMap<&Zone, usize> = BTreeMap::new();
    nodes.iter().for_each(|c| *size.entry(&c.zone).or_default() += 1);
    for set in placements {
        let in_zone = |zone: &Zone| set.0.iter().filter(|node| zone_of[node] == zone).count();
        let deepest = size.keys().map(|zone| in_zone(zone)).max().unwrap_or(0);
        for (zone, size) in &size {
            assert!(in_zone(zone) >= *size.min(&deepest.saturating_sub(1)), "{set:?} {zone:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Through any history of joins and leaves: full sets, distinct nodes, even zones, and asking again changes
    /// nothing.
    #[test]
    fn any_history_keeps_the_rules(zones in 1..4_u8, changes in prop::collection::vec(change(), 1..25)) {
        let count = vbuckets(128);
        let (mut nodes, mut next, mut replicas) = (unzoned([]), 1, 3);
        let mut placed = Vec::new();
        for change in changes {
            let pick = |at: u8, len: usize| usize::from(at) % len.max(1);
            let len = nodes.len();
            match change {
                Change::Join(zone) => {
                    nodes.push(node(next, ["", "b", "c", "d"][usize::from(zone % zones)]));
                    next += 1;
                }
                Change::Leave(at) if len > 1 => drop(nodes.remove(pick(at, len))),
                Change::Close(at) if len > 0 => nodes[pick(at, len)].is_open = false,
                Change::Open(at) if len > 0 => nodes[pick(at, len)].is_open = true,
                Change::Replicas(count) => replicas = count,
                Change::Leave(_) | Change::Close(_) | Change::Open(_) => {}
            }
            let after = placement(&nodes, count, replicas, &placed);
            assert_distinct(&after);
            let each = usize::from(replicas).min(nodes.len());
            prop_assert!(after.iter().all(|set| set.0.len() == each));
            assert_zones_even(&after, &nodes);
            if nodes.iter().all(|c| c.is_open) {
                if zones == 1 { assert_balanced(&after, &nodes, count, replicas); }
                for (node, share) in fair_shares(&nodes, count, replicas) {
                    let load = copies(&after).get(&node).copied().unwrap_or(0);
                    prop_assert!((share.least()..=share.most()).contains(&load), "{node}: {load} of {share:?} {nodes:?}");
                    let lead = Share::new(u64::from(count.get()), nodes.len() as u64);
                    let load = leaders(&after).get(&node).copied().unwrap_or(0);
                    prop_assert!((lead.least()..=lead.most()).contains(&load), "{node} leads {load} of {lead:?} {nodes:?}");
                }
            }
            prop_assert!(placement(&nodes, count, replicas, &after) == after);
            let mut shuffled = nodes.clone();
            shuffled.reverse();
            prop_assert!(placement(&shuffled, count, replicas, &placed) == after);
            placed = after;
        }
    }
}
