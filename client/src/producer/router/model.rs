//! A model of a cluster: vbuckets that any node can be the leader of, and streams to nodes that forward.
//!
//! The leader of a vbucket decides by the rules of `replication::Dedup`. Its memory of what it refused is lost when
//! another takes over, for refusals are not replicated. So a node that takes a producer's stream has a duty of its own:
//! once a message of a vbucket was not committed, whoever refused it, later ones of that vbucket are refused until it
//! comes again, or a higher epoch ([`Stream::rows`]).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use broky_proto::id::{Numbered, Offset, ProducerEpoch, ProducerId, Sequence, Token, VBucketCount};
use broky_proto::v1::{self, ErrorCode, Outcome, OutcomeKind, PushRequest, PushResponse};
use broky_replication::{Dedup, Row, SequenceRun, Verdict};

pub(super) const VBUCKETS: u8 = 4;

/// What becomes of a request beyond what its leaders decide.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    Fine,
    /// Leaders of the vbuckets in the mask have too few replicas.
    Refused(u8),
    /// The answer of another node got lost: it was stored, or it was not.
    Unknown {
        is_stored: bool,
    },
}

/// One vbucket, as every replica has it.
#[derive(Default)]
pub(super) struct VBucket {
    pub(super) leader: usize,
    pub(super) log: Vec<(ProducerId, Sequence, u64)>,
    dedup: Dedup,
}

impl VBucket {
    pub(super) fn lead(&mut self, leader: usize) {
        self.leader = leader;
        self.dedup = Dedup::default();
        for (at, (producer, sequence, _)) in self.log.iter().enumerate() {
            let at = Offset(at as u64);
            self.dedup.replicated(*producer, SequenceRun { first: *sequence, count: 1, offset: at }, at);
        }
    }

    fn store(&mut self, message: Numbered, number: u64, is_refused: bool) -> Result<bool, ErrorCode> {
        let end = Offset(self.log.len() as u64);
        match self.dedup.check(message) {
            Verdict::OutOfSequence => {
                self.dedup.refused(message, end);
                Err(ErrorCode::OutOfSequence)
            }
            Verdict::Forgotten => unreachable!("no producer is forgotten here"),
            Verdict::Duplicate(_) => Ok(true),
            Verdict::New if is_refused => {
                self.dedup.refused(message, end);
                Err(ErrorCode::NotEnoughReplicas)
            }
            Verdict::New => {
                self.dedup.stored(message, 1, end, end);
                self.log.push((message.producer, message.sequence, number));
                Ok(false)
            }
        }
    }
}

/// A lane's stream to a node, and what its driver keeps in mind.
pub(super) struct Stream {
    pub(super) node: usize,
    pub(super) requests: VecDeque<PushRequest>,
    pub(super) answers: VecDeque<PushResponse>,
    /// By producer and vbucket: what was not committed and has not come again.
    rows: HashMap<(u64, u8), Row>,
    pub(super) wants_retry: bool,
}

impl Stream {
    pub(super) fn new(node: usize) -> Self {
        Self { node, requests: VecDeque::new(), answers: VecDeque::new(), rows: HashMap::new(), wants_retry: false }
    }

    /// The node takes a request; this is its answer.
    pub(super) fn answer(
        &mut self,
        vbuckets: &mut [VBucket],
        is_up: &[bool],
        request: &PushRequest,
        fate: &Fate,
    ) -> PushResponse {
        let answers = (0_u32..).zip(&request.messages).map(|(index, message)| {
            let name = Numbered {
                producer: ProducerId(request.producer_id),
                epoch: ProducerEpoch(request.producer_epoch),
                sequence: Sequence(request.sequence + u64::from(index)),
            };
            if is_too_large(message) {
                return Outcome { first: index, count: 1, ..rejected(ErrorCode::MessageTooLarge, false) };
            }
            let outcome = store_one(self, vbuckets, is_up, message, name, fate);
            Outcome { first: index, count: 1, ..outcome }
        });
        PushResponse { outcomes: answers.collect(), positions: Vec::new() }
    }
}

pub(super) fn address(node: usize) -> Arc<str> {
    Arc::from(format!("node{node}:1"))
}

/// A key whose token falls into this vbucket.
pub(super) fn key_in(vbucket: u8) -> String {
    let count = VBucketCount::new(VBUCKETS.into()).unwrap();
    let is_there = |key: &String| count.vbucket_of(Token::of(b"", key.as_bytes())).0 == u16::from(vbucket);
    (0..).map(|n| format!("{vbucket}{n}")).find(is_there).unwrap()
}

fn vbucket_of(message: &v1::Message) -> u8 {
    let count = VBucketCount::new(VBUCKETS.into()).unwrap();
    u8::try_from(count.vbucket_of(Token::of(b"", &message.key)).0).unwrap()
}

fn number_of(message: &v1::Message) -> u64 {
    u64::from_le_bytes(message.payload[..].try_into().unwrap())
}

/// A node finds that each time, and before it looks at the sequence.
fn is_too_large(message: &v1::Message) -> bool {
    number_of(message) % 11 == 5
}

fn rejected(code: ErrorCode, retry: bool) -> Outcome {
    Outcome { kind: OutcomeKind::Rejected.into(), code: code.into(), retry, ..Outcome::default() }
}

/// What the node at the other end of a stream answers to one message.
fn store_one(
    stream: &mut Stream,
    vbuckets: &mut [VBucket],
    is_up: &[bool],
    message: &v1::Message,
    name: Numbered,
    fate: &Fate,
) -> Outcome {
    let at = vbucket_of(message);
    let vbucket = &mut vbuckets[usize::from(at)];
    let row = stream.rows.entry((name.producer.0, at)).or_default();
    if !row.admits(name.epoch, name.sequence) {
        row.refuse(name.epoch, name.sequence);
        return rejected(ErrorCode::OutOfSequence, true);
    }
    let mut store = |is_refused| match is_up[vbucket.leader] {
        true => vbucket.store(name, number_of(message), is_refused),
        false => Err(ErrorCode::NotLeader),
    };
    let outcome = match fate {
        Fate::Fine => store(false),
        Fate::Refused(mask) => store(mask >> at & 1 == 1),
        Fate::Unknown { is_stored } => {
            if *is_stored {
                let _ = store(false);
            }
            row.refuse(name.epoch, name.sequence);
            return Outcome { kind: OutcomeKind::Unknown.into(), ..Outcome::default() };
        }
    };
    match outcome {
        Ok(duplicate) => {
            row.pass(name.epoch, name.sequence);
            Outcome { kind: OutcomeKind::Committed.into(), duplicate, ..Outcome::default() }
        }
        Err(code) => {
            row.refuse(name.epoch, name.sequence);
            rejected(code, true)
        }
    }
}
