//! What gossip suggests: newer maps, leaders elsewhere.

use std::time::Duration;

use broky_proto::id::{Epoch, NodeId, VBucketId};

use super::sim::{Sim, address};
use crate::gossip::event::{Events, GossipEvent};
use crate::gossip::rumour::own::Leads;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn deposed_leader_hears_who_leads_in_its_place() {
    for seed in 0..20 {
        let mut sim = Sim::new(5, seed);
        sim.set_leads(1, Leads::from([(VBucketId(9), Epoch(10)), (VBucketId(10), Epoch(10))]));
        sim.run(3 * SECOND);
        sim.lead(4, VBucketId(9), Epoch(11));
        let expected =
            GossipEvent::LeaderElsewhere { member: sim.member(4), vbuckets: vec![(VBucketId(9), Epoch(11))] };
        sim.run_until(SECOND, "it hears of it", |sim| {
            sim.processes[&1].events.iter().any(|(_, event)| *event == expected)
        });
        assert!(
            !sim.processes[&4].events.iter().any(|(_, event)| matches!(event, GossipEvent::LeaderElsewhere { .. }))
        );
    }
}

#[test]
fn whoever_begins_to_lead_by_an_old_map_hears_of_it_at_once() {
    let mut sim = Sim::new(3, 2);
    sim.lead(2, VBucketId(3), Epoch(50));
    sim.run(3 * SECOND);
    sim.lead(1, VBucketId(3), Epoch(40));
    let expected = GossipEvent::LeaderElsewhere { member: sim.member(2), vbuckets: vec![(VBucketId(3), Epoch(50))] };
    assert_eq!(sim.processes[&1].events.last().map(|(_, event)| event), Some(&expected));
}

#[test]
fn newer_map_is_heard_of_by_everybody_within_a_second_as_each_fetches_it() {
    let mut worst = Duration::ZERO;
    for seed in 0..20 {
        let mut sim = Sim::new(10, seed);
        sim.run(3 * SECOND);
        sim.registry.bump(NodeId(1));
        let version = sim.registry.map().version();
        sim.give_map(1);
        let start = sim.elapsed();
        // Each that hears of it has it fifty milliseconds later.
        while (1..=10).any(|at| sim.processes[&at].engine.map_version() < version) {
            assert!(sim.elapsed() - start < SECOND, "a second has passed");
            sim.run(Duration::from_millis(10));
            let now = sim.elapsed();
            let fetched: Vec<usize> = (2..=10)
                .filter(|at| {
                    sim.processes[at].events.iter().any(|(when, event)| {
                        matches!(event, GossipEvent::NewerMap { version: newer, .. } if *newer == version)
                            && now - *when > Duration::from_millis(50)
                    })
                })
                .collect();
            fetched.into_iter().for_each(|at| sim.give_map(at));
        }
        worst = worst.max(sim.elapsed() - start);
    }
    println!("10 nodes: all have a newer map after {worst:?} at the most");
}

#[test]
fn newer_map_is_suggested_again_while_it_is_not_fetched() {
    let mut sim = Sim::new(2, 1);
    sim.run(2 * SECOND);
    sim.registry.bump(NodeId(1));
    sim.give_map(1);
    sim.run(10 * SECOND);
    let suggestions: Vec<_> =
        sim.processes[&2].events.iter().filter(|(_, event)| matches!(event, GossipEvent::NewerMap { .. })).collect();
    assert!((5..=11).contains(&suggestions.len()), "{suggestions:?}");
    let GossipEvent::NewerMap { from, address: at, .. } = suggestions[0].1 else { unreachable!() };
    assert_eq!((from, at), (sim.member(1), address(1)));
}

#[test]
fn pending_suggestions_replace_each_other() {
    let mut sim = Sim::new(2, 1);
    let (one, two) = (sim.member(1), sim.member(2));
    let mut events = Events::default();
    for round in 0..1_000 {
        events.hint(one, round % 2 == 0);
        events.newer_map(broky_proto::id::MapVersion(round), two, address(2));
        events.leader_elsewhere(VBucketId(1), Epoch(round), one);
        events.leader_elsewhere(VBucketId(2), Epoch(1_000 - round), two);
        events.leader_elsewhere(VBucketId(3), Epoch(round), one);
    }
    let taken: Vec<GossipEvent> = std::iter::from_fn(|| events.pop()).collect();
    let expected = [
        GossipEvent::LeaderElsewhere {
            member: one,
            vbuckets: vec![(VBucketId(1), Epoch(999)), (VBucketId(3), Epoch(999))],
        },
        GossipEvent::LeaderElsewhere { member: two, vbuckets: vec![(VBucketId(2), Epoch(1_000))] },
        GossipEvent::NewerMap { from: two, address: address(2), version: broky_proto::id::MapVersion(999) },
        GossipEvent::Alive(one),
    ];
    assert_eq!(taken, expected);
    sim.run(SECOND);
}
