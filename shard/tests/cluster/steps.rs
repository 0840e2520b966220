//! Random runs: work and faults, then healing, and what has to hold in the end.

use std::time::Duration;

use broky_proto::v1::{Earliest, start};
use broky_ring::command::Command;
use broky_shard::{Outbox, SessionId, TICK};

use crate::readers::Reader;
use crate::world::{CLUSTER, World, shard};

/// What a run does to its nodes.
#[derive(Clone, Copy)]
struct Faults {
    kills: bool,
    pauses: bool,
    cuts: bool,
    /// Everything at once, now and then.
    total: bool,
    /// Messages so large that the oldest leave the memory.
    large: bool,
}

impl World {
    fn step(&mut self, faults: Faults) {
        let alive = self.alive();
        let Some(node) = self.rng.pick(&alive) else { return self.revive() };
        match self.rng.below(100) {
            0..=14 => {
                let producer = self.rng.below(self.producers.len());
                self.produce(producer);
                self.push(producer);
            }
            15..=24 => self.with(node, |shard, out| shard.flush(out)),
            25..=54 => self.deliver(),
            55..=66 => self.relay(),
            67..=69 => self.fetch(),
            70..=74 => self.tick(),
            75..=78 => self.learn(node),
            79..=82 => {
                if !self.proposals.is_empty() {
                    let at = self.rng.below(self.proposals.len());
                    // A proposal may get lost on its way, or come twice.
                    match self.rng.below(8) {
                        0 => drop(self.proposals.remove(at)),
                        1 => {
                            self.proposals.push(self.proposals[at].clone());
                            self.decide(at);
                        }
                        _ => self.decide(at),
                    }
                }
            }
            83..=84 => self.place(),
            85..=91 => self.read(node, true),
            92 => {
                let producer = self.rng.below(self.producers.len());
                self.give_up(producer);
            }
            93..=94 => {
                self.connect(node);
                self.connect_upstreams(node);
            }
            95 if faults.cuts => {
                let links: Vec<SessionId> = self.network.links.keys().copied().collect();
                if let Some(link) = self.rng.pick(&links) {
                    self.cut(link, false);
                }
                if self.rng.one_in(2) {
                    self.cut_some_upstream();
                }
            }
            96 if faults.kills => self.kill(node),
            97 => self.revive(),
            98 if faults.pauses && self.rng.one_in(3) => self.nodes[node].is_paused = true,
            99 if faults.total && self.rng.one_in(60) => (0..self.nodes.len()).for_each(|node| self.kill(node)),
            _ => self.unpause(),
        }
    }

    /// Delivers a few frames of one link.
    fn deliver(&mut self) {
        let links: Vec<SessionId> = self.network.links.keys().copied().collect();
        let Some(session) = self.rng.pick(&links) else { return };
        let (from, to, inbound) = {
            let link = &self.network.links[&session];
            (link.from, link.to, link.inbound)
        };
        for _ in 0..=self.rng.below(4) {
            let now = self.now;
            if self.rng.one_in(2) {
                if self.nodes[to].is_paused {
                    return;
                }
                let Some(frame) = self.network.next_down(session) else { return };
                let mut is_broken = false;
                self.with(to, |shard, out| is_broken = shard.handle_to_follower(now, inbound, frame, out).is_err());
                if is_broken {
                    return self.cut(session, false);
                }
            } else {
                if self.nodes[from].is_paused {
                    return;
                }
                let Some(frame) = self.network.next_up(session) else { return };
                self.with(from, |shard, out| shard.handle_to_leader(now, session, frame, out).unwrap());
            }
        }
    }

    pub(crate) fn tick(&mut self) {
        self.now = self.now.plus(TICK);
        let now = self.now;
        for node in self.alive() {
            self.with(node, |shard, out| shard.handle_tick(now, out));
        }
    }

    fn kill(&mut self, node: usize) {
        if self.nodes[node].shard.take().is_none() {
            return;
        }
        self.nodes[node].is_paused = false;
        for reader in self.readers.iter_mut().filter(|reader| reader.node == node) {
            reader.subscription = None;
        }
        let of_it = self.network.links.iter().filter(|(_, link)| link.from == node || link.to == node);
        for session in of_it.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.cut(session, true);
        }
        self.cut_relays_of(node);
        for producer in 0..self.producers.len() {
            if self.producers[producer].attempt.is_some_and(|(_, at)| at == node) {
                self.give_up(producer);
            }
        }
        if self.rng.one_in(2) {
            let member = self.nodes[node].member;
            self.control.apply(Command::Fence { member });
            self.place();
        }
    }

    /// Starts a dead process again, empty.
    fn revive(&mut self) {
        let dead: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].shard.is_none()).collect();
        let Some(node) = self.rng.pick(&dead) else { return };
        let name = self.nodes[node].name.clone();
        let member = self.control.register(&name);
        self.place();
        self.nodes[node].member = member;
        self.nodes[node].shard = Some(shard(member, self.vbuckets));
        self.learn(node);
    }

    fn unpause(&mut self) {
        let paused: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].is_paused).collect();
        if let Some(node) = self.rng.pick(&paused) {
            self.nodes[node].is_paused = false;
        }
    }

    fn read(&mut self, node: usize, moves: bool) {
        let mut readers = std::mem::take(&mut self.readers);
        let mut out = Outbox::default();
        let mut left = Vec::new();
        let Some(shard) = &mut self.nodes[node].shard else { return self.readers = readers };
        for reader in &mut readers {
            if reader.node == node && reader.subscription.is_some() {
                reader.read(shard, &mut self.ledger, &mut out);
            } else if reader.subscription.is_none() || moves && self.rng.one_in(20) {
                // Its node is gone, or it goes elsewhere by itself.
                left.extend(reader.subscription.take().map(|id| (reader.node, id)));
                reader.resume(node, shard, &CLUSTER.0, &mut out);
            }
        }
        if readers.len() < 6 {
            let start = self.rng.one_in(2).then_some(start::Start::Earliest(Earliest {}));
            let tag = self.rng.one_in(3).then_some(b'a');
            readers.push(Reader::open(node, shard, start, tag, &mut out));
        }
        self.readers = readers;
        self.carry_out(node, out);
        for (node, id) in left {
            self.with(node, |shard, out| shard.close_subscription(id, out));
        }
    }

    /// Ends all faults and runs until nothing is left to do.
    fn heal(&mut self) {
        for _ in 0..self.nodes.len() * 4 {
            self.revive();
            self.unpause();
        }
        for node in &self.nodes {
            let member = node.member;
            self.control.apply(Command::Unfence { member });
        }
        self.place();
        for round in 0..4_000 {
            for node in 0..self.nodes.len() {
                self.learn(node);
                self.with(node, |shard, out| shard.flush(out));
                self.connect_upstreams(node);
                self.read(node, false);
            }
            for _ in 0..20 {
                self.deliver();
                self.relay();
                self.fetch();
            }
            for producer in 0..self.producers.len() {
                if self.rng.one_in(50) {
                    self.give_up(producer);
                }
                self.push(producer);
            }
            self.tick();
            while !self.proposals.is_empty() {
                self.decide(0);
            }
            self.place();
            if self.is_settled() && round > 50 {
                return;
            }
        }
        panic!("not settled: {}", self.describe());
    }

    fn is_settled(&self) -> bool {
        let is_in_sync = |vbucket: &broky_ring::map::VBucket| vbucket.isr.len() == vbucket.replicas.len();
        let ends = |vbucket| -> Vec<_> {
            let shards = self.nodes.iter().filter_map(|node| node.shard.as_ref());
            shards.filter_map(|shard| shard.log(vbucket)).map(|log| (log.end(), log.high_watermark())).collect()
        };
        let is_level = |vbucket| ends(vbucket).windows(2).all(|pair| pair[0] == pair[1] && pair[0].0 == pair[0].1);
        let readers_done = self.readers.iter().all(|reader| {
            let end = |vbucket: broky_proto::id::VBucketId| ends(vbucket).first().map_or(0, |(end, _)| end.0);
            self.vbuckets.iter().all(|vbucket| reader.has_all(u32::from(vbucket.0), end(vbucket), &self.ledger))
        });
        self.producers.iter().all(|producer| producer.unsettled.is_empty())
            && self.control.map().vbuckets().all(|(_, vbucket)| is_in_sync(vbucket))
            && self.vbuckets.iter().all(is_level)
            && readers_done
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for (id, vbucket) in self.control.map().vbuckets() {
            text += &format!("\n{id}: leader {:?} isr {:?} of {:?}", vbucket.leader, vbucket.isr, vbucket.replicas);
            for node in &self.nodes {
                let Some(shard) = &node.shard else { continue };
                let delivery = shard.delivery();
                let sees = (delivery.is_ready(id), delivery.is_relayed(id), delivery.seen(id));
                text += &format!("\n   {} {:?} {:?} sees {sees:?}", node.member, shard.log(id), delivery.bounds(id));
            }
        }
        let unsettled: Vec<_> =
            self.producers.iter().map(|producer| (producer.unsettled.len(), producer.attempt)).collect();
        for reader in &self.readers {
            text += &format!("\nreader {reader:?}");
        }
        text += &self.describe_relays();
        text + &format!("\nunsettled {unsettled:?}, {} links", self.network.links.len())
    }

    /// Everything acknowledged is there, at every node, once.
    fn check_all(&mut self) {
        self.readers.iter().for_each(|reader| reader.check(&self.ledger));
        let before = self.ledger.acknowledged.clone();
        for node in 0..self.nodes.len() {
            let Some(shard) = &mut self.nodes[node].shard else { continue };
            let holds_all = self.vbuckets.iter().all(|vbucket| shard.log(vbucket).is_some());
            if !holds_all {
                continue;
            }
            let mut out = Outbox::default();
            let mut reader = Reader::open(node, shard, Some(start::Start::Earliest(Earliest {})), None, &mut out);
            let mut found = crate::ledger::Ledger::default();
            reader.read(shard, &mut found, &mut out);
            for (id, (vbucket, offset)) in &before {
                let start = shard.log(broky_proto::id::VBucketId(u16::try_from(*vbucket).unwrap())).unwrap().start().0;
                if *offset >= start {
                    assert!(found.has(*id), "message {id} at vbucket {vbucket} offset {offset} is lost at node {node}");
                }
            }
        }
    }
}

fn run(seed: u64, nodes: usize, replicas: u8, faults: Faults) -> World {
    println!("seed {seed}");
    let mut world = World::new(seed, nodes, 4, replicas, if faults.large { 400 << 10 } else { 0 });
    for _ in 0..3_000 {
        world.step(faults);
    }
    world.heal();
    world.check_all();
    world
}

const QUIET: Faults = Faults { kills: false, pauses: false, cuts: false, total: false, large: false };

fn seeds(count: u64) -> std::ops::Range<u64> {
    // More with BROKY_SEEDS=n, for a long run by hand; BROKY_SEEDS=n..m for some of them.
    let asked = option_env!("BROKY_SEEDS").unwrap_or_default();
    match asked.split_once("..") {
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
        None => 0..asked.parse().unwrap_or(count),
    }
}

#[test]
fn quiet_cluster_commits_everything_on_every_node() {
    for seed in seeds(10) {
        let world = run(seed, 3, 3, QUIET);
        assert_eq!(world.lineage_changes, 0);
        assert!(world.ledger.acknowledged.len() > 40, "{} acknowledged", world.ledger.acknowledged.len());
        assert!(world.ledger.shown > 100);
    }
}

#[test]
fn broken_links_lose_and_repeat_nothing() {
    for seed in seeds(30) {
        let world = run(seed, 3, 3, Faults { cuts: true, ..QUIET });
        assert_eq!(world.lineage_changes, 0);
    }
}

#[test]
fn paused_nodes_lose_and_repeat_nothing() {
    for seed in seeds(30) {
        let world = run(seed, 3, 3, Faults { pauses: true, cuts: true, ..QUIET });
        assert_eq!(world.lineage_changes, 0);
    }
}

#[test]
fn killed_nodes_lose_nothing_that_somebody_held() {
    for seed in seeds(60) {
        run(seed, 3, 3, Faults { kills: true, cuts: true, pauses: true, ..QUIET });
    }
}

#[test]
fn larger_cluster_loses_nothing_that_somebody_held() {
    for seed in seeds(40) {
        run(seed, 5, 3, Faults { kills: true, cuts: true, pauses: true, ..QUIET });
    }
}

#[test]
fn total_loss_is_told_and_offsets_are_not_used_again() {
    let mut losses = 0;
    for seed in seeds(40) {
        losses += run(seed, 3, 3, Faults { kills: true, cuts: true, total: true, ..QUIET }).lineage_changes;
    }
    assert!(losses > 0, "nothing was ever lost");
}

#[test]
fn readers_elsewhere_miss_nothing_in_silence() {
    let (mut frames, mut histories) = (0, 0);
    for seed in seeds(40) {
        let world = run(seed, 6, 2, Faults { cuts: true, pauses: true, ..QUIET });
        (frames, histories) = (frames + world.relays.frames, histories + world.relays.histories_read);
    }
    assert!(frames > 1_000 && histories > 10, "{frames} frames relayed, {histories} histories read");
}

#[test]
fn readers_elsewhere_are_told_what_has_left_the_memory() {
    let mut missed = 0;
    for seed in seeds(15) {
        let world = run(seed, 5, 2, Faults { cuts: true, large: true, ..QUIET });
        missed += world.readers.iter().map(|reader| reader.missed).sum::<u64>();
    }
    assert!(missed > 0, "nothing left the memory");
}

#[test]
fn readers_elsewhere_are_told_of_total_loss() {
    let mut losses = 0;
    for seed in seeds(30) {
        losses += run(seed, 5, 2, Faults { kills: true, cuts: true, total: true, ..QUIET }).lineage_changes;
    }
    assert!(losses > 0, "nothing was ever lost");
}

/// Time passes in steps that links are judged by.
#[test]
fn tick_is_short_against_what_it_measures() {
    assert!(TICK * 4 < broky_shard::LAG_MAX);
    assert!(TICK > Duration::ZERO);
}
