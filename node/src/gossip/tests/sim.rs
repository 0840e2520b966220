//! Engines in virtual time on a network that delays, loses, doubles and cuts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broky_proto::id::{Epoch, Member, VBucketId};
use broky_ring::map::ClusterMap;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::registry::{CLUSTER, Registry, VBUCKETS};
use crate::gossip::engine::{Engine, EngineConfig, Outbox};
use crate::gossip::event::GossipEvent;
use crate::gossip::rumour::Load;
use crate::gossip::rumour::own::Leads;
use crate::gossip::stats::GossipStats;
use crate::gossip::swim::Identity;

/// A process, by the place it runs at.
pub(super) struct Process {
    pub(super) member: Member,
    pub(super) engine: Engine,
    pub(super) stats: Arc<GossipStats>,
    pub(super) leads: Leads,
    /// Its suggestions, with their times since the start.
    pub(super) events: Vec<(Duration, GossipEvent)>,
}

/// A datagram on its way: when it arrives, a tie break, from and to which place, and what it is.
type Flying = (Instant, u64, usize, usize, Vec<u8>);

pub(super) struct Sim {
    pub(super) registry: Registry,
    pub(super) processes: BTreeMap<usize, Process>,
    /// Places that neither send nor receive.
    pub(super) isolated: BTreeSet<usize>,
    /// Datagrams lost, in thousandths.
    pub(super) loss: u32,
    /// The kind of datagrams of which all are lost.
    pub(super) lost_kind: Option<u8>,
    pub(super) datagrams: usize,
    pub(super) bytes: usize,
    start: Instant,
    now: Instant,
    flying: BinaryHeap<Reverse<Flying>>,
    sent: u64,
    rng: SmallRng,
}

pub(super) fn address(place: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(place).unwrap()], 7401))
}

fn place(address: SocketAddr) -> usize {
    match address {
        SocketAddr::V4(address) => usize::from(address.ip().octets()[3]),
        SocketAddr::V6(_) => unreachable!("all addresses here are IPv4"),
    }
}

impl Sim {
    /// Nodes at places 1 to `nodes`, all in the map from the start.
    pub(super) fn new(nodes: usize, seed: u64) -> Self {
        let now = Instant::now();
        let mut sim = Self {
            registry: Registry::new(),
            processes: BTreeMap::new(),
            isolated: BTreeSet::new(),
            loss: 0,
            lost_kind: None,
            datagrams: 0,
            bytes: 0,
            start: now,
            now,
            flying: BinaryHeap::new(),
            sent: 0,
            rng: SmallRng::seed_from_u64(seed),
        };
        let members: Vec<Member> =
            (1..=nodes).map(|at| sim.registry.register(&format!("n{at}"), address(at))).collect();
        let map = sim.registry.map();
        for (at, member) in (1..).zip(members) {
            sim.start_process(at, member, map.clone(), Vec::new());
        }
        sim
    }

    /// Starts a process in place of whatever ran there.
    pub(super) fn start_process(&mut self, at: usize, member: Member, map: Arc<ClusterMap>, seeds: Vec<String>) {
        let stats = Arc::new(GossipStats::default());
        let me = Identity { member, address: address(at) };
        let zone = map.node(member.node).map(|node| node.zone.clone()).unwrap_or_default();
        let seed = self.rng.random();
        let config = EngineConfig { me, cluster: CLUSTER, vbuckets: VBUCKETS, zone, seeds, map, seed };
        let engine = Engine::new(self.now, config, stats.clone());
        let process = Process { member, engine, stats, leads: Leads::new(), events: Vec::new() };
        self.processes.insert(at, process);
    }

    /// Registers a node anew and starts it, with the map that only it and the control plane have then.
    pub(super) fn restart(&mut self, at: usize) -> Member {
        let member = self.registry.register(&format!("n{at}"), address(at));
        let map = self.registry.map();
        self.start_process(at, member, map, Vec::new());
        member
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(super) fn member(&self, at: usize) -> Member {
        self.processes[&at].member
    }

    /// Calls one process' engine.
    pub(super) fn call(&mut self, at: usize, step: impl FnOnce(&mut Engine, Instant, &mut Outbox)) {
        let mut out = Outbox::new();
        let Some(process) = self.processes.get_mut(&at) else { return };
        step(&mut process.engine, self.now, &mut out);
        let elapsed = self.now - self.start;
        while let Some(event) = process.engine.pop_event() {
            process.events.push((elapsed, event));
        }
        for (to, datagram) in out {
            self.datagrams += 1;
            self.bytes += datagram.len();
            assert!(datagram.len() <= 1400, "a datagram of {} bytes", datagram.len());
            self.carry(at, place(to), datagram);
        }
    }

    fn carry(&mut self, from: usize, to: usize, datagram: Vec<u8>) {
        let is_cut = self.isolated.contains(&from) || self.isolated.contains(&to);
        let is_cut = is_cut || datagram.get(5).copied() == self.lost_kind;
        if is_cut || self.rng.random_range(0..1000) < self.loss {
            return;
        }
        // One in a hundred comes twice; delays differ, so they also overtake one another.
        for _ in 0..if self.rng.random_range(0..100) == 0 { 2 } else { 1 } {
            let delay = Duration::from_micros(self.rng.random_range(100..5_000));
            self.sent += 1;
            self.flying.push(Reverse((self.now + delay, self.sent, from, to, datagram.clone())));
        }
    }

    pub(super) fn set_leads(&mut self, at: usize, leads: Leads) {
        self.processes.get_mut(&at).unwrap().leads = leads.clone();
        self.call(at, |engine, now, out| engine.handle_local(now, &Arc::new(leads), Load(0), out));
    }

    /// Deals out all vbuckets: `epochs` different epochs, leaders at random.
    pub(super) fn deal_leads(&mut self, epochs: u64) {
        let places: Vec<usize> = self.processes.keys().copied().collect();
        let mut leads: BTreeMap<usize, Leads> = BTreeMap::new();
        for vbucket in VBUCKETS.iter() {
            let at = places[self.rng.random_range(0..places.len())];
            let epoch = Epoch(100 + self.rng.random_range(0..epochs));
            leads.entry(at).or_default().insert(vbucket, epoch);
        }
        for (at, leads) in leads {
            self.set_leads(at, leads);
        }
    }

    /// Moves a vbucket to another leader, in a newer epoch. The old one does not hear of it from the control plane.
    pub(super) fn lead(&mut self, at: usize, vbucket: VBucketId, epoch: Epoch) {
        let mut leads = self.processes[&at].leads.clone();
        leads.insert(vbucket, epoch);
        self.set_leads(at, leads);
    }

    pub(super) fn give_map(&mut self, at: usize) {
        let map = self.registry.map();
        self.call(at, |engine, now, out| engine.handle_map(now, map, out));
    }

    /// Does what happens next.
    fn step(&mut self) {
        let arrival = self.flying.peek().map(|Reverse((at, ..))| *at);
        let due = self.processes.iter().filter_map(|(at, process)| Some((process.engine.next_timeout()?, *at))).min();
        match (arrival, due) {
            (Some(arrival), due) if due.is_none_or(|(due, _)| arrival <= due) => {
                let Some(Reverse((at, _, from, to, datagram))) = self.flying.pop() else { return };
                self.now = self.now.max(at);
                if !self.isolated.contains(&to) {
                    self.call(to, |engine, now, out| engine.handle_datagram(now, address(from), &datagram, out));
                }
            }
            (_, Some((due, at))) => {
                self.now = self.now.max(due);
                self.call(at, |engine, now, out| engine.handle_timeout(now, out));
            }
            (_, None) => panic!("nothing will ever happen again"),
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Runs until the condition holds, and says how long that took. Fails after the deadline.
    pub(super) fn run_until(&mut self, deadline: Duration, what: &str, condition: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !condition(self) {
            assert!(self.now - start < deadline, "{what}: not within {deadline:?}");
            // What is asked may take longer than what happens.
            self.run(Duration::from_millis(5));
        }
        self.now - start
    }

    /// Whether the process at `at` knows all that the one at `of` leads.
    pub(super) fn knows(&self, at: usize, of: usize) -> bool {
        let of = &self.processes[&of];
        self.processes[&at].engine.led_by(of.member).as_ref() == Some(&of.leads)
    }

    /// Whether everybody who is not cut off knows what all of them lead.
    pub(super) fn all_know_all(&self) -> bool {
        let places: Vec<usize> = self.processes.keys().copied().filter(|at| !self.isolated.contains(at)).collect();
        places.iter().all(|at| places.iter().all(|of| at == of || self.knows(*at, *of)))
    }

    /// The last hint of one process about a member: whether it is suspected.
    pub(super) fn suspects(&self, at: usize, member: Member) -> Option<bool> {
        self.processes[&at].events.iter().rev().find_map(|(_, event)| match event {
            GossipEvent::Suspect(who) if *who == member => Some(true),
            GossipEvent::Alive(who) if *who == member => Some(false),
            GossipEvent::Suspect(_)
            | GossipEvent::Alive(_)
            | GossipEvent::NewerMap { .. }
            | GossipEvent::LeaderElsewhere { .. } => None,
        })
    }
}
