//! Who is there: isolation and return, restarts, strangers.

use std::time::Duration;

use broky_proto::id::{Incarnation, Member, NodeId};

use super::sim::{Sim, address};
use crate::gossip::event::GossipEvent;
use crate::gossip::stats::Dropped;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn silent_node_is_suspected_within_three_seconds_and_nobody_else() {
    for seed in 0..20 {
        let mut sim = Sim::new(5, seed);
        sim.run(5 * SECOND);
        sim.isolated.insert(2);
        let silent = sim.member(2);
        let others = [1, 3, 4, 5];
        let took = sim.run_until(3 * SECOND, "all suspect it", |sim| {
            others.iter().all(|at| sim.suspects(*at, silent) == Some(true))
        });
        println!("silence is suspected by all after {took:?}");
        sim.run(20 * SECOND);
        for at in others {
            assert!(others.iter().all(|of| sim.suspects(at, sim.member(*of)) != Some(true)));
        }
        // The one cut off does not accuse the whole world.
        assert!(others.iter().all(|of| sim.suspects(2, sim.member(*of)) == Some(false)));
    }
}

#[test]
fn node_is_found_again_after_an_hour_of_isolation_and_told_all_it_missed() {
    let mut sim = Sim::new(5, 3);
    sim.deal_leads(50);
    sim.run(5 * SECOND);
    sim.isolated.insert(3);
    sim.run(1800 * SECOND);
    sim.deal_leads(5_000);
    sim.run(1800 * SECOND);
    assert!(!sim.knows(3, 1));
    sim.isolated.clear();
    let back = sim.member(3);
    let took = sim.run_until(5 * SECOND, "it is back", |sim| {
        sim.all_know_all() && [1, 2, 4, 5].iter().all(|at| sim.suspects(*at, back) == Some(false))
    });
    println!("back after an hour: all know all again after {took:?}");
    sim.run(20 * SECOND);
    assert_eq!(sim.suspects(1, back), Some(false));
}

#[test]
fn those_that_meet_again_do_not_greet_each_other_over_and_over() {
    let mut sim = Sim::new(3, 7);
    sim.run(5 * SECOND);
    sim.isolated.insert(1);
    sim.run(60 * SECOND);
    sim.isolated.clear();
    // Without probes and their answers nobody is quick to refute a suspicion.
    sim.lost_kind = Some(1);
    let before = sim.datagrams;
    sim.run(30 * SECOND);
    assert!(sim.datagrams - before < 30 * 3 * 10, "{} datagrams in half a minute", sim.datagrams - before);
}

#[test]
fn two_halves_find_each_other_again() {
    let mut sim = Sim::new(8, 5);
    sim.run(5 * SECOND);
    // Four that hear nobody at all are cut off as well as can be.
    sim.isolated.extend([1, 2, 3, 4]);
    sim.run(600 * SECOND);
    sim.isolated.clear();
    sim.deal_leads(9);
    sim.run_until(10 * SECOND, "one cluster", |sim| {
        sim.all_know_all()
            && (1..=8).all(|at| (1..=8).all(|of| at == of || sim.suspects(at, sim.member(of)) == Some(false)))
    });
}

#[test]
fn two_percent_loss_makes_nobody_look_gone() {
    let mut sim = Sim::new(5, 6);
    sim.loss = 20;
    sim.run(300 * SECOND);
    let suspicions = sim
        .processes
        .values()
        .flat_map(|process| &process.events)
        .filter(|(_, e)| matches!(e, GossipEvent::Suspect(_)));
    assert_eq!(suspicions.count(), 0);
}

#[test]
fn suspicions_under_heavy_loss_are_taken_back() {
    let mut sim = Sim::new(12, 8);
    sim.loss = 400;
    sim.run(120 * SECOND);
    sim.loss = 0;
    sim.run_until(20 * SECOND, "nobody is suspected", |sim| {
        (1..=12).all(|at| (1..=12).all(|of| at == of || sim.suspects(at, sim.member(of)) == Some(false)))
    });
    sim.run(60 * SECOND);
    assert!((2..=12).all(|of| sim.suspects(1, sim.member(of)) == Some(false)));
}

#[test]
fn restarted_node_takes_the_place_of_its_older_process() {
    for seed in 0..10 {
        let mut sim = Sim::new(5, seed);
        sim.deal_leads(10);
        sim.run(5 * SECOND);
        let old = sim.member(2);
        let new = sim.restart(2);
        assert_eq!(old.node, new.node);
        // Until the map comes, the new one is nobody, but a reason to fetch the map.
        sim.run_until(2 * SECOND, "somebody hears of the map", |sim| {
            sim.processes.iter().any(|(at, process)| *at != 2 && has_newer_map(&process.events))
        });
        assert!(sim.processes[&1].engine.led_by(new).is_none());
        for at in [1, 3, 4, 5] {
            sim.give_map(at);
            assert!(sim.processes[&at].engine.led_by(old).is_none(), "what the old one led is forgotten with it");
        }
        sim.run_until(2 * SECOND, "the new one is known", |sim| {
            sim.all_know_all() && [1, 3, 4, 5].iter().all(|at| sim.suspects(*at, new) == Some(false))
        });
    }
}

fn has_newer_map(events: &[(Duration, GossipEvent)]) -> bool {
    events.iter().any(|(_, event)| matches!(event, GossipEvent::NewerMap { .. }))
}

#[test]
fn old_incarnation_never_comes_back() {
    let mut sim = Sim::new(5, 11);
    sim.deal_leads(10);
    sim.run(5 * SECOND);
    // The old process of the node at place 2 lives on at place 2, cut off, while a new one starts elsewhere.
    sim.isolated.insert(2);
    let old = sim.member(2);
    let new = sim.registry.register("n2", address(6));
    let map = sim.registry.map();
    sim.start_process(6, new, map, Vec::new());
    [1, 3, 4, 5].into_iter().for_each(|at| sim.give_map(at));
    sim.run(5 * SECOND);
    sim.isolated.clear();
    sim.lead(2, broky_proto::id::VBucketId(1), broky_proto::id::Epoch(1 << 40));
    let healed = sim.elapsed();
    sim.run_until(2 * SECOND, "the old one hears that there is a newer map", |sim| {
        has_newer_map(&sim.processes[&2].events)
    });
    sim.run(120 * SECOND);
    for at in &[1, 3, 4, 5, 6] {
        let process = &sim.processes[at];
        assert!(process.engine.led_by(old).is_none());
        assert!(*at == 6 || process.engine.led_by(new).is_some());
        let is_about_old = |event: &GossipEvent| match event {
            GossipEvent::Suspect(who) | GossipEvent::Alive(who) => *who == old,
            GossipEvent::LeaderElsewhere { member, .. } => *member == old,
            GossipEvent::NewerMap { from, .. } => *from == old,
        };
        assert!(!process.events.iter().any(|(when, event)| *when > healed && is_about_old(event)));
    }
    assert!(sim.processes[&1].stats.dropped(Dropped::Stale) > 0);
}

#[test]
fn forgotten_node_is_gone_and_is_told_so() {
    let mut sim = Sim::new(4, 12);
    sim.deal_leads(10);
    sim.run(5 * SECOND);
    let gone = sim.member(4);
    sim.registry.forget(gone);
    (1..=3).for_each(|at| sim.give_map(at));
    sim.run(30 * SECOND);
    assert!((1..=3).all(|at| sim.processes[&at].engine.led_by(gone).is_none()));
    assert!(has_newer_map(&sim.processes[&4].events));
    assert!(sim.processes[&1].stats.dropped(Dropped::Unknown) > 0);
}

#[test]
fn node_whose_map_shows_nobody_where_he_is_finds_the_cluster_by_its_seeds() {
    let mut sim = Sim::new(3, 13);
    let lost = sim.registry.register("lost", address(9));
    let old = sim.registry.map();
    // Everybody else restarts at another place while it is cut off.
    for at in 1..=3 {
        sim.processes.remove(&at);
        let moved = sim.registry.register(&format!("n{at}"), address(at + 20));
        let map = sim.registry.map();
        sim.start_process(at + 20, moved, map, Vec::new());
    }
    (21..=23).for_each(|at| sim.give_map(at));
    sim.start_process(9, lost, old, vec![address(23).to_string()]);
    sim.run_until(2 * SECOND, "it hears of the map", |sim| has_newer_map(&sim.processes[&9].events));
    sim.give_map(9);
    sim.deal_leads(5);
    sim.run_until(2 * SECOND, "one cluster", Sim::all_know_all);
}

#[test]
fn member_known_by_name_is_probed_once_the_name_is_resolved() {
    let mut sim = Sim::new(1, 15);
    sim.registry.register("n2", "two.example:7401");
    sim.give_map(1);
    sim.run(20 * SECOND);
    assert_eq!(sim.datagrams, 0);
    sim.call(1, |engine, now, out| {
        assert_eq!(engine.names(), ["two.example:7401"]);
        engine.handle_resolved(now, "two.example:7401", address(2), out);
    });
    sim.run(2 * SECOND);
    assert!(sim.datagrams > 0);
}

#[test]
fn two_strangers_do_not_answer_each_other_for_ever() {
    let mut sim = Sim::new(2, 14);
    let stranger = Member { node: NodeId(77), incarnation: Incarnation(1) };
    let mut elsewhere = super::registry::Registry::new();
    elsewhere.register("x", address(1));
    sim.start_process(9, stranger, elsewhere.map(), vec![address(1).to_string()]);
    sim.run(10 * SECOND);
    let before = sim.datagrams;
    sim.run(60 * SECOND);
    assert!((sim.datagrams - before) / 60 < 60, "{} datagrams in a minute", sim.datagrams - before);
}
