//! The router against a model of a cluster: nodes that accept, forward, refuse and die, and leaders that change.
//!
//! What must hold whatever happens: each message has one outcome; what is committed is stored once, in its vbucket;
//! what is rejected is not stored; messages of one vbucket are stored in the order they were pushed.

use std::collections::HashMap;
use std::time::Duration;

use broky_proto::frame::PREFIX_LEN;
use broky_proto::id::ProducerId;
use broky_proto::v1::{self, PushRequest};
use proptest::prelude::*;
use prost::Message as _;

use super::model::{Fate, Stream, VBUCKETS, VBucket, address, key_in};
use super::*;
use crate::message::MessageRef;
use crate::producer::window::Next;
use crate::producer::{PushError, Ticket};

const NODES: usize = 3;
const IN_FLIGHT_BYTES_MAX: usize = 600;

/// What happens next. Lanes and nodes are counted among those there are.
#[derive(Clone, Debug)]
enum Step {
    Push(u8),
    Send(usize),
    /// The lane's node takes the oldest request.
    Store(usize, Fate),
    /// The oldest answer on its way arrives.
    Answer(usize),
    Retry(usize),
    /// The lane's node takes this many requests, whose answers are lost with the stream. The others are on their way
    /// still.
    Break(usize, usize),
    /// A node takes the oldest request of a stream that broke.
    Stray(usize),
    /// To the lane's own node if it is up, or else to another.
    Connect(usize, usize),
    /// A lane that is connected elsewhere moves to its own node.
    Move(usize),
    /// A spare lane was idle for long.
    Idle(usize),
    Kill(usize, usize),
    Start(usize),
    /// A vbucket gets another leader.
    Lead(u8, usize),
    /// The producer learns the map.
    Map,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let lane = || 0..4_usize;
    let fate = prop_oneof![
        6 => Just(Fate::Fine),
        1 => (1..16_u8).prop_map(Fate::Refused),
        1 => any::<bool>().prop_map(|is_stored| Fate::Unknown { is_stored }),
    ];
    prop_oneof![
        16 => (0..VBUCKETS).prop_map(Step::Push),
        12 => lane().prop_map(Step::Send),
        12 => (lane(), fate).prop_map(|(lane, fate)| Step::Store(lane, fate)),
        12 => lane().prop_map(Step::Answer),
        4 => lane().prop_map(Step::Retry),
        1 => (lane(), 0..3_usize).prop_map(|(lane, stored)| Step::Break(lane, stored)),
        3 => (0..4_usize).prop_map(Step::Stray),
        6 => (lane(), 0..NODES).prop_map(|(lane, node)| Step::Connect(lane, node)),
        2 => lane().prop_map(Step::Move),
        1 => lane().prop_map(Step::Idle),
        1 => (0..NODES, 0..3_usize).prop_map(|(node, stored)| Step::Kill(node, stored)),
        2 => (0..NODES).prop_map(Step::Start),
        2 => (0..VBUCKETS, 0..NODES).prop_map(|(vbucket, node)| Step::Lead(vbucket, node)),
        3 => Just(Step::Map),
        3 => prop_oneof![0..700_u64, 0..20_000_u64].prop_map(Step::Pass),
    ]
}

struct World {
    router: Router,
    streams: HashMap<u16, Stream>,
    /// Streams that broke, with what they hold.
    strays: Vec<Stream>,
    vbuckets: Vec<VBucket>,
    is_up: [bool; NODES],
    tickets: Vec<(u8, Ticket)>,
    now: Instant,
    version: u64,
}

impl World {
    fn new() -> Self {
        let options = ProducerOptions {
            batch_bytes_max: 64,
            in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
            delivery_timeout: Duration::from_secs(30),
            ..ProducerOptions::default()
        };
        Self {
            router: Router::new(options, ProducerId(1)),
            streams: HashMap::new(),
            strays: Vec::new(),
            vbuckets: (0..VBUCKETS).map(|_| VBucket::default()).collect(),
            is_up: [true; NODES],
            tickets: Vec::new(),
            now: Instant::now(),
            version: 0,
        }
    }

    fn lane(&self, at: usize) -> Option<Slot> {
        let live: Vec<Slot> = self.router.live().collect();
        live.get(at % live.len().max(1)).copied()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push(vbucket) => self.push(vbucket),
            Step::Kill(node, stored) => self.kill(node, stored),
            Step::Start(node) => self.is_up[node] = true,
            Step::Lead(vbucket, node) => self.vbuckets[usize::from(vbucket)].lead(node),
            Step::Map => self.map(),
            Step::Pass(millis) => self.pass(Duration::from_millis(millis)),
            Step::Stray(at) => self.take_stray(at),
            Step::Send(at)
            | Step::Store(at, _)
            | Step::Answer(at)
            | Step::Retry(at)
            | Step::Break(at, _)
            | Step::Connect(at, _)
            | Step::Move(at)
            | Step::Idle(at) => {
                if let Some(slot) = self.lane(at) {
                    self.step_lane(slot, step);
                }
            }
        }
        self.router.check_invariants();
    }

    fn step_lane(&mut self, slot: Slot, step: Step) {
        match step {
            Step::Send(_) => self.send(slot),
            Step::Store(_, fate) => self.store(slot, &fate),
            Step::Answer(_) => self.answer(slot),
            Step::Retry(_) => {
                if self.streams.get_mut(&slot.0).is_some_and(|stream| std::mem::take(&mut stream.wants_retry)) {
                    self.router.act(slot, Window::handle_retry);
                }
            }
            Step::Break(_, stored) => self.disconnect(slot, stored),
            Step::Connect(_, node) => self.connect(slot, node),
            Step::Move(_) => self.move_home(slot),
            Step::Idle(_) => {
                if self.router.is_spare(slot) {
                    self.remove(slot);
                }
            }
            Step::Push(_)
            | Step::Stray(_)
            | Step::Kill(..)
            | Step::Start(_)
            | Step::Lead(..)
            | Step::Map
            | Step::Pass(_) => {}
        }
    }

    fn push(&mut self, vbucket: u8) {
        let number = (self.tickets.len() as u64).to_le_bytes();
        let key = key_in(vbucket);
        let message = Encoder::new(MessageRef::new(key.as_bytes(), &number));
        let now = self.now;
        if self.router.has_room(message.field_len()) {
            let (_, ticket, _) = self.router.append(&message, || now, Ticket::new);
            self.tickets.push((vbucket, ticket));
        }
    }

    fn send(&mut self, slot: Slot) {
        let Some(stream) = self.streams.get_mut(&slot.0) else { return };
        let request = self.router.next_request(slot);
        stream.requests.extend(request.map(|framed| PushRequest::decode(&framed[PREFIX_LEN..]).unwrap()));
    }

    fn store(&mut self, slot: Slot, fate: &Fate) {
        let Some(stream) = self.streams.get_mut(&slot.0) else { return };
        let Some(request) = stream.requests.pop_front() else { return };
        let response = stream.answer(&mut self.vbuckets, &self.is_up, &request, fate);
        stream.answers.push_back(response);
    }

    fn answer(&mut self, slot: Slot) {
        let Some(response) = self.streams.get_mut(&slot.0).and_then(|stream| stream.answers.pop_front()) else {
            return;
        };
        let next = self.router.act(slot, |window| window.handle_response(response)).unwrap();
        self.router.settle_changeover();
        match next {
            Next::Continue => {}
            Next::Wait => self.streams.get_mut(&slot.0).unwrap().wants_retry = true,
            Next::Leave => self.disconnect(slot, 0),
            Next::Drained => self.move_home(slot),
        }
    }

    fn connect(&mut self, slot: Slot, node: usize) {
        let own = (0..NODES).find(|node| self.router.target(slot) == Some(address(*node)));
        let Some(node) = [own, Some(node)].into_iter().flatten().find(|node| self.is_up[*node]) else { return };
        if self.streams.contains_key(&slot.0) {
            return;
        }
        self.router.handle_connect(slot, &address(node));
        self.streams.insert(slot.0, Stream::new(node));
    }

    fn disconnect(&mut self, slot: Slot, stored: usize) {
        (0..stored).for_each(|_| self.store(slot, &Fate::Fine));
        if let Some(stream) = self.streams.remove(&slot.0) {
            self.strays.push(stream);
            self.router.act(slot, Window::handle_disconnect);
        }
    }

    fn take_stray(&mut self, at: usize) {
        self.strays.retain(|stray| !stray.requests.is_empty());
        let count = self.strays.len();
        let Some(stray) = self.strays.get_mut(at % count.max(1)) else { return };
        if let Some(request) = stray.requests.pop_front() {
            stray.answer(&mut self.vbuckets, &self.is_up, &request, &Fate::Fine);
        }
    }

    fn move_home(&mut self, slot: Slot) {
        let Some(stream) = self.streams.get(&slot.0) else { return };
        let is_elsewhere = self.router.target(slot).is_some_and(|target| target != address(stream.node));
        if is_elsewhere && self.router.act(slot, Window::handle_drain) {
            self.disconnect(slot, 0);
            self.connect(slot, 0);
        }
    }

    fn kill(&mut self, node: usize, stored: usize) {
        self.is_up[node] = false;
        for slot in self.router.live().collect::<Vec<_>>() {
            if self.streams.get(&slot.0).is_some_and(|stream| stream.node == node) {
                self.disconnect(slot, stored);
            }
        }
        // What it held is gone with it.
        self.strays.retain(|stray| stray.node != node);
    }

    fn map(&mut self) {
        self.version += 1;
        let is_up = self.is_up;
        let node = |node| v1::TopologyNode { address: address(node).to_string(), ..v1::TopologyNode::default() };
        // Nodes that are down leave the map every other time.
        let listed: Vec<usize> = (0..NODES).filter(|node| is_up[*node] || self.version.is_multiple_of(2)).collect();
        let place = |leader| listed.iter().position(|node| *node == leader && is_up[leader]).map_or(0, |at| at + 1);
        let map = Topology::new(v1::TopologyResponse {
            cluster_id: vec![1; 16].into(),
            map_version: self.version,
            vbuckets: VBUCKETS.into(),
            nodes: listed.iter().map(|at| node(*at)).collect(),
            leaders: self.vbuckets.iter().map(|vbucket| u32::try_from(place(vbucket.leader)).unwrap()).collect(),
            epochs: vec![1; VBUCKETS.into()],
            // What shares its fate changes with every map.
            groups: (0..u64::from(VBUCKETS)).map(|at| u32::try_from((at + self.version) / 2 % 3).unwrap()).collect(),
        });
        self.router.handle_map(&map.unwrap(), self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for slot in self.router.live().collect::<Vec<_>>() {
            let now = self.now;
            if self.router.act(slot, |window| window.handle_timeout(now, "the test")) {
                self.disconnect(slot, 1);
            }
            self.router.handle_timeout(now);
            self.router.settle_changeover();
            if self.router.is_over(slot) {
                self.remove(slot);
            }
        }
    }

    fn remove(&mut self, slot: Slot) {
        self.streams.remove(&slot.0);
        self.router.remove(slot);
    }

    /// Lets everything go well from now on, until all is settled.
    fn settle(&mut self) {
        self.is_up = [true; NODES];
        self.map();
        self.router.hurry();
        for _ in 0..500 {
            let live: Vec<Slot> = self.router.live().collect();
            if live.iter().all(|slot| self.router.window(*slot).is_empty()) {
                return (0..200).for_each(|at| self.take_stray(at));
            }
            for slot in live {
                for step in
                    [Step::Connect(0, 0), Step::Retry(0), Step::Send(0), Step::Store(0, Fate::Fine), Step::Answer(0)]
                {
                    self.step_lane(slot, step);
                    self.router.check_invariants();
                }
            }
            self.step(Step::Pass(0));
        }
        panic!("not settled: {:?}", self.router);
    }

    fn check(&self) {
        let mut stored: HashMap<u64, u8> = HashMap::new();
        for (vbucket, at) in self.vbuckets.iter().zip(0_u8..) {
            for (_, _, number) in &vbucket.log {
                assert_eq!(stored.insert(*number, at), None, "{number} is stored twice");
            }
            assert!(vbucket.log.is_sorted_by_key(|(_, _, number)| number), "order in vbucket {at}: {:?}", vbucket.log);
        }
        for ((vbucket, ticket), number) in self.tickets.iter().zip(0_u64..) {
            let found = stored.get(&number);
            match ticket.outcome().expect("an outcome") {
                Ok(_) => assert_eq!(found, Some(vbucket), "{number} is committed"),
                Err(PushError::Unknown { .. }) => {}
                Err(error) => assert_eq!(found, None, "{number}: {error}"),
            }
        }
        let summary = self.router.summary();
        assert_eq!(summary.committed + summary.rejected + summary.unknown, self.tickets.len() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn every_message_is_settled_once_truly_and_in_order(steps in prop::collection::vec(step(), 0..300)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();
        world.check();
    }
}
