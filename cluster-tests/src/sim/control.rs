//! How nodes and the control plane hear of one another, and how processes begin and end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use broky_proto::id::{MapVersion, Member};
use broky_ring::map::MapDiff;
use broky_shard::TICK;

use super::metadata::{BEAT, WATCH};
use super::network::Place;
use super::node::{Process, Timer};
use super::streams::Side;
use super::world::{Event, Message, World};

impl World {
    /// Begins a process; it takes part once it is registered.
    pub(super) fn start_node(&mut self, at: usize) {
        let boot = self.metadata.next_boot();
        let node = &mut self.nodes[at];
        node.life += 1;
        (node.is_running, node.is_paused, node.boot) = (true, false, boot);
        self.say(|| format!("node {at} begins"));
        self.record_spawn(at);
        self.timer(at, Duration::ZERO, Timer::Register);
    }

    /// Ends a process as `kill -9` does.
    pub(super) fn kill_node(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !std::mem::replace(&mut node.is_running, false) {
            return;
        }
        node.is_paused = false;
        node.deferred.clear();
        let member = node.process.take().map(|process| process.member);
        self.say(|| format!("node {at} is killed, {member:?}"));
        self.record_exit(at);
        self.hang_up(Place::Node(at));
        if let Some(member) = member {
            self.note_death(at, member);
        }
    }

    pub(super) fn pause_node(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let was_paused = std::mem::replace(&mut node.is_paused, node.is_running);
        if node.is_paused && !was_paused {
            self.record_stop(at);
        }
        self.say(|| format!("node {at} is stopped"));
    }

    pub(super) fn resume_node(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !std::mem::replace(&mut node.is_paused, false) {
            return;
        }
        let deferred = std::mem::take(&mut node.deferred);
        self.say(|| format!("node {at} goes on"));
        self.record_continue(at);
        let now = self.now();
        deferred.into_iter().for_each(|event| self.schedule.at(now, event));
        self.catch_up(|_, to| to == Place::Node(at));
    }

    /// A process hears who it is, and takes part.
    pub(super) fn begin(&mut self, at: usize, member: Member) {
        if self.nodes[at].process.is_some() {
            return;
        }
        self.say(|| format!("node {at} is {member}"));
        self.nodes[at].process = Some(Process::new(member, self.vbuckets));
        self.note_birth(at, member);
        // Timers of different nodes do not beat as one.
        for (timer, period) in
            [(Timer::Beat, BEAT), (Timer::Gossip, BEAT), (Timer::Tick, TICK), (Timer::Heartbeat, BEAT)]
        {
            let wait = self.rng.within(Duration::ZERO, period);
            self.timer(at, wait, timer);
        }
    }

    /// A node sends something to the control plane. It may be lost, or come twice.
    pub(super) fn tell(&mut self, at: usize, message: Message) {
        let life = self.nodes[at].life;
        for _ in 0..self.copies() {
            let wait = self.network.delay(Place::Node(at), Place::Control);
            self.schedule.after(wait, Event::Told(at, life, message.clone()));
        }
    }

    /// How often a message to or from the control plane arrives.
    fn copies(&mut self) -> usize {
        if self.is_calm {
            return 1;
        }
        let is_lost = self.control_rng.chance(self.options.lost_per_mille);
        let is_twice = self.control_rng.chance(self.options.twice_per_mille);
        usize::from(!is_lost) + usize::from(is_twice)
    }

    /// A node tells the raft leader that it lives; the answer brings it up to date.
    pub(super) fn beat(&mut self, at: usize) {
        let Some(process) = &self.nodes[at].process else { return };
        let message = Message::Beat(process.member, process.map.version());
        self.tell(at, message);
    }

    /// A node compares its map with somebody's, and takes the newer one.
    pub(super) fn gossip(&mut self, at: usize) {
        let others: Vec<usize> = (0..self.nodes.len()).filter(|other| *other != at).collect();
        let Some(from) = self.rng.pick(&others) else { return };
        let (there, back) = ((Place::Node(at), Place::Node(from)), (Place::Node(from), Place::Node(at)));
        let is_heard = self.network.passes(there.0, there.1) && self.network.passes(back.0, back.1);
        if !is_heard || !self.nodes[from].is_at_work() {
            return;
        }
        let Some(known) = self.nodes[at].process.as_ref().map(|process| process.map.version()) else { return };
        let Some(theirs) = self.nodes[from].process.as_ref().filter(|it| it.map.version() > known) else { return };
        let diff = Arc::new(theirs.map.diff(known));
        let wait = self.network.delay(there.0, there.1) + self.network.delay(back.0, back.1);
        let life = self.nodes[at].life;
        self.schedule.after(wait, Event::News(at, life, diff));
    }

    /// A process cannot be reached. The control plane makes sure before it believes that.
    pub(super) fn report(&mut self, at: usize, member: Member, is_refused: bool) {
        if is_refused {
            self.tell(at, Message::Unreachable(member));
        }
    }

    /// The control plane hears from a process.
    pub(super) fn hear(&mut self, at: usize, life: u64, message: Message) {
        let now = self.now();
        if !self.network.passes(Place::Node(at), Place::Control) || self.metadata.is_leaderless(now) {
            return;
        }
        match message {
            Message::Register(boot) => {
                let name = self.nodes[at].name.clone();
                if self.nodes[at].boot == boot
                    && let Some(member) = self.metadata.register(&name, boot, now)
                {
                    self.record_incarnation(at, member);
                    let wait = self.network.delay(Place::Control, Place::Node(at));
                    self.schedule.after(wait, Event::Registered(at, life, member));
                }
            }
            Message::Beat(member, version) => {
                self.metadata.hear(member, version, now);
                if self.metadata.map().version() > version {
                    self.inform(at, version);
                }
            }
            Message::Propose(command) => {
                self.say(|| format!("decided: {command:?}"));
                self.metadata.apply(command);
            }
            Message::Unreachable(member) => {
                let is_gone = self.node_of(member).is_none_or(|there| {
                    let passes = self.network.passes(Place::Control, Place::Node(there));
                    passes && self.nodes[there].member() != Some(member)
                });
                if is_gone && self.metadata.fence(member) {
                    self.say(|| format!("{member} is gone, and fenced"));
                }
            }
        }
        self.note_decisions();
    }

    pub(super) fn watch(&mut self) {
        let now = self.now();
        if self.metadata.watch(now) {
            self.note_decisions();
        }
        self.schedule.after(WATCH, Event::Watch);
    }

    /// Looks at what was decided, and has everybody told.
    pub(super) fn note_decisions(&mut self) {
        if self.look_at_map() && !std::mem::replace(&mut self.is_broadcast_due, true) {
            let wait = Duration::from_micros(self.control_rng.below(5_000));
            self.schedule.after(wait, Event::Broadcast);
        }
    }

    /// Tells every node what was decided, as raft does.
    pub(super) fn broadcast(&mut self) {
        self.is_broadcast_due = false;
        if self.metadata.is_leaderless(self.now()) {
            return;
        }
        for at in 0..self.nodes.len() {
            if let Some(member) = self.nodes[at].member() {
                // Now and then everything, as a snapshot has it.
                let is_snapshot = self.control_rng.chance(50);
                let since = if is_snapshot { MapVersion(0) } else { self.metadata.version_of(member) };
                self.inform(at, since);
            }
        }
    }

    fn inform(&mut self, at: usize, since: MapVersion) {
        let (from, to) = (Place::Control, Place::Node(at));
        if !self.network.passes(from, to) {
            return;
        }
        let (diff, life) = (Arc::new(self.metadata.map().diff(since)), self.nodes[at].life);
        for _ in 0..self.copies() {
            let wait = self.network.delay(from, to);
            self.schedule.after(wait, Event::News(at, life, diff.clone()));
        }
    }

    /// A node takes what is new in a map.
    pub(super) fn learn(&mut self, at: usize, diff: &Arc<MapDiff>) {
        let Some(process) = &mut self.nodes[at].process else { return };
        // A hole is filled by the next heartbeat.
        if !process.map.merge(MapDiff::clone(diff)).unwrap_or(false) {
            return;
        }
        let (map, member) = (process.map.clone(), process.member);
        self.say(|| format!("node {at} learns of {}", map.version()));
        if !map.is_current(member) {
            return self.leave(at);
        }
        self.act(at, |shard, out, _| shard.handle_map(&map, out));
        self.route(at, |router, now, out| router.handle_map(now, &map, out));
        let forwards: BTreeMap<_, _> = self.nodes[at].process.as_ref().unwrap().forwards.clone();
        for (member, stream) in forwards.into_iter().filter(|(member, _)| !map.is_alive(*member)) {
            self.nodes[at].process.as_mut().unwrap().forwards.remove(&member);
            self.close(stream, Side::Dialler, false);
            self.route(at, |router, now, out| router.handle_link_down(now, member, &[], out));
        }
        self.link_up(at);
    }
}
