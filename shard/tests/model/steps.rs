//! Random things that happen to a node.

use broky_proto::v1::{self, Acks, OnSlow};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::log::payload;
use crate::world::{MESSAGE_BYTES_MAX, World};

const KEYS: &[&[u8]] = &[
    b"",
    b"a",
    b"a.b",
    b"a.b.c",
    b"b",
    b"b.b",
    b"*",
    b"\0\xff",
    b"!system",
    b"!system.x",
    b"!sys",
    b"rare",
    b"x.temp",
];
const PARTITIONS: &[&[u8]] = &[b"", b"", b"a", b"p0", b"p1", b"p2", b"p3", b"p4", b"p5", b"p6", b"\xff\0"];
const PATTERNS: &[&[u8]] = &[
    b"*",
    b"*",
    b"a",
    b"a*",
    b"a.?",
    b"*b*",
    b"!system*",
    b"!system.x",
    b"b.*",
    b"",
    b"?",
    br"\*",
    b"rare",
    b"*.temp",
    b"none*",
    b"**",
    b"!*",
];

/// What is special about a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Twist {
    None,
    /// The client fills in what the broker assigns.
    Forged,
    BadUid,
    TooLarge,
    LongKey,
}

#[derive(Clone, Debug)]
pub(crate) struct MessageSpec {
    key: Bytes,
    key_partition: Bytes,
    payload_bytes: usize,
    twist: Twist,
}

#[derive(Clone, Debug)]
pub(crate) struct OpenSpec {
    patterns: Vec<Bytes>,
    key_partitions: Vec<Bytes>,
    is_earliest: bool,
    credit: u64,
    on_slow: OnSlow,
    keeps_up: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Push {
        messages: Vec<MessageSpec>,
        acks: Acks,
        producer: u64,
        want_positions: bool,
    },
    /// Pushes an earlier request again.
    Retry(Index),
    Store(Index),
    Flush(Index),
    Hear(Index, usize),
    /// Pushes and flushes until a good part of the memory has been written to.
    Flood {
        requests: u64,
        payload_bytes: usize,
    },
    Open(Index, OpenSpec),
    Poll(Index, usize),
    /// Reads once and keeps the frame in the transport.
    Hold(Index),
    /// Lets go of all frames.
    Release,
    Credit(Index, u64),
    Close(Index),
    Resume(Index, Index),
    Heartbeat(Index),
}

/// A run of steps.
pub(crate) fn steps(len_max: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..len_max)
}

fn step() -> impl Strategy<Value = Step> {
    let any_index = any::<Index>;
    let acks = select(vec![Acks::Committed, Acks::Committed, Acks::Leader, Acks::None]);
    let push = (prop::collection::vec(message(), 0..8), acks, 0..4_u64, any::<bool>())
        .prop_map(|(messages, acks, producer, want_positions)| Step::Push { messages, acks, producer, want_positions });
    prop_oneof![
        8 => push,
        2 => any_index().prop_map(Step::Retry),
        3 => any_index().prop_map(Step::Store),
        6 => any_index().prop_map(Step::Flush),
        4 => (any_index(), 1..4_usize).prop_map(|(shard, count)| Step::Hear(shard, count)),
        2 => (1..48_u64, 50_000..250_000_usize)
            .prop_map(|(requests, payload_bytes)| Step::Flood { requests, payload_bytes }),
        4 => (any_index(), open()).prop_map(|(shard, open)| Step::Open(shard, open)),
        12 => (any_index(), 1..6_usize).prop_map(|(reader, times)| Step::Poll(reader, times)),
        4 => any_index().prop_map(Step::Hold),
        1 => Just(Step::Release),
        3 => (any_index(), 1..8_u64).prop_map(|(reader, messages)| Step::Credit(reader, messages)),
        1 => any_index().prop_map(Step::Close),
        4 => (any_index(), any_index()).prop_map(|(reader, shard)| Step::Resume(reader, shard)),
        1 => any_index().prop_map(Step::Heartbeat),
    ]
}

fn text(texts: &'static [&'static [u8]]) -> impl Strategy<Value = Bytes> {
    select(texts).prop_map(Bytes::from_static)
}

fn message() -> impl Strategy<Value = MessageSpec> {
    let payload_bytes = prop_oneof![3 => 0..100_usize, 2 => 1_000..10_000_usize, 1 => 50_000..200_000_usize];
    let twist = prop_oneof![
        20 => Just(Twist::None),
        2 => Just(Twist::Forged),
        1 => Just(Twist::BadUid),
        1 => Just(Twist::TooLarge),
        1 => Just(Twist::LongKey),
    ];
    (text(KEYS), text(PARTITIONS), payload_bytes, twist)
        .prop_map(|(key, key_partition, payload_bytes, twist)| MessageSpec { key, key_partition, payload_bytes, twist })
}

fn open() -> impl Strategy<Value = OpenSpec> {
    let patterns = prop_oneof![
        4 => prop::collection::vec(text(PATTERNS), 1..4),
        // As many as make an interest keep an index of its own.
        1 => Just(PATTERNS[2..].iter().chain([&b"a.b".as_slice(), &b"z".as_slice()]).copied().map(Bytes::from_static).collect()),
    ];
    let key_partitions = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(text(PARTITIONS), 1..3)];
    let credit = prop_oneof![2 => Just(0), 1 => 1..6_u64];
    let on_slow = select(vec![OnSlow::DropOldest, OnSlow::DropOldest, OnSlow::Disconnect]);
    (patterns, key_partitions, any::<bool>(), credit, on_slow, prop::bool::weighted(0.2)).prop_map(
        |(patterns, key_partitions, is_earliest, credit, on_slow, keeps_up)| {
            let keeps_up = keeps_up && credit == 0;
            OpenSpec { patterns, key_partitions, is_earliest, credit, on_slow, keeps_up }
        },
    )
}

impl World {
    /// Does one thing.
    pub(crate) fn take(&mut self, step: Step) {
        match step {
            Step::Push { messages, acks, producer, want_positions } => {
                let messages = messages.into_iter().map(|spec| self.message(&spec)).collect();
                self.push_new(messages, acks, producer, want_positions);
            }
            Step::Retry(index) if !self.pushed.is_empty() => {
                let at = index.index(self.pushed.len()) as u64;
                let request = self.pushed[&at].request().clone();
                self.push(request);
                self.store_if_lockstep();
            }
            Step::Store(index) => self.store(index.index(self.shards.len())),
            Step::Flush(index) => self.flush(index.index(self.shards.len())),
            Step::Hear(index, count) => self.hear(index.index(self.shards.len()), count),
            Step::Flood { requests, payload_bytes } => self.flood(requests, payload_bytes),
            Step::Open(index, spec) => {
                let shard = index.index(self.shards.len());
                let keeps_up = spec.keeps_up && self.is_lockstep;
                let reader = self.open(shard, spec.into_open());
                if keeps_up {
                    while self.poll(reader, 1) {}
                    self.readers[reader].keeps_up = true;
                }
            }
            Step::Poll(index, times) if !self.readers.is_empty() => {
                self.poll(index.index(self.readers.len()), times);
            }
            Step::Hold(index) if !self.readers.is_empty() => self.hold(index.index(self.readers.len())),
            Step::Release => self.held.clear(),
            Step::Credit(index, messages) if !self.readers.is_empty() => {
                self.give_credit(index.index(self.readers.len()), messages);
            }
            Step::Close(index) if !self.readers.is_empty() => self.close(index.index(self.readers.len())),
            Step::Resume(index, shard) if !self.readers.is_empty() => {
                self.resume(index.index(self.readers.len()), shard.index(self.shards.len()));
            }
            Step::Heartbeat(index) => self.heartbeat(index.index(self.shards.len())),
            Step::Retry(_) | Step::Poll(..) | Step::Hold(_) | Step::Credit(..) | Step::Close(_) | Step::Resume(..) => {}
        }
    }

    /// Pushes `requests` requests of one message each, flushing after each.
    pub(crate) fn flood(&mut self, requests: u64, payload_bytes: usize) {
        for number in 0..requests {
            let key_partition = Bytes::from_static(PARTITIONS[usize::try_from(number).unwrap() % PARTITIONS.len()]);
            let key = Bytes::from_static(b"a.b");
            let message = self.message(&MessageSpec { key, key_partition, payload_bytes, twist: Twist::None });
            self.push_new(vec![message], Acks::Committed, 0, false);
            for shard in 0..self.shards.len() {
                self.store(shard);
                self.flush(shard);
                // A shard that lags for long makes the others keep what they evict: see `memory`.
                self.hear(shard, 1);
            }
        }
    }

    fn push_new(&mut self, messages: Vec<v1::Message>, acks: Acks, producer: u64, want_positions: bool) {
        let pushed = self.pushed.values().filter(|pushed| pushed.request().producer_id == producer);
        let ends = pushed.map(|pushed| pushed.request().sequence + pushed.request().messages.len() as u64);
        let sequence = if producer == 0 { 0 } else { ends.max().unwrap_or(1) };
        self.push(v1::PushRequest {
            messages,
            acks: acks.into(),
            producer_id: producer,
            sequence,
            want_positions,
            ..v1::PushRequest::default()
        });
        self.store_if_lockstep();
    }

    fn store_if_lockstep(&mut self) {
        if self.is_lockstep {
            (0..self.shards.len()).for_each(|shard| self.store(shard));
        }
    }

    fn message(&self, spec: &MessageSpec) -> v1::Message {
        let number = self.pushed.len() as u64;
        let mut message = v1::Message {
            key: spec.key.clone(),
            key_partition: spec.key_partition.clone(),
            payload: payload(number, spec.payload_bytes),
            ts_producer: 17,
            uid: payload(number + 1, 20),
            headers: [("name".to_owned(), payload(number, 3))].into(),
            retain: number.is_multiple_of(2),
            ttl_ms: 9,
            ..v1::Message::default()
        };
        match spec.twist {
            Twist::None => {}
            Twist::Forged => {
                (message.crc32, message.ts_broker, message.epoch) = (1, 2, u64::MAX);
                (message.vbucket, message.offset) = (u32::MAX, u64::MAX);
            }
            Twist::BadUid => message.uid = payload(number, 19),
            Twist::TooLarge => message.payload = payload(number, MESSAGE_BYTES_MAX),
            Twist::LongKey => message.key_partition = payload(number, 4_097),
        }
        message
    }
}

impl OpenSpec {
    fn into_open(self) -> v1::Open {
        let start = match self.is_earliest {
            true => v1::start::Start::Earliest(v1::Earliest {}),
            false => v1::start::Start::Live(v1::Live {}),
        };
        v1::Open {
            patterns: self.patterns,
            start: Some(v1::Start { start: Some(start) }),
            on_slow: self.on_slow.into(),
            credit: self.credit,
            key_partitions: self.key_partitions,
            ..v1::Open::default()
        }
    }
}
