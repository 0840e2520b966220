//! Prints how evenly placement spreads, and how much a join and a leave move: the tables of `docs/placement.md`.
//!
//! `cargo run --release -p broky-ring --example placement`

use std::collections::BTreeMap;
use std::time::Instant;

use broky_proto::id::{NodeId, VBucketCount};
use broky_ring::member::Zone;
use broky_ring::placement::{Candidate, Placement, Share, placement, plan};
use broky_ring::ring::{TokenRing, range_start};

fn candidates(nodes: u32, zones: u32) -> Vec<Candidate> {
    let zone = |node: u32| Zone(if zones == 0 { String::new() } else { format!("z{}", node % zones) });
    (1..=nodes).map(|node| Candidate { node: NodeId(node), zone: zone(node), is_open: true }).collect()
}

/// The load of each of `nodes` nodes: copies and leaders.
fn loads(placements: &[Placement], nodes: &[Candidate]) -> (Vec<u64>, Vec<u64>) {
    let mut copies = vec![0; nodes.len() + 2];
    let mut leads = copies.clone();
    for set in placements {
        for (rank, node) in set.0.iter().enumerate() {
            let seat = usize::try_from(node.0).unwrap_or_default();
            if let (Some(copies), Some(leads)) = (copies.get_mut(seat), leads.get_mut(seat)) {
                *copies += 1;
                *leads += u64::from(rank == 0);
            }
        }
    }
    let seats = |loads: &[u64]| {
        let load = |c: &Candidate| usize::try_from(c.node.0).ok().and_then(|seat| loads.get(seat).copied());
        nodes.iter().filter_map(load).collect()
    };
    (seats(&copies), seats(&leads))
}

/// "min..max, +x.y %" of the mean.
fn spread(loads: &[u64]) -> String {
    let (min, max) = (loads.iter().min().copied().unwrap_or(0), loads.iter().max().copied().unwrap_or(0));
    let total: u64 = loads.iter().sum();
    let nodes = u64::try_from(loads.len()).unwrap_or(1).max(1);
    let over = (max * nodes * 1000).checked_div(total).unwrap_or(1000).saturating_sub(1000);
    format!("{min}..{max} (+{}.{} %)", over / 10, over % 10)
}

/// Copies and leaders that move between two placements.
fn moved(before: &[Placement], after: &[Placement]) -> (u64, u64) {
    plan(before, after).iter().fold((0, 0), |(copies, leads), step| {
        (copies + u64::try_from(step.adds.len()).unwrap_or(0), leads + u64::from(step.leader.is_some()))
    })
}

/// For comparison: consistent hashing with bounded loads as in the paper, which knows no previous placement. Clockwise
/// from the vbucket, the first nodes that are below 5 % over the mean.
fn memoryless(nodes: &[Candidate], vbuckets: VBucketCount, replicas: u8) -> Vec<Placement> {
    let replicas = usize::from(replicas).min(nodes.len());
    let total = vbuckets.len() * replicas;
    let number = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
    let most = Share::new(number(total), number(nodes.len())).most();
    let ring = TokenRing::new(nodes.iter().map(|candidate| candidate.node));
    let mut loads: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut place = |vbucket| {
        let mut set = Vec::new();
        for node in ring.walk(range_start(vbucket, vbuckets)) {
            let load = loads.entry(node).or_default();
            if set.len() < replicas && !set.contains(&node) && *load < most {
                *load += 1;
                set.push(node);
            }
        }
        Placement(set)
    };
    vbuckets.iter().map(&mut place).collect()
}

fn ratio(moved: u64, ideal: u64) -> String {
    let hundredths = (moved * 100).checked_div(ideal).unwrap_or(100);
    format!("{moved}/{ideal} = {}.{:02}", hundredths / 100, hundredths % 100)
}

#[expect(clippy::disallowed_methods, reason = "an example may look at the clock")]
fn row(nodes: u32, zones: u32, vbuckets: VBucketCount) {
    const REPLICAS: u8 = 3;
    let before = candidates(nodes, zones);
    let after = candidates(nodes + 1, zones);
    let copies = u64::from(vbuckets.get()) * u64::from(nodes.min(3));
    let leads = u64::from(vbuckets.get());
    let (small, large) = (u64::from(nodes), u64::from(nodes + 1));

    let start = Instant::now();
    let founded = placement(&before, vbuckets, REPLICAS, &[]);
    let took = start.elapsed();
    let joined = placement(&after, vbuckets, REPLICAS, &founded);
    // The node that leaves is one of the first, not the one that just joined.
    let rest: Vec<_> = before.iter().skip(1).cloned().collect();
    let left = placement(&rest, vbuckets, REPLICAS, &founded);
    let memoryless = [&before, &after].map(|nodes| memoryless(nodes, vbuckets, REPLICAS));

    let (copy_loads, lead_loads) = loads(&founded, &before);
    let (join_copies, join_leads) = moved(&founded, &joined);
    let (leave_copies, leave_leads) = moved(&founded, &left);
    let [first, second] = &memoryless;
    let (memoryless_copies, _) = moved(first, second);
    let (memoryless_loads, _) = loads(first, &before);
    // With more copies than nodes before, a joining node takes one of everything.
    let ideal_join = if nodes < 3 { leads } else { copies / large };
    let ideal_leave = if nodes <= 3 { 0 } else { copies / small };
    let zones = if zones == 0 { "none".to_owned() } else { zones.to_string() };
    println!(
        "| {nodes} | {zones} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {took:.1?} |",
        vbuckets.get(),
        spread(&copy_loads),
        spread(&lead_loads),
        ratio(join_copies, ideal_join),
        ratio(join_leads, leads / large),
        ratio(leave_copies, ideal_leave),
        if nodes == 1 { String::new() } else { ratio(leave_leads, leads / small) },
        if zones == "none" { ratio(memoryless_copies, ideal_join) } else { String::new() },
        if zones == "none" { spread(&memoryless_loads) } else { String::new() },
    );
}

fn main() {
    println!(
        "| nodes | zones | vbuckets | copies per node | leaders per node | join: copies moved/ideal | join: leaders | \
         leave: copies | leave: leaders | memoryless: join | memoryless: copies per node | time |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let count = |count| VBucketCount::new(count).unwrap_or(VBucketCount::DEFAULT);
    for (nodes, zones, vbuckets) in [
        (1, 0, 1024),
        (3, 0, 1024),
        (4, 0, 1024),
        (10, 0, 1024),
        (100, 0, 1024),
        (1000, 0, 1024),
        (1000, 0, 16_384),
        (9, 3, 1024),
        (10, 3, 1024),
        (10, 4, 1024),
        (100, 5, 1024),
        (1000, 10, 16_384),
        (3, 0, 16_384),
    ] {
        row(nodes, zones, count(vbuckets));
    }
}
