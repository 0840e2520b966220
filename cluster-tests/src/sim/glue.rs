//! What a node's worker does around its shard and its router: timers, effects, pushes.

use std::time::Duration;

use broky_delivery::HEARTBEAT_SLOTS;
use broky_proto::id::Member;
use broky_proto::time::Timestamp;
use broky_proto::wire::{Push, scan_push};
use broky_proto::{forward, frame};
use broky_ring::command::Command;
use broky_shard::{
    Collector, NOTICE_DELAY, Outbox, Part, PartId, PartOutcome, Routed, Router, Shard, TICK, Target, Ticket,
};
use bytes::Bytes;

use super::frames::joined;
use super::metadata::BEAT;
use super::network::Place;
use super::node::{Process, Request, Timer, Waiting};
use super::streams::{Item, Kind, Side, StreamId};
use super::world::{Event, Message, World};

/// Messages a client may send in one request.
const REQUEST_BYTES_MAX: usize = 4 << 20;
const HEARTBEAT: Duration = Duration::from_millis(900 / HEARTBEAT_SLOTS as u64);
const REGISTER: Duration = Duration::from_millis(100);
const GOSSIP: Duration = Duration::from_millis(200);

/// Who waits for the outcome of something stored.
enum Waits {
    Part(PartId),
    Forwarded(u64),
}

impl Waits {
    fn ticket(&self) -> Ticket {
        match self {
            Self::Part(PartId(id)) => Ticket(id << 1),
            Self::Forwarded(key) => Ticket(key << 1 | 1),
        }
    }

    fn of(Ticket(number): Ticket) -> Self {
        if number & 1 == 0 { Self::Part(PartId(number >> 1)) } else { Self::Forwarded(number >> 1) }
    }
}

impl World {
    /// Has a node do something after a time by its own clock.
    pub(super) fn timer(&mut self, at: usize, wait: Duration, timer: Timer) {
        let node = &self.nodes[at];
        let (wait, life) = (node.clock.takes(wait), node.life);
        self.schedule.after(wait, Event::Node(at, life, timer));
    }

    pub(super) fn handle_timer(&mut self, at: usize, timer: Timer) {
        match timer {
            Timer::Register => {
                if self.nodes[at].process.is_none() {
                    let boot = self.nodes[at].boot;
                    self.tell(at, Message::Register(boot));
                    self.timer(at, REGISTER, Timer::Register);
                }
            }
            Timer::Beat => {
                self.beat(at);
                self.timer(at, BEAT, Timer::Beat);
            }
            Timer::Gossip => {
                self.gossip(at);
                self.timer(at, GOSSIP, Timer::Gossip);
            }
            Timer::Tick => {
                self.act(at, |shard, out, now| shard.handle_tick(now, out));
                self.timer(at, TICK, Timer::Tick);
            }
            Timer::Flush => {
                self.process(at).is_flush_due = false;
                self.act(at, |shard, out, _| shard.flush(out));
            }
            Timer::Notice => {
                self.process(at).is_notice_due = false;
                self.act(at, |shard, out, _| shard.send_late_notices(out));
            }
            Timer::Heartbeat => {
                self.act(at, |shard, out, _| shard.delivery_mut().handle_heartbeat(&mut out.wake));
                self.timer(at, HEARTBEAT, Timer::Heartbeat);
            }
            Timer::Reroute => {
                self.process(at).is_reroute_due = false;
                self.route(at, |router, now, out| router.handle_timeout(now, out));
            }
            Timer::Link(purpose, member) => self.dial_link(at, purpose, member),
        }
    }

    fn process(&mut self, at: usize) -> &mut Process {
        self.nodes[at].process.as_mut().unwrap()
    }

    /// Lets a shard do something, carries out what comes of it, and looks whether all is well.
    pub(super) fn act<T>(&mut self, at: usize, act: impl FnOnce(&mut Shard, &mut Outbox, Timestamp) -> T) -> Option<T> {
        let now = self.nodes[at].clock.shows(self.now());
        let process = self.nodes[at].process.as_mut()?;
        let mut out = Outbox::default();
        let done = act(&mut process.shard, &mut out, now);
        self.look_at(at);
        self.record_node(at);
        if self.is_ruled
            && let Some(process) = &self.nodes[at].process
        {
            process.shard.check_invariants();
        }
        self.carry_out(at, out);
        Some(done)
    }

    fn carry_out(&mut self, at: usize, mut out: Outbox) {
        let process = self.nodes[at].process.as_mut().unwrap();
        let stream_of = |id| process.subscriptions.get(&id).copied();
        let woken = out.wake.drain(..).filter_map(stream_of).collect::<Vec<_>>();
        let cut = out.cut.drain(..).filter_map(stream_of).collect::<Vec<_>>();
        let relays = out.wake_relays.drain(..).filter_map(|id| process.relays.get(&id).copied()).collect::<Vec<_>>();
        let down = out.to_followers.drain(..).filter_map(|(id, frame)| Some((*process.sessions.get(&id)?, frame)));
        let up = out.to_leaders.drain(..).filter_map(|(id, frame)| Some((*process.inbound.get(&id)?, frame)));
        let asks = out.to_owners.drain(..).filter_map(|(id, frame)| Some((*process.upstreams.get(&id)?, frame)));
        let down: Vec<_> = down.map(|it| (Side::Listener, it)).collect();
        let up: Vec<_> = up.map(|it| (Side::Dialler, it)).collect();
        let asks: Vec<_> = asks.map(|it| (Side::Listener, it)).collect();
        let sessions = out.close_sessions.drain(..).filter_map(|id| process.sessions.get(&id).copied());
        let closed: Vec<_> = sessions.map(|id| (id, Side::Dialler)).collect();
        let inbound = out.close_inbound.drain(..).filter_map(|(id, _)| process.inbound.get(&id).copied());
        let closed: Vec<_> = closed.into_iter().chain(inbound.map(|id| (id, Side::Listener))).collect();
        let leader = process.member;
        if std::mem::take(&mut out.has_late_notices) && !std::mem::replace(&mut process.is_notice_due, true) {
            self.timer(at, NOTICE_DELAY, Timer::Notice);
        }
        for id in woken.into_iter().chain(relays) {
            self.schedule.after(Duration::ZERO, Event::Pump(id));
        }
        for (side, (id, frame)) in down.into_iter().chain(up).chain(asks) {
            self.send(id, side, Item::Frame(joined(&frame)));
        }
        cut.into_iter().for_each(|id| self.close(id, Side::Listener, true));
        closed.into_iter().for_each(|(id, side)| self.close(id, side, false));
        if !out.isr_changes.is_empty() {
            self.tell(
                at,
                Message::Propose(Command::AlterIsr { leader, changes: std::mem::take(&mut out.isr_changes) }),
            );
        }
        if !out.resign.is_empty() {
            self.tell(at, Message::Propose(Command::Resign { leader, vbuckets: std::mem::take(&mut out.resign) }));
        }
        for (vbucket, epoch, end) in out.extend.drain(..) {
            self.tell(at, Message::Propose(Command::ExtendLineage { leader, vbucket, epoch, end }));
        }
        for (name, member, request) in out.histories.drain(..) {
            self.fetch_history(at, name, member, request);
        }
        for reply in out.replies.drain(..) {
            self.reply(at, reply.ticket, reply.outcome);
        }
        let Some(process) = &mut self.nodes[at].process else { return };
        if process.shard.needs_flush() && !std::mem::replace(&mut process.is_flush_due, true) {
            let wait = Duration::from_nanos(self.rng.below(100_000));
            self.timer(at, wait, Timer::Flush);
        }
    }

    fn fetch_history(&mut self, at: usize, name: broky_shard::HistoryId, member: Member, request: Bytes) {
        let kind = Kind::History { member, name, request, subscription: None };
        match self.node_of(member) {
            Some(to) => {
                let id = self.dial(kind, Place::Node(at), Place::Node(to));
                self.process(at).histories.insert(name, id);
            }
            None => drop(self.act(at, |shard, out, _| shard.handle_history_end(name, false, out))),
        }
    }

    /// Lets a router decide something, and carries that out.
    pub(super) fn route(&mut self, at: usize, decide: impl FnOnce(&mut Router, Timestamp, &mut Routed)) {
        let now = self.nodes[at].clock.shows(self.now());
        let mut routed = Routed::default();
        decide(&mut self.process(at).router, now, &mut routed);
        for told in routed.told {
            self.tell_client(at, told.request, told.outcome);
        }
        for Part { id, to, request, push } in routed.parts {
            match to {
                Target::Shard(_) => self.store(at, &request, &push, Waits::Part(id).ticket()),
                Target::Node(member) => self.forward(at, member, id, &request, &push),
            }
        }
        let process = self.nodes[at].process.as_mut().unwrap();
        if let Some(next) = process.router.next_timeout()
            && !std::mem::replace(&mut process.is_reroute_due, true)
        {
            self.timer(at, next.since(now).max(Duration::from_millis(1)), Timer::Reroute);
        }
    }

    fn store(&mut self, at: usize, request: &Bytes, push: &Push, ticket: Ticket) {
        let wall = i64::try_from(self.now().0).unwrap();
        self.act(at, |shard, out, _| shard.push(wall, request, push, ticket, out));
    }

    fn forward(&mut self, at: usize, member: Member, PartId(part): PartId, request: &Bytes, push: &Push) {
        let frame = forward::encode(part, request, push);
        let id = match self.process(at).forwards.get(&member).copied() {
            Some(id) => id,
            None => {
                let Some(to) = self.node_of(member) else {
                    let unsent = [PartId(part)];
                    return self.route(at, |router, now, out| router.handle_link_down(now, member, &unsent, out));
                };
                let id = self.dial(Kind::Forward { member }, Place::Node(at), Place::Node(to));
                self.process(at).forwards.insert(member, id);
                id
            }
        };
        if self.streams.get(id).is_some_and(|stream| stream.is_welcome) {
            self.send(id, Side::Listener, Item::Frame(frame));
        } else {
            self.process(at).unsent.entry(id).or_default().push(frame);
        }
    }

    /// Takes what another node has forwarded.
    pub(super) fn take_forwarded(&mut self, at: usize, stream: StreamId, message: Bytes) -> bool {
        let Ok((part, request, push)) = forward::decode(message) else { return false };
        let process = self.process(at);
        let key = process.next();
        process.waiting.insert(key, Waiting { part, stream, collector: Collector::new(&push) });
        self.store(at, &request, &push, Waits::Forwarded(key).ticket());
        true
    }

    /// Takes a client's request.
    pub(super) fn take_push(&mut self, at: usize, stream: StreamId, request: Bytes) -> bool {
        let Ok(push) = scan_push(&request, REQUEST_BYTES_MAX) else { return false };
        let process = self.process(at);
        let number = process.next();
        let collector = Some(Collector::new(&push));
        process.requests.insert(number, Request { stream, collector, response: None });
        process.pushed.entry(stream).or_default().push_back(number);
        self.route(at, |router, now, out| router.push(now, number, request, push, out));
        true
    }

    fn reply(&mut self, at: usize, ticket: Ticket, outcome: PartOutcome) {
        self.record_answer(at, &outcome);
        match Waits::of(ticket) {
            Waits::Part(id) => self.route(at, |router, now, out| router.handle_outcome(now, id, outcome, out)),
            Waits::Forwarded(key) => {
                let process = self.process(at);
                let Some(waiting) = process.waiting.get_mut(&key) else { return };
                if waiting.collector.take(outcome) {
                    let Waiting { part, stream, collector } = process.waiting.remove(&key).unwrap();
                    let told = frame::encode(&collector.into_part().into_forwarded(part));
                    self.send(stream, Side::Dialler, Item::Frame(told));
                }
            }
        }
    }

    /// Tells a client what became of some messages of its request; each connection gets its answers in order.
    fn tell_client(&mut self, at: usize, number: u64, outcome: PartOutcome) {
        let process = self.process(at);
        let Some(request) = process.requests.get_mut(&number) else { return };
        if !request.collector.as_mut().is_some_and(|collector| collector.take(outcome)) {
            return;
        }
        request.response = request.collector.take().map(Collector::into_response);
        let stream = request.stream;
        let Some(queue) = process.pushed.get_mut(&stream) else { return drop(process.requests.remove(&number)) };
        let mut responses = Vec::new();
        while let Some(first) = queue.front() {
            let Some(response) = process.requests.get_mut(first).and_then(|request| request.response.take()) else {
                break;
            };
            process.requests.remove(first);
            queue.pop_front();
            responses.push(frame::encode(&response));
        }
        responses.into_iter().for_each(|response| self.send(stream, Side::Dialler, Item::Frame(response)));
    }
}
