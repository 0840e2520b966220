//! Making news known: the own say, rounds, asks and greetings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use broky_proto::id::Member;
use rand::Rng;
use rand::seq::IteratorRandom;

use super::alarms::Alarm;
use super::{Engine, HELLO_INTERVAL, Outbox, REFRESH_INTERVAL, REFRESH_NODES, ROUND_INTERVAL};
use crate::gossip::envelope::{BODY_BYTES_MAX, Kind};
use crate::gossip::rumour::Load;
use crate::gossip::rumour::own::Leads;
use crate::gossip::wire::{MEMBER_BYTES, put_item, put_member};

/// A change of load below this is told with the next other change.
const LOAD_STEP: u32 = 50;
/// The most members asked for something at a time.
const ASKS_MAX: usize = 32;
/// The most silent members greeted at a time; at random, so that each has its turn.
const HELLOS_MAX: usize = 64;

impl Engine {
    pub(super) fn take_leads(&mut self, leads: &Arc<Leads>) {
        if *leads == self.leads {
            return;
        }
        self.leads = leads.clone();
        let changed = self.own.handle_leads(leads);
        for chunk in &changed {
            self.swim.spread(&chunk.encode());
        }
        if !changed.is_empty() {
            self.renew_own_head();
        }
        for (vbucket, epoch, member) in self.board.leads_over(leads) {
            self.events.leader_elsewhere(vbucket, epoch, member);
            self.stats.leaders_elsewhere.add(1);
        }
    }

    pub(super) fn take_load(&mut self, load: Load) {
        self.load = load;
        if self.own.head().load.0.abs_diff(load.0) >= LOAD_STEP {
            self.renew_own_head();
        }
    }

    fn renew_own_head(&mut self) {
        self.own.renew_head(self.map.version(), self.load);
        self.spread_own_head();
    }

    pub(super) fn spread_own_head(&mut self) {
        self.swim.spread(&self.own.head().encode());
    }

    /// Says again what this node is, so that whoever missed a part of it finds out.
    pub(super) fn refresh(&mut self, now: Instant) {
        self.renew_own_head();
        let nodes = self.map.nodes().count().div_ceil(REFRESH_NODES);
        let interval = REFRESH_INTERVAL.saturating_mul(u32::try_from(nodes.max(1)).unwrap_or(u32::MAX));
        let interval = self.jittered(interval);
        self.alarms.set(Alarm::Refresh, now + interval);
    }

    pub(super) fn hold_round(&mut self, now: Instant) {
        self.swim.gossip(now, &mut self.packets);
        self.map_rounds = self.map_rounds.saturating_sub(1);
        if self.swim.has_news() || self.map_rounds > 0 {
            self.alarms.set(Alarm::Round, now + ROUND_INTERVAL);
        }
    }

    /// Asks for what is missing: whom it is about first, then anybody who may have heard it.
    pub(super) fn ask(&mut self, now: Instant, out: &mut Outbox) {
        for (about, asked_before) in self.board.asks(now, ASKS_MAX) {
            let anybody = self.peers.lively().filter(|peer| *peer != about).choose(&mut self.rng);
            let whom = if asked_before % 2 == 0 { about } else { anybody.unwrap_or(about) };
            let mut body = Vec::with_capacity(MEMBER_BYTES);
            put_member(&mut body, about);
            self.send_to_member(whom, Kind::Ask, &body, out);
            self.stats.asks.add(1);
        }
    }

    /// Greets the seeds and those who are not heard, for ever: two halves of a cluster that have lost one another would
    /// otherwise stay apart.
    pub(super) fn hello(&mut self, now: Instant, out: &mut Outbox) {
        for address in self.seeds.values().flatten().filter(|address| **address != self.me.address) {
            self.send(*address, Kind::Hello, &[], out);
        }
        let silent = self.peers.silent().choose_multiple(&mut self.rng, HELLOS_MAX);
        for member in silent {
            self.send_to_member(member, Kind::Hello, &[], out);
        }
        let interval = self.jittered(HELLO_INTERVAL);
        self.alarms.set(Alarm::Hello, now + interval);
    }

    /// Sends a member what it may not know of this node: what the head does not say it will ask for.
    pub(super) fn greet(&self, member: Member, out: &mut Outbox) {
        let mut body = Vec::new();
        put_item(&mut body, &self.own.head().encode(), BODY_BYTES_MAX);
        self.send_to_member(member, Kind::Rumours, &body, out);
    }

    /// Answers `asker` with everything known of `about`.
    pub(super) fn answer(&mut self, now: Instant, asker: Member, about: Member, out: &mut Outbox) {
        let items = if about == self.me.member {
            let head = self.own.head().encode();
            std::iter::once(head).chain(self.own.chunks().map(|chunk| chunk.encode())).collect()
        } else {
            self.board.said_by(about)
        };
        let mut body = Vec::with_capacity(BODY_BYTES_MAX);
        for item in items {
            if put_item(&mut body, &item, BODY_BYTES_MAX) {
                continue;
            }
            if !self.answers.spend(now) {
                return;
            }
            self.send_to_member(asker, Kind::Rumours, &body, out);
            body.clear();
            put_item(&mut body, &item, BODY_BYTES_MAX);
        }
        if !body.is_empty() && self.answers.spend(now) {
            self.send_to_member(asker, Kind::Rumours, &body, out);
        }
    }

    /// The interval, a tenth longer at the most, so that nodes started together do not stay in step.
    fn jittered(&mut self, interval: Duration) -> Duration {
        interval + interval.mul_f64(self.rng.random_range(0.0..0.1))
    }
}
