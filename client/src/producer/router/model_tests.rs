//! The router against a model of a cluster: nodes that accept, forward, refuse and die, and leaders that change.
//!
//! What must hold whatever happens: each message has one outcome; what is committed is stored once, in its vbucket; what
//! is rejected is not stored; messages of one vbucket are stored in the order they were pushed.
//!
//! The leader of a vbucket decides by the rules of `replication::Dedup`. Its memory of what it refused is lost when
//! another takes over, for refusals are not replicated. So a node that takes a producer's stream has a duty of its own:
//! once a message of a vbucket was not committed, whoever refused it, later ones of that vbucket are refused until it
//! comes again ([`Stream::fences`]).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use broky_proto::frame::PREFIX_LEN;
use broky_proto::id::{Offset, ProducerId, Sequence};
use broky_proto::v1::{self, ErrorCode, Outcome, OutcomeKind, PushRequest, PushResponse};
use broky_replication::{Dedup, Verdict};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::message::MessageRef;
use crate::producer::window::Next;
use crate::producer::{PushError, Ticket};

const NODES: usize = 3;
const VBUCKETS: u8 = 4;
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
    /// The lane's node takes this many requests, whose answers are lost with the stream.
    Break(usize, usize),
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

/// What becomes of a request beyond what its leaders decide.
#[derive(Clone, Debug)]
enum Fate {
    Fine,
    /// Leaders of the vbuckets in the mask have too few replicas.
    Refused(u8),
    /// The answer of another node got lost: it was stored, or it was not.
    Unknown {
        is_stored: bool,
    },
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

/// One vbucket, as every replica has it.
#[derive(Default)]
struct VBucket {
    leader: usize,
    log: Vec<(ProducerId, Sequence, u64)>,
    dedup: Dedup,
}

impl VBucket {
    fn lead(&mut self, leader: usize) {
        self.leader = leader;
        self.dedup = Dedup::default();
        for (at, (producer, sequence, _)) in self.log.iter().enumerate() {
            self.dedup.stored(*producer, *sequence, Offset(at as u64), true);
        }
    }

    fn store(
        &mut self,
        producer: ProducerId,
        sequence: Sequence,
        number: u64,
        is_refused: bool,
    ) -> Result<bool, ErrorCode> {
        let end = Offset(self.log.len() as u64);
        match self.dedup.check(producer, sequence) {
            Verdict::OutOfSequence => Err(ErrorCode::OutOfSequence),
            Verdict::Duplicate(_) => Ok(true),
            Verdict::New if is_refused => {
                self.dedup.refused(producer, sequence, end, true);
                Err(ErrorCode::NotEnoughReplicas)
            }
            Verdict::New => {
                self.dedup.stored(producer, sequence, end, true);
                self.log.push((producer, sequence, number));
                Ok(false)
            }
        }
    }
}

/// A lane's stream to a node, and what its driver keeps in mind.
struct Stream {
    node: usize,
    requests: VecDeque<PushRequest>,
    answers: VecDeque<PushResponse>,
    /// By producer and vbucket: the lowest sequence that was not committed.
    fences: HashMap<(u64, u8), u64>,
    wants_retry: bool,
}

struct World {
    router: Router,
    streams: HashMap<u16, Stream>,
    vbuckets: Vec<VBucket>,
    is_up: [bool; NODES],
    tickets: Vec<(u8, Ticket)>,
    now: Instant,
    version: u64,
    fresh: u64,
}

fn address(node: usize) -> Arc<str> {
    Arc::from(format!("node{node}:1"))
}

/// A key whose token falls into this vbucket.
fn key_in(vbucket: u8) -> String {
    let count = broky_proto::id::VBucketCount::new(VBUCKETS.into()).unwrap();
    let is_there = |key: &String| count.vbucket_of(Token::of(b"", key.as_bytes())).0 == u16::from(vbucket);
    (0..).map(|n| format!("{vbucket}{n}")).find(is_there).unwrap()
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
            router: Router::new(options),
            streams: HashMap::new(),
            vbuckets: (0..VBUCKETS).map(|_| VBucket::default()).collect(),
            is_up: [true; NODES],
            tickets: Vec::new(),
            now: Instant::now(),
            version: 0,
            fresh: 0,
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
            Step::Push(_) | Step::Kill(..) | Step::Start(_) | Step::Lead(..) | Step::Map | Step::Pass(_) => {}
        }
    }

    fn push(&mut self, vbucket: u8) {
        let number = (self.tickets.len() as u64).to_le_bytes();
        let key = key_in(vbucket);
        let message = Encoder::new(MessageRef::new(key.as_bytes(), &number));
        let now = self.now;
        if let Some((_, ticket, _)) = self.router.append(&message, || now, Ticket::new) {
            self.tickets.push((vbucket, ticket));
        }
    }

    fn send(&mut self, slot: Slot) {
        let Some(stream) = self.streams.get_mut(&slot.0) else { return };
        let fresh = &mut self.fresh;
        let request = self.router.act(slot, |window| {
            window.next_request(|| {
                *fresh += 1;
                ProducerId(*fresh)
            })
        });
        stream.requests.extend(request.map(|framed| PushRequest::decode(&framed[PREFIX_LEN..]).unwrap()));
    }

    fn store(&mut self, slot: Slot, fate: &Fate) {
        let Some(stream) = self.streams.get_mut(&slot.0) else { return };
        let Some(request) = stream.requests.pop_front() else { return };
        let mut outcomes = Vec::new();
        for (index, message) in (0_u32..).zip(&request.messages) {
            let sequence = request.sequence + u64::from(index);
            let kind =
                store_one(stream, &mut self.vbuckets, &self.is_up, message, (request.producer_id, sequence), fate);
            outcomes.push(Outcome { first: index, count: 1, ..kind });
        }
        stream.answers.push_back(PushResponse { outcomes, positions: Vec::new() });
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
        let (requests, answers, fences) = (VecDeque::new(), VecDeque::new(), HashMap::new());
        self.streams.insert(slot.0, Stream { node, requests, answers, fences, wants_retry: false });
    }

    fn disconnect(&mut self, slot: Slot, stored: usize) {
        (0..stored).for_each(|_| self.store(slot, &Fate::Fine));
        if self.streams.remove(&slot.0).is_some() {
            self.router.act(slot, Window::handle_disconnect);
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

    /// Lets everything go well from now on, until all is settled. What was sent behind something given up may stay
    /// refused until its own deadline.
    fn settle(&mut self) {
        self.is_up = [true; NODES];
        self.map();
        self.router.hurry();
        for round in 0..500 {
            let live: Vec<Slot> = self.router.live().collect();
            if live.iter().all(|slot| self.router.window(*slot).is_empty()) {
                return;
            }
            for slot in live {
                for step in
                    [Step::Connect(0, 0), Step::Retry(0), Step::Send(0), Step::Store(0, Fate::Fine), Step::Answer(0)]
                {
                    self.step_lane(slot, step);
                    self.router.check_invariants();
                }
            }
            self.step(Step::Pass(if round < 200 { 0 } else { 500 }));
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

/// What the node at the other end of a stream answers to one message.
fn store_one(
    stream: &mut Stream,
    vbuckets: &mut [VBucket],
    is_up: &[bool],
    message: &v1::Message,
    (producer, sequence): (u64, u64),
    fate: &Fate,
) -> Outcome {
    let number = u64::from_le_bytes(message.payload[..].try_into().unwrap());
    let count = broky_proto::id::VBucketCount::new(VBUCKETS.into()).unwrap();
    let at = u8::try_from(count.vbucket_of(Token::of(b"", &message.key)).0).unwrap();
    let vbucket = &mut vbuckets[usize::from(at)];
    let rejected = |code: ErrorCode, retry| Outcome {
        kind: OutcomeKind::Rejected.into(),
        code: code.into(),
        retry,
        ..Outcome::default()
    };
    if number % 11 == 5 {
        // As a node does that finds a message too large: each time, and before it looks at the sequence.
        return rejected(ErrorCode::MessageTooLarge, false);
    }
    let fence = stream.fences.get(&(producer, at)).copied();
    if fence.is_some_and(|fence| fence < sequence) {
        return rejected(ErrorCode::OutOfSequence, true);
    }
    let mut store = |is_refused| {
        if !is_up[vbucket.leader] {
            return Err(ErrorCode::NotLeader);
        }
        vbucket.store(ProducerId(producer), Sequence(sequence), number, is_refused)
    };
    let outcome = match fate {
        Fate::Fine => store(false),
        Fate::Refused(mask) => store(mask >> at & 1 == 1),
        Fate::Unknown { is_stored } => {
            if *is_stored {
                let _ = store(false);
            }
            stream.fences.entry((producer, at)).or_insert(sequence);
            return Outcome { kind: OutcomeKind::Unknown.into(), ..Outcome::default() };
        }
    };
    match outcome {
        Ok(duplicate) => {
            stream.fences.retain(|key, fence| (*key, *fence) != ((producer, at), sequence));
            Outcome { kind: OutcomeKind::Committed.into(), duplicate, ..Outcome::default() }
        }
        Err(code) => {
            let lowest = stream.fences.entry((producer, at)).or_insert(sequence);
            *lowest = sequence.min(*lowest);
            rejected(code, true)
        }
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
