//! A model of a cluster: vbuckets that any node can be the leader of, and streams to nodes that forward.
//!
//! The leader of a vbucket decides by the rules of `replication::Dedup`. Its memory of what it refused is lost when
//! another takes over, for refusals are not replicated. So a node that takes a producer's stream has a duty of its own:
//! once a message of a vbucket was not committed, whoever refused it, later ones of that vbucket are refused until it
//! comes again ([`Stream::holes`]).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use broky_proto::id::{Offset, ProducerId, Sequence, Token, VBucketCount};
use broky_proto::v1::{self, ErrorCode, Outcome, OutcomeKind, PushRequest, PushResponse};
use broky_replication::{Dedup, Hole, Verdict};

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
            self.dedup.stored(*producer, *sequence, Offset(at as u64), Offset(at as u64));
        }
    }

    fn store(
        &mut self,
        (producer, sequence): (ProducerId, Sequence),
        settled_below: Sequence,
        number: u64,
        is_refused: bool,
    ) -> Result<bool, ErrorCode> {
        self.dedup.settle_below(producer, || settled_below);
        let end = Offset(self.log.len() as u64);
        match self.dedup.check(producer, sequence) {
            Verdict::OutOfSequence => Err(ErrorCode::OutOfSequence),
            Verdict::Forgotten => unreachable!("no producer is forgotten here"),
            Verdict::Duplicate(_) => Ok(true),
            Verdict::New if is_refused => {
                self.dedup.refused(producer, sequence, end);
                Err(ErrorCode::NotEnoughReplicas)
            }
            Verdict::New => {
                self.dedup.stored(producer, sequence, end, end);
                self.log.push((producer, sequence, number));
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
    holes: HashMap<(u64, u8), Option<Hole>>,
    pub(super) wants_retry: bool,
}

impl Stream {
    pub(super) fn new(node: usize) -> Self {
        Self { node, requests: VecDeque::new(), answers: VecDeque::new(), holes: HashMap::new(), wants_retry: false }
    }

    /// The node takes a request; this is its answer.
    pub(super) fn answer(
        &mut self,
        vbuckets: &mut [VBucket],
        is_up: &[bool],
        request: &PushRequest,
        fate: &Fate,
    ) -> PushResponse {
        let mut firsts = HashMap::new();
        let answers = (0_u32..).zip(&request.messages).map(|(index, message)| {
            let id = (request.producer_id, request.sequence + u64::from(index));
            if is_too_large(message) {
                return Outcome { first: index, count: 1, ..rejected(ErrorCode::MessageTooLarge, false) };
            }
            let first = *firsts.entry(vbucket_of(message)).or_insert(id.1);
            let is_oldest = request.settled_below == request.sequence;
            let settled_below = if is_oldest { first } else { request.settled_below };
            let outcome = store_one(self, vbuckets, is_up, message, (id, settled_below), fate);
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
    ((producer, sequence), settled_below): ((u64, u64), u64),
    fate: &Fate,
) -> Outcome {
    let at = vbucket_of(message);
    let vbucket = &mut vbuckets[usize::from(at)];
    let hole = stream.holes.entry((producer, at)).or_default();
    *hole = hole.take().and_then(|hole| hole.settled(Sequence(settled_below)));
    let refuse = |hole: &mut Option<Hole>| {
        hole.get_or_insert_with(|| Hole::new(Sequence(sequence))).add(Sequence(sequence));
    };
    if hole.as_ref().is_some_and(|hole| !hole.admits(Sequence(sequence))) {
        refuse(hole);
        return rejected(ErrorCode::OutOfSequence, true);
    }
    let mut store = |is_refused| {
        if !is_up[vbucket.leader] {
            return Err(ErrorCode::NotLeader);
        }
        let id = (ProducerId(producer), Sequence(sequence));
        vbucket.store(id, Sequence(settled_below), number_of(message), is_refused)
    };
    let outcome = match fate {
        Fate::Fine => store(false),
        Fate::Refused(mask) => store(mask >> at & 1 == 1),
        Fate::Unknown { is_stored } => {
            if *is_stored {
                let _ = store(false);
            }
            refuse(hole);
            return Outcome { kind: OutcomeKind::Unknown.into(), ..Outcome::default() };
        }
    };
    match outcome {
        Ok(duplicate) => {
            *hole = hole.take().and_then(|hole| hole.behind(Sequence(sequence)));
            Outcome { kind: OutcomeKind::Committed.into(), duplicate, ..Outcome::default() }
        }
        Err(code) => {
            refuse(hole);
            rejected(code, true)
        }
    }
}
