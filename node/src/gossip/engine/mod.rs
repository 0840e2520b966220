//! The decisions of gossip, without clock, socket or randomness of its own: time, datagrams, names' addresses and a
//! seed come in, datagrams and suggestions go out.
//!
//! The cluster map is the authority on who exists. Whoever it shows is probed, greeted and heard for as long as it
//! shows it, however long it was silent; whoever it does not show, an older process of a node above all, is not
//! believed anything, and told by a [`Kind::Notice`] that its map is old. What only a newer map can explain is a reason
//! to fetch that map, and nothing else.
//!
//! News reach everybody in three ways: pushed in rounds and on probes, soon; by digest and [`Kind::Ask`] when something
//! was lost; and by greeting, when two meet that have not heard of one another.

mod alarms;
mod book;
mod budget;
mod members;
mod peers;
mod receive;
mod spread;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broky_proto::id::{ClusterId, MapVersion, Member, VBucketCount};
use broky_ring::map::ClusterMap;
use broky_ring::member::Zone;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use self::alarms::{Alarm, Alarms};
use self::book::Book;
use self::budget::Budget;
use self::peers::Peers;
use super::PeerReport;
use super::envelope::{Envelope, Kind};
use super::event::{Events, GossipEvent};
use super::rumour::Load;
use super::rumour::board::Board;
use super::rumour::own::{Leads, Own};
use super::stats::GossipStats;
use super::swim::{Identity, Packets, Swim};

/// Datagrams to send, and where.
pub(super) type Outbox = Vec<(SocketAddr, Vec<u8>)>;

/// Time between two rounds while there are news.
const ROUND_INTERVAL: Duration = Duration::from_millis(200);
/// Time that news wait for others to go along.
const ROUND_DELAY: Duration = Duration::from_millis(20);
/// Rounds held on account of a new map, which has no rumour of its own: its version is in every envelope.
const MAP_ROUNDS: u32 = 4;
/// Time between two renewals of the own head in a small cluster; larger ones take longer in proportion.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// A cluster that is not small.
const REFRESH_NODES: usize = 32;
/// Time between two greetings of the silent and the seeds.
const HELLO_INTERVAL: Duration = Duration::from_secs(10);
/// Time after which a newer map is suggested again, in case fetching it has failed.
const SUGGEST_AGAIN: Duration = Duration::from_secs(1);
/// Answers a second to those who are not, or no longer, members.
const NOTICES_PER_SECOND: usize = 16;
/// Answers a second to members that ask.
const ANSWERS_PER_SECOND: usize = 512;

/// What an engine starts with.
#[derive(Debug)]
pub(super) struct EngineConfig {
    /// This process, and where others reach it.
    pub(super) me: Identity,
    pub(super) cluster: ClusterId,
    pub(super) vbuckets: VBucketCount,
    pub(super) zone: Zone,
    /// Further `host:port` to greet.
    pub(super) seeds: Vec<String>,
    pub(super) map: Arc<ClusterMap>,
    /// Of all random choices.
    pub(super) seed: u64,
}

/// The state machine of gossip.
pub(super) struct Engine {
    me: Identity,
    cluster: ClusterId,
    vbuckets: VBucketCount,
    map: Arc<ClusterMap>,
    swim: Swim,
    own: Own,
    leads: Arc<Leads>,
    load: Load,
    board: Board,
    book: Book,
    peers: Peers,
    events: Events,
    alarms: Alarms,
    /// Seeds by name, with their addresses once they are known.
    seeds: BTreeMap<String, Option<SocketAddr>>,
    /// Rounds still to be held on account of the map.
    map_rounds: u32,
    /// The newest map version suggested, and when.
    suggested: Option<(MapVersion, Instant)>,
    notices: Budget,
    answers: Budget,
    heads_changed: bool,
    rng: SmallRng,
    stats: Arc<GossipStats>,
    /// What SWIM wants sent and is not yet in the outbox.
    packets: Packets,
}

impl Engine {
    pub(super) fn new(now: Instant, config: EngineConfig, stats: Arc<GossipStats>) -> Self {
        let EngineConfig { me, cluster, vbuckets, zone, seeds, map, seed } = config;
        let mut engine = Self {
            me,
            cluster,
            vbuckets,
            swim: Swim::new(me, seed),
            own: Own::new(me.member, zone, map.version()),
            leads: Arc::default(),
            load: Load::default(),
            board: Board::default(),
            book: Book::default(),
            peers: Peers::default(),
            events: Events::default(),
            alarms: Alarms::default(),
            seeds: seeds.into_iter().map(|seed| (seed.clone(), seed.parse().ok())).collect(),
            map_rounds: 0,
            suggested: None,
            notices: Budget::new(NOTICES_PER_SECOND, now),
            answers: Budget::new(ANSWERS_PER_SECOND, now),
            heads_changed: true,
            rng: SmallRng::seed_from_u64(seed.wrapping_add(1)),
            stats,
            packets: Packets::new(),
            map: map.clone(),
        };
        engine.take_map(now, map);
        engine.alarms.set(Alarm::Hello, now);
        engine.alarms.set(Alarm::Refresh, now + REFRESH_INTERVAL);
        engine.spread_own_head();
        engine
    }

    /// Takes what this node leads now and how loaded it is.
    pub(super) fn handle_local(&mut self, now: Instant, leads: &Arc<Leads>, load: Load, out: &mut Outbox) {
        self.take_leads(leads);
        self.take_load(load);
        self.settle(now, out);
    }

    /// When [`Engine::handle_timeout`] is to be called.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.alarms.next().into_iter().chain(self.swim.next_timeout()).min()
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        self.swim.handle_timeout(now, &mut self.packets);
        // Each alarm sets itself for later than now.
        while let Some(alarm) = self.alarms.pop(now) {
            match alarm {
                Alarm::Round => self.hold_round(now),
                Alarm::Refresh => self.refresh(now),
                Alarm::Ask => self.ask(now, out),
                Alarm::Hello => self.hello(now, out),
            }
        }
        self.settle(now, out);
    }

    /// Whether there is a suggestion to take.
    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The most urgent suggestion.
    pub(super) fn pop_event(&mut self) -> Option<GossipEvent> {
        self.events.pop()
    }

    /// What the peers say of themselves, when any of it has changed since this was last asked.
    pub(super) fn take_reports(&mut self) -> Option<Vec<PeerReport>> {
        if !std::mem::take(&mut self.heads_changed) {
            return None;
        }
        let report = |(head, led): (&super::rumour::Head, usize)| PeerReport {
            member: head.member,
            load: head.load,
            zone: head.zone.clone(),
            map_version: head.map_version,
            vbuckets_led: led,
        };
        Some(self.board.heads().map(report).collect())
    }

    /// The version of the map gossip goes by.
    pub(super) fn map_version(&self) -> MapVersion {
        self.map.version()
    }

    /// What every handler ends with: hands out what SWIM wants sent, notes whom it suspects, and sees to it that what
    /// is to be spread or asked for will be.
    fn settle(&mut self, now: Instant, out: &mut Outbox) {
        for (to, packet) in std::mem::take(&mut self.packets) {
            let address = self.book.address(to.member).unwrap_or(to.address);
            self.send(address, Kind::Swim, &packet, out);
        }
        self.stats.swim_faults.add(self.swim.take_faults());
        let suspicions = self.peers.observe(now, self.swim.peers(), &mut self.events);
        self.stats.suspicions.add(suspicions);
        if (self.swim.has_news() || self.map_rounds > 0) && !self.alarms.is_set(Alarm::Round) {
            self.alarms.set(Alarm::Round, now + ROUND_DELAY);
        }
        if let Some(at) = self.board.next_ask() {
            self.alarms.set_earlier(Alarm::Ask, at);
        }
    }

    fn send(&self, to: SocketAddr, kind: Kind, body: &[u8], out: &mut Outbox) {
        let envelope =
            Envelope { kind, cluster: self.cluster, sender: self.me.member, map_version: self.map.version() };
        out.push((to, envelope.seal(body)));
    }

    fn send_to_member(&self, to: Member, kind: Kind, body: &[u8], out: &mut Outbox) {
        if let Some(address) = self.book.address(to) {
            self.send(address, kind, body, out);
        }
    }

    /// What is known to be led by a member; `None` while some of it is missing.
    #[cfg(test)]
    pub(super) fn led_by(&self, member: Member) -> Option<Leads> {
        self.board.led_by(member)
    }
}
