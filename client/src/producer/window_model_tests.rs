//! The window against a model of a broker, under random breaks, refusals, lost answers and requests that come late.
//!
//! What must hold whatever happens: each message has one outcome; what is committed is stored once; what is rejected is
//! not stored; messages of one vbucket are stored in the order they were pushed.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use broky_proto::frame::PREFIX_LEN;
use broky_proto::id::{Numbered, Offset, ProducerEpoch, ProducerId, Sequence};
use broky_proto::v1::{self, ErrorCode, Outcome, OutcomeKind, PushRequest};
use broky_replication::{Dedup, Verdict};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::message::MessageRef;
use crate::producer::{PushError, Ticket};

impl Window {
    /// Bytes of unsettled messages.
    pub(crate) fn charge(&self) -> usize {
        self.queue.iter().chain(&self.open).map(|batch| batch.charge).sum()
    }

    /// Asserts what holds between calls.
    pub(crate) fn check_invariants(&self) {
        assert!(
            self.next >= self.front && self.next <= self.end(),
            "{} <= {} <= {}",
            self.front,
            self.next,
            self.end()
        );
        assert!(self.queue.front().is_none_or(|batch| !batch.is_done()), "the front is not done");
        assert!(self.awaiting.iter().is_sorted(), "awaiting ascends: {:?}", self.awaiting);
        assert!(self.awaiting.back().is_none_or(|last| *last < self.next), "what awaits an answer was sent");
        assert!(self.phase != Phase::Disconnected || self.awaiting.is_empty(), "answers without a stream");
        assert!(self.open.as_ref().is_none_or(|open| open.messages > 0), "an open batch holds something");
    }
}

/// Some ninety messages: more than a broker keeps one by one when it refuses them.
const BATCH_BYTES_MAX: usize = 1_200;
const IN_FLIGHT_BYTES_MAX: usize = 8_000;

#[derive(Clone, Debug)]
enum Step {
    /// So many messages of a vbucket.
    Push(u8, usize),
    Send,
    /// The broker takes the oldest request; vbuckets in the mask are refused.
    Store {
        refuse: u8,
    },
    /// There is no room for the oldest request.
    Overload,
    /// As `Store`, and it cannot tell what became of them.
    StoreUnknown,
    /// The oldest answer on its way arrives.
    Answer,
    Retry,
    /// The broker takes this many requests, whose answers are lost with the stream. The others are on their way still.
    Break(usize),
    /// The broker takes the oldest request of a stream that broke, and refuses what this mask says.
    Stray(usize, u8),
    Connect,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_u8, prop_oneof![3 => Just(1_usize), 1 => 1..90_usize]).prop_map(|(at, count)| Step::Push(at, count)),
        4 => Just(Step::Send),
        4 => prop_oneof![4 => Just(0_u8), 1 => 1..8_u8].prop_map(|refuse| Step::Store { refuse }),
        1 => Just(Step::Overload),
        1 => Just(Step::StoreUnknown),
        4 => Just(Step::Answer),
        2 => Just(Step::Retry),
        1 => (0..3_usize).prop_map(Step::Break),
        2 => ((0..3_usize), prop_oneof![4 => Just(0_u8), 1 => 1..8_u8]).prop_map(|(at, refuse)| Step::Stray(at, refuse)),
        2 => Just(Step::Connect),
        1 => (0..20_u64).prop_map(Step::Pass),
    ]
}

/// A broker as docs and proto describe it: one leader, which forgets nothing.
#[derive(Default)]
struct Model {
    stored: Vec<(u8, u64)>,
    dedup: HashMap<u8, Dedup>,
}

impl Model {
    fn store(&mut self, request: &PushRequest, refuse: u8) -> PushResponse {
        let outcomes = request.messages.iter().zip(0_u32..).map(|(message, index)| {
            if is_too_large(message) {
                return rejected(index, ErrorCode::MessageTooLarge);
            }
            let vbucket = message.key[0];
            let (dedup, name) = (self.dedup.entry(vbucket).or_default(), name(request, index));
            let end = Offset(self.stored.len() as u64);
            let duplicate = match dedup.check(name) {
                Verdict::Forgotten => panic!("no producer is forgotten here"),
                Verdict::OutOfSequence => {
                    dedup.refused(name, end);
                    return rejected(index, ErrorCode::OutOfSequence);
                }
                Verdict::New if refuse >> vbucket & 1 == 1 => {
                    dedup.refused(name, end);
                    return rejected(index, ErrorCode::NotEnoughReplicas);
                }
                Verdict::New => {
                    dedup.stored(name, 1, end, end);
                    self.stored.push((vbucket, number_of(message)));
                    false
                }
                Verdict::Duplicate(_) => true,
            };
            let kind = OutcomeKind::Committed.into();
            Outcome { first: index, count: 1, kind, duplicate, ..Outcome::default() }
        });
        let outcomes = outcomes.collect();
        PushResponse { outcomes, positions: Vec::new() }
    }

    /// Takes nothing of a request.
    fn refuse(&mut self, request: &PushRequest) -> PushResponse {
        let outcomes = request.messages.iter().zip(0_u32..).map(|(message, index)| {
            if is_too_large(message) {
                return rejected(index, ErrorCode::MessageTooLarge);
            }
            let (dedup, name) = (self.dedup.entry(message.key[0]).or_default(), name(request, index));
            if !matches!(dedup.check(name), Verdict::Duplicate(_)) {
                dedup.refused(name, Offset(self.stored.len() as u64));
            }
            rejected(index, ErrorCode::Overloaded)
        });
        let outcomes = outcomes.collect();
        PushResponse { outcomes, positions: Vec::new() }
    }
}

fn name(request: &PushRequest, index: u32) -> Numbered {
    Numbered {
        producer: ProducerId(request.producer_id),
        epoch: ProducerEpoch(request.producer_epoch),
        sequence: Sequence(request.sequence + u64::from(index)),
    }
}

fn number_of(message: &v1::Message) -> u64 {
    u64::from_le_bytes(message.payload[..].try_into().unwrap())
}

/// A node finds that each time, and before it looks at the sequence.
fn is_too_large(message: &v1::Message) -> bool {
    number_of(message) % 7 == 3
}

fn rejected(index: u32, code: ErrorCode) -> Outcome {
    let (kind, retry) = (OutcomeKind::Rejected.into(), code.is_retryable());
    Outcome { first: index, count: 1, kind, code: code.into(), retry, ..Outcome::default() }
}

struct World {
    window: Window,
    numbering: Numbering,
    model: Model,
    requests: VecDeque<PushRequest>,
    /// What streams held that broke.
    strays: Vec<VecDeque<PushRequest>>,
    answers: VecDeque<PushResponse>,
    tickets: Vec<Ticket>,
    now: Instant,
    is_connected: bool,
    wants_retry: bool,
}

impl World {
    fn new() -> Self {
        let options = ProducerOptions {
            batch_bytes_max: BATCH_BYTES_MAX,
            in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
            delivery_timeout: Duration::from_secs(30),
            ..ProducerOptions::default()
        };
        Self {
            window: Window::new(options),
            numbering: Numbering::new(ProducerId(1)),
            model: Model::default(),
            requests: VecDeque::new(),
            strays: Vec::new(),
            answers: VecDeque::new(),
            tickets: Vec::new(),
            now: Instant::now(),
            is_connected: false,
            wants_retry: false,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push(vbucket, count) => (0..count).for_each(|_| self.push(vbucket)),
            Step::Send => self.send(),
            Step::Store { refuse } => self.store(refuse, false),
            Step::Overload => {
                let request = self.requests.pop_front();
                self.answers.extend(request.map(|request| self.model.refuse(&request)));
            }
            Step::StoreUnknown => self.store(0, true),
            Step::Answer => self.answer(),
            Step::Retry => {
                if std::mem::take(&mut self.wants_retry) {
                    self.window.handle_retry();
                }
            }
            Step::Break(stored) => self.disconnect(stored),
            Step::Stray(at, refuse) => self.take_stray(at, refuse),
            Step::Connect => self.connect(),
            Step::Pass(seconds) => {
                self.now += Duration::from_secs(seconds);
                if self.window.handle_timeout(self.now, "the test") {
                    self.disconnect(1);
                }
            }
        }
        self.window.check_invariants();
    }

    fn push(&mut self, vbucket: u8) {
        let number = (self.tickets.len() as u64).to_le_bytes();
        let key = [vbucket];
        let message = Encoder::new(MessageRef::new(&key, &number));
        if self.window.charge() + message.field_len() <= IN_FLIGHT_BYTES_MAX {
            let now = self.now;
            self.tickets.push(self.window.append(&message, || now, Ticket::new).0);
        }
    }

    fn send(&mut self) {
        let request = self.window.next_request(&mut self.numbering);
        self.requests.extend(request.map(|framed| PushRequest::decode(&framed[PREFIX_LEN..]).unwrap()));
    }

    fn store(&mut self, refuse: u8, is_unknown: bool) {
        let Some(request) = self.requests.pop_front() else { return };
        let mut response = self.model.store(&request, refuse);
        if is_unknown {
            let kind = OutcomeKind::Unknown.into();
            let count = u32::try_from(request.messages.len()).unwrap();
            response.outcomes = vec![Outcome { first: 0, count, kind, retry: true, ..Outcome::default() }];
        }
        self.answers.push_back(response);
    }

    fn answer(&mut self) {
        let Some(response) = self.answers.pop_front() else { return };
        match self.window.handle_response(response).unwrap() {
            Next::Continue | Next::Drained => {}
            Next::Wait => self.wants_retry = true,
            Next::Leave => self.disconnect(0),
        }
    }

    fn disconnect(&mut self, stored: usize) {
        for _ in 0..stored {
            self.store(0, false);
        }
        self.strays.push(std::mem::take(&mut self.requests));
        self.answers.clear();
        self.window.handle_disconnect();
        self.is_connected = false;
        self.wants_retry = false;
    }

    fn take_stray(&mut self, at: usize, refuse: u8) {
        self.strays.retain(|stray| !stray.is_empty());
        let count = self.strays.len();
        if let Some(request) = self.strays.get_mut(at % count.max(1)).and_then(VecDeque::pop_front) {
            self.model.store(&request, refuse);
        }
    }

    fn connect(&mut self) {
        if !self.is_connected {
            self.is_connected = true;
            self.window.handle_connect();
        }
    }

    /// Lets everything go well from now on, until all is settled.
    fn settle(&mut self) {
        self.window.hurry();
        for _ in 0..400 {
            if self.window.is_empty() {
                return (0..100).for_each(|at| self.take_stray(at, 0));
            }
            for step in [Step::Connect, Step::Retry, Step::Send, Step::Store { refuse: 0 }, Step::Answer] {
                self.step(step);
            }
        }
        panic!("not settled: {:?}", self.window);
    }

    fn check(&self) {
        let mut last = HashMap::new();
        for (vbucket, number) in &self.model.stored {
            let before = last.insert(vbucket, number);
            assert!(before.is_none_or(|before| before < number), "vbucket {vbucket}: {number} behind {before:?}");
        }
        for (ticket, number) in self.tickets.iter().zip(0_u64..) {
            let is_stored = self.model.stored.iter().any(|(_, stored)| *stored == number);
            match ticket.outcome().expect("an outcome") {
                Ok(_) => assert!(is_stored, "{number} is committed"),
                Err(PushError::Unknown { .. }) => {}
                Err(_) => assert!(!is_stored, "{number} is rejected"),
            }
        }
        let summary = self.window.summary();
        assert_eq!(summary.committed + summary.rejected + summary.unknown, self.tickets.len() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_message_is_settled_once_and_truly(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();
        world.check();
    }
}
