//! Relayed deliveries between nodes: streams that are read at their own pace, and break.

use std::collections::{BTreeMap, VecDeque};

use broky_delivery::{Poll, RelayId, SubscriptionId};
use broky_proto::id::Member;
use broky_proto::relay::{decode_history, decode_to_owner, decode_to_relay};
use broky_shard::{HistoryId, Outbox, UpstreamId};
use bytes::Bytes;

use crate::network::{deframed, joined};
use crate::world::World;

/// A stream on which `to` relays to `from`.
struct Upstream {
    from: usize,
    to: usize,
    member: Member,
    relay: RelayId,
    asks: VecDeque<Bytes>,
    relayed: VecDeque<Bytes>,
}

/// History on its way from `to` to a subscription at `from`.
struct History {
    from: usize,
    to: usize,
    name: HistoryId,
    subscription: SubscriptionId,
}

#[derive(Default)]
pub(crate) struct Relays {
    upstreams: BTreeMap<UpstreamId, Upstream>,
    histories: Vec<History>,
    /// Asked for, and not open: node, name, of whom, request.
    asked: Vec<(usize, HistoryId, Member, Bytes)>,
    next: u64,
    pub(crate) frames: usize,
    pub(crate) histories_read: usize,
}

/// Frames that a transport holds.
const WINDOW: usize = 3;

impl World {
    pub(crate) fn carry_out_relays(&mut self, node: usize, out: &Outbox) {
        for (id, frame) in &out.to_owners {
            if let Some(upstream) = self.relays.upstreams.get_mut(id) {
                upstream.asks.push_back(joined(frame));
            }
        }
        let asked = out.histories.iter().map(|(name, member, request)| (node, *name, *member, request.clone()));
        self.relays.asked.extend(asked);
    }

    fn at(&self, member: Member) -> Option<usize> {
        self.nodes.iter().position(|node| node.member == member && node.shard.is_some() && !node.is_paused)
    }

    /// Opens the streams that a node wants and lacks, and closes those it wants no more.
    pub(crate) fn connect_upstreams(&mut self, node: usize) {
        let Some(shard) = self.nodes[node].shard.as_ref().filter(|_| !self.nodes[node].is_paused) else { return };
        let wanted = shard.wanted_upstreams();
        let of_it = self.relays.upstreams.iter().filter(|(_, it)| it.from == node && !wanted.contains(&it.member));
        for id in of_it.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.cut_upstream(id);
        }
        for member in wanted {
            if self.relays.upstreams.values().any(|it| it.from == node && it.member == member) {
                continue;
            }
            let Some(to) = self.at(member) else { continue };
            let relay = self.nodes[to].shard.as_mut().unwrap().open_relay();
            self.relays.next += 1;
            let id = UpstreamId(self.relays.next);
            let (asks, relayed) = (VecDeque::new(), VecDeque::new());
            self.relays.upstreams.insert(id, Upstream { from: node, to, member, relay, asks, relayed });
            self.with(node, |shard, out| shard.handle_upstream_open(id, member, out));
        }
    }

    fn cut_upstream(&mut self, id: UpstreamId) {
        let Some(upstream) = self.relays.upstreams.remove(&id) else { return };
        if let Some(shard) = &mut self.nodes[upstream.to].shard {
            shard.close_relay(upstream.relay);
        }
        let mut out = Outbox::default();
        if let Some(shard) = &mut self.nodes[upstream.from].shard {
            shard.handle_upstream_closed(id, &mut out);
            self.carry_out(upstream.from, out);
        }
    }

    /// Breaks one stream.
    pub(crate) fn cut_some_upstream(&mut self) {
        let ids: Vec<UpstreamId> = self.relays.upstreams.keys().copied().collect();
        if let Some(id) = self.rng.pick(&ids) {
            self.cut_upstream(id);
        }
        if !self.relays.histories.is_empty() {
            let at = self.rng.below(self.relays.histories.len());
            self.end_history(at, false);
        }
    }

    /// Breaks every stream of a node that has died.
    pub(crate) fn cut_relays_of(&mut self, node: usize) {
        let of_it = self.relays.upstreams.iter().filter(|(_, it)| it.from == node || it.to == node);
        for id in of_it.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.cut_upstream(id);
        }
        for at in (0..self.relays.histories.len()).rev() {
            let history = &self.relays.histories[at];
            if history.from == node || history.to == node {
                self.end_history(at, false);
            }
        }
        self.relays.asked.retain(|(from, ..)| *from != node);
    }

    /// Moves something on one stream.
    pub(crate) fn relay(&mut self) {
        let ids: Vec<UpstreamId> = self.relays.upstreams.keys().copied().collect();
        let Some(id) = self.rng.pick(&ids) else { return };
        let (from, to, relay) = {
            let upstream = &self.relays.upstreams[&id];
            (upstream.from, upstream.to, upstream.relay)
        };
        match self.rng.below(3) {
            0 if !self.nodes[to].is_paused => {
                let Some(ask) = self.relays.upstreams.get_mut(&id).and_then(|it| it.asks.pop_front()) else { return };
                let frame = decode_to_owner(deframed(ask)).unwrap();
                self.with(to, |shard, out| shard.handle_to_owner(relay, frame, out).unwrap());
            }
            1 if !self.nodes[to].is_paused => {
                let Some(shard) = &mut self.nodes[to].shard else { return };
                let Some(upstream) = self.relays.upstreams.get_mut(&id) else { return };
                while upstream.relayed.len() < WINDOW {
                    let Some(frame) = shard.poll_relay(relay) else { return };
                    upstream.relayed.push_back(joined(&frame));
                }
            }
            2 if !self.nodes[from].is_paused => {
                let upstream = self.relays.upstreams.get_mut(&id);
                let Some(relayed) = upstream.and_then(|it| it.relayed.pop_front()) else { return };
                let frame = decode_to_relay(deframed(relayed)).unwrap();
                self.relays.frames += 1;
                self.with(from, |shard, out| shard.handle_to_relay(id, frame, out).unwrap());
            }
            _ => {}
        }
    }

    /// Opens history that was asked for, or moves some of it.
    pub(crate) fn fetch(&mut self) {
        if !self.relays.asked.is_empty() {
            let at = self.rng.below(self.relays.asked.len());
            let (from, name, member, request) = self.relays.asked.remove(at);
            let request = decode_history(deframed(request)).unwrap();
            let to = self.at(member);
            let opened = to.and_then(|to| self.nodes[to].shard.as_mut()?.open_history(&request).ok());
            match (to, opened) {
                (Some(to), Some(subscription)) => {
                    self.relays.histories.push(History { from, to, name, subscription });
                }
                _ => self.tell_history_end(from, name, false),
            }
            return;
        }
        if self.relays.histories.is_empty() {
            return;
        }
        let at = self.rng.below(self.relays.histories.len());
        let History { from, to, name, subscription } = self.relays.histories[at];
        if self.nodes[from].is_paused || self.nodes[to].is_paused {
            return;
        }
        let backlog = self.nodes[from].shard.as_ref().and_then(|shard| shard.history_backlog(name));
        match backlog {
            None => return self.end_history(at, false),
            Some(backlog) if backlog >= 2 => return,
            Some(_) => {}
        }
        let Some(shard) = &mut self.nodes[to].shard else { return };
        match shard.delivery_mut().poll(subscription) {
            Poll::Frame(frame) => {
                let message = deframed(frame);
                self.with(from, |shard, out| shard.handle_history(name, message, out));
            }
            Poll::Pending | Poll::Yield => {}
            Poll::Ended(_) => self.end_history(at, false),
            Poll::Done => {
                self.relays.histories_read += 1;
                self.end_history(at, true);
            }
        }
    }

    fn end_history(&mut self, at: usize, is_whole: bool) {
        let History { from, to, name, subscription } = self.relays.histories.remove(at);
        if let Some(shard) = &mut self.nodes[to].shard {
            shard.delivery_mut().close(subscription);
        }
        self.tell_history_end(from, name, is_whole);
    }

    /// A node hears of it also when it is paused: later.
    fn tell_history_end(&mut self, from: usize, name: HistoryId, is_whole: bool) {
        let mut out = Outbox::default();
        if let Some(shard) = &mut self.nodes[from].shard {
            shard.handle_history_end(name, is_whole, &mut out);
            self.carry_out(from, out);
        }
    }

    pub(crate) fn describe_relays(&self) -> String {
        let mut text = format!("\n{} histories, {} asked", self.relays.histories.len(), self.relays.asked.len());
        for (id, it) in &self.relays.upstreams {
            text += &format!("\n{id:?}: {} of {} {} asks {} relayed", it.from, it.to, it.asks.len(), it.relayed.len());
        }
        text
    }
}
