//! The world of a run: who is in it, what is to happen, and the loop that lets it happen.

use std::sync::Arc;
use std::time::Duration;

use broky_proto::id::{Member, VBucketCount};
use broky_proto::time::Timestamp;
use broky_ring::command::Command;
use broky_ring::map::MapDiff;
use broky_ring::member::BootId;

use super::How;
use super::checks::Checks;
use super::faults::{Fault, Nemesis};
use super::metadata::{Metadata, WATCH};
use super::network::{Clock, Network, Place};
use super::node::{Node, Timer};
use super::options::Options;
use super::producer::Producer;
use super::reader::Reader;
use super::record::Recorder;
use super::rng::Rng;
use super::schedule::Schedule;
use super::streams::{Side, StreamId, Streams};
use super::trace::Trace;

/// When a run begins: late enough that "long ago" can be said.
const START: Timestamp = Timestamp(86_400_000_000_000);

/// Something that is to happen.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// Something may have come to this side of a connection.
    Arrive(StreamId, Side),
    /// A connection that does not stand yet is given up.
    DialTimeout(StreamId),
    /// A connection over which nothing has passed for too long is given up by this side.
    Starve(StreamId, Side),
    /// The listener may send more.
    Pump(StreamId),
    /// A node does something by itself.
    Node(usize, u64, Timer),
    /// A newer map comes to a node.
    News(usize, u64, Arc<MapDiff>),
    /// A node hears who it is.
    Registered(usize, u64, Member),
    /// The control plane hears from a node.
    Told(usize, u64, Message),
    /// The control plane looks at who is silent.
    Watch,
    /// The control plane tells everybody what it has decided.
    Broadcast,
    Producer(usize),
    /// A producer connects again.
    PushOn(usize),
    Reader(usize),
    Fault(Fault),
    /// A fault ends.
    Mend(Fault),
}

/// What a node tells the control plane.
#[derive(Clone, Debug)]
pub(super) enum Message {
    Register(BootId),
    Beat(Member, broky_proto::id::MapVersion),
    Propose(Command),
    Unreachable(Member),
}

/// Why a run has failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The rule that was broken.
    pub rule: &'static str,
    /// How.
    pub words: String,
}

/// See the module.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) vbuckets: VBucketCount,
    pub(super) schedule: Schedule<Event>,
    pub(super) network: Network,
    pub(super) streams: Streams,
    pub(super) metadata: Metadata,
    pub(super) nodes: Vec<Node>,
    pub(super) producers: Vec<Producer>,
    pub(super) readers: Vec<Reader>,
    pub(super) nemesis: Nemesis,
    pub(super) checks: Checks,
    pub(super) trace: Trace,
    pub(super) failure: Option<Failure>,
    /// A broken rule ends the run.
    pub(super) is_ruled: bool,
    /// Where a history is wanted.
    pub(super) recorder: Option<Recorder>,
    /// Of what nodes do by themselves.
    pub(super) rng: Rng,
    /// Of what clients do.
    pub(super) work: Rng,
    /// Of the ways to and from the control plane.
    pub(super) control_rng: Rng,
    pub(super) is_broadcast_due: bool,
    /// Faults are over, and nothing new is pushed.
    pub(super) is_calm: bool,
}

impl World {
    pub(super) fn new(options: &Options, how: How) -> Self {
        let seed = options.seed;
        let vbuckets = VBucketCount::new(u32::try_from(options.vbuckets).unwrap()).unwrap();
        let mut world = Self {
            vbuckets,
            schedule: Schedule::new(seed, START),
            network: Network::new(options),
            streams: Streams::default(),
            metadata: Metadata::new(options, how.is_recorded),
            nodes: Vec::new(),
            producers: Vec::new(),
            readers: Vec::new(),
            nemesis: Nemesis::new(seed),
            checks: Checks::new(vbuckets),
            trace: Trace::new(how.words),
            failure: None,
            is_ruled: how.is_ruled,
            recorder: how.is_recorded.then(|| Recorder::new(options, START)),
            rng: Rng::stream(seed, "nodes"),
            work: Rng::stream(seed, "work"),
            control_rng: Rng::stream(seed, "control"),
            is_broadcast_due: false,
            is_calm: false,
            options: options.clone(),
        };
        (0..options.nodes).for_each(|_| world.add_node());
        (0..options.producers).for_each(|_| world.add_producer());
        for _ in 0..options.readers {
            world.add_reader();
        }
        world.schedule.after(WATCH, Event::Watch);
        world
    }

    pub(super) fn now(&self) -> Timestamp {
        self.schedule.now()
    }

    /// Another node, that begins now.
    pub(super) fn add_node(&mut self) {
        let drift = i64::try_from(self.options.drift_ppm).unwrap();
        let ppm = i64::try_from(self.rng.below(self.options.drift_ppm * 2 + 1)).unwrap() - drift;
        let at = self.nodes.len();
        self.nodes.push(Node {
            name: format!("n{at}"),
            life: 0,
            is_running: false,
            is_paused: false,
            boot: BootId([0; 16]),
            clock: Clock { ppm, origin: START },
            process: None,
            deferred: Vec::new(),
        });
        self.start_node(at);
    }

    /// Runs until `until`, or until a rule is broken.
    pub(super) fn run_until(&mut self, until: Timestamp) {
        while self.failure.is_none() && self.now() < until {
            let Some(event) = self.schedule.next() else { return };
            self.handle(event);
        }
    }

    /// Runs until a condition holds, which is looked at now and then. Whether it does.
    pub(super) fn run_while(&mut self, limit: Duration, mut is_wanting: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now().plus(limit);
        while self.failure.is_none() {
            if !is_wanting(self) {
                return true;
            }
            if self.now() >= end {
                return false;
            }
            let next = self.now().plus(Duration::from_millis(100));
            self.run_until(next);
        }
        false
    }

    pub(super) fn fail(&mut self, rule: &'static str, words: impl Into<String>) {
        let words = words.into();
        self.say(|| format!("FAILED {rule}: {words}"));
        if self.is_ruled {
            self.failure.get_or_insert(Failure { rule, words });
        }
    }

    pub(super) fn say(&mut self, words: impl FnOnce() -> String) {
        let now = self.now();
        self.trace.say(now, words);
    }

    fn handle(&mut self, event: Event) {
        let facts = facts(&event);
        let now = self.now();
        self.trace.note(now, facts);
        match event {
            Event::Arrive(id, side) => self.arrive(id, side),
            Event::DialTimeout(id) => self.give_up_dialling(id),
            Event::Starve(id, side) => self.starve(id, side),
            Event::Pump(id) => self.pump(id),
            Event::Node(at, life, timer) if self.is_for(at, life, || Event::Node(at, life, timer)) => {
                self.handle_timer(at, timer);
            }
            Event::News(at, life, diff) if self.is_for(at, life, || Event::News(at, life, diff.clone())) => {
                self.learn(at, &diff);
            }
            Event::Registered(at, life, member) if self.is_for(at, life, || Event::Registered(at, life, member)) => {
                self.begin(at, member);
            }
            Event::Node(..) | Event::News(..) | Event::Registered(..) => {}
            Event::Told(at, life, message) => self.hear(at, life, message),
            Event::Watch => self.watch(),
            Event::Broadcast => self.broadcast(),
            Event::Producer(at) => self.produce(at),
            Event::PushOn(at) => self.push_on(at),
            Event::Reader(at) => self.read(at),
            Event::Fault(fault) => self.strike(fault),
            Event::Mend(fault) => self.mend(fault),
        }
        if let Some(words) = self.metadata.broken.take() {
            self.fail("control", words);
        }
        self.record_decisions();
    }

    /// Whether a node is there for what was meant for it. A paused one comes to it later.
    fn is_for(&mut self, at: usize, life: u64, again: impl FnOnce() -> Event) -> bool {
        let Some(node) = self.nodes.get_mut(at).filter(|node| node.is_running && node.life == life) else {
            return false;
        };
        if node.is_paused {
            node.deferred.push(again());
        }
        !node.is_paused
    }

    /// Where a party is that takes part in a connection: dead, or in another life, it does not any more.
    pub(super) fn life_of(&self, place: Place) -> u64 {
        match place {
            Place::Node(at) => self.nodes[at].life,
            Place::Client(_) | Place::Control => 0,
        }
    }
}

/// What distinguishes one event from another in the trace.
fn facts(event: &Event) -> [u64; 4] {
    let number = |at: usize| at as u64;
    match event {
        Event::Arrive(id, side) => [1, id.0, u64::from(*side == Side::Dialler), 0],
        Event::DialTimeout(id) => [2, id.0, 0, 0],
        Event::Starve(id, side) => [3, id.0, u64::from(*side == Side::Dialler), 0],
        Event::Pump(id) => [4, id.0, 0, 0],
        Event::Node(at, life, timer) => [5, number(*at), *life, timer_code(*timer)],
        Event::News(at, life, diff) => [6, number(*at), *life, diff.version.0],
        Event::Registered(at, life, member) => [7, number(*at), *life, member.incarnation.0],
        Event::Told(at, life, message) => [8, number(*at), *life, message_code(message)],
        Event::Watch => [9, 0, 0, 0],
        Event::Broadcast => [10, 0, 0, 0],
        Event::Producer(at) => [11, number(*at), 0, 0],
        Event::PushOn(at) => [15, number(*at), 0, 0],
        Event::Reader(at) => [12, number(*at), 0, 0],
        Event::Fault(fault) => [13, fault.code(), 0, 0],
        Event::Mend(fault) => [14, fault.code(), 0, 0],
    }
}

fn timer_code(timer: Timer) -> u64 {
    match timer {
        Timer::Register => 1,
        Timer::Beat => 2,
        Timer::Gossip => 3,
        Timer::Tick => 4,
        Timer::Flush => 5,
        Timer::Notice => 6,
        Timer::Heartbeat => 7,
        Timer::Reroute => 8,
        Timer::Link(_, member) => 9 + member.incarnation.0,
    }
}

fn message_code(message: &Message) -> u64 {
    match message {
        Message::Register(_) => 1,
        Message::Beat(..) => 2,
        Message::Propose(_) => 3,
        Message::Unreachable(_) => 4,
    }
}
