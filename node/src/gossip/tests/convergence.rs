//! What is said reaches everybody, soon, and also when much is lost.

use std::time::Duration;

use broky_proto::id::{Epoch, VBucketId};

use super::sim::Sim;
use crate::gossip::rumour::own::Leads;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn ownership_reaches_every_node_within_a_second() {
    let mut worst = Duration::ZERO;
    for (nodes, seed) in [3, 5, 10].into_iter().flat_map(|nodes| (0..8).map(move |seed| (nodes, seed))) {
        let mut sim = Sim::new(nodes, seed);
        sim.run(3 * SECOND);
        sim.deal_leads(20);
        let took = sim.run_until(SECOND, "all leads", Sim::all_know_all);
        sim.run(SECOND);
        sim.lead(1, VBucketId(5), Epoch(1_000));
        worst = worst.max(took).max(sim.run_until(SECOND, "one lead", Sim::all_know_all));
    }
    println!("3 to 10 nodes, no loss: everybody knows after {worst:?} at the most");
}

#[test]
fn node_that_starts_learns_all_ownership_within_a_second() {
    for seed in 0..6 {
        let mut sim = Sim::new(10, seed);
        sim.deal_leads(1_000);
        sim.run(3 * SECOND);
        sim.restart(4);
        (1..=10).for_each(|at| sim.give_map(at));
        let took = sim.run_until(SECOND, "all leads at the new node", |sim| {
            (1..=10).filter(|at| *at != 4).all(|of| sim.knows(4, of))
        });
        println!("a node that starts knows all after {took:?}");
    }
}

#[test]
fn three_dozen_nodes_converge_while_a_fifth_is_lost() {
    let mut sim = Sim::new(36, 1);
    sim.loss = 200;
    sim.run(3 * SECOND);
    sim.deal_leads(2_000);
    let took = sim.run_until(5 * SECOND, "all leads", Sim::all_know_all);
    println!("36 nodes, a fifth lost: everybody knows after {took:?}");
}

#[test]
fn every_vbucket_in_an_epoch_of_its_own_still_fits_and_converges() {
    let mut sim = Sim::new(3, 1);
    sim.deal_leads(u64::MAX / 2);
    let took = sim.run_until(2 * SECOND, "all leads", Sim::all_know_all);
    println!("3 nodes, 1024 epochs of up to ten bytes: everybody knows after {took:?}");
}

#[test]
fn leads_given_up_are_known_to_be() {
    let mut sim = Sim::new(5, 9);
    sim.deal_leads(3);
    sim.run_until(2 * SECOND, "all leads", Sim::all_know_all);
    sim.set_leads(2, Leads::new());
    sim.run_until(SECOND, "none", Sim::all_know_all);
}

#[test]
fn newest_say_wins_however_it_is_carried() {
    let mut sim = Sim::new(8, 3);
    sim.loss = 300;
    for epoch in 1..100 {
        sim.lead(1, VBucketId(7), Epoch(epoch));
        sim.run(Duration::from_millis(7));
    }
    sim.run_until(5 * SECOND, "the newest", Sim::all_know_all);
    sim.run(20 * SECOND);
    assert!(sim.all_know_all());
}

#[test]
fn idle_cluster_sends_little() {
    let mut sim = Sim::new(10, 4);
    sim.deal_leads(1_000);
    sim.run(5 * SECOND);
    let (datagrams, bytes) = (sim.datagrams, sim.bytes);
    sim.run(60 * SECOND);
    let per_second = (sim.datagrams - datagrams) / 600;
    println!("10 nodes idle: {per_second} datagrams, {} bytes a second and node", (sim.bytes - bytes) / 600);
    assert!(per_second < 20, "{per_second} datagrams a second and node");
}
