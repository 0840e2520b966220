//! What was pushed, when, and what became of it: one list per producer, whose index is the message's sequence.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use broky_client::{Position, PushError, Receipt, VBucketId};
use broky_proto::id::{ProducerId, Sequence};

use super::stamp::{checksum, hash64};
use crate::history::{Event, HexBytes, PushFail, PushInvoke, PushOk, PushUnknown};
use crate::journal::Journal;

/// Time since the measurement began.
pub type Since = Duration;

/// What became of a pushed message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Nothing yet.
    Pending,
    /// Acknowledged; where, if the broker told.
    Committed(Option<Position>),
    /// Provably never stored. The code's name.
    Rejected(&'static str),
    /// Stored or not.
    Unknown,
}

/// One pushed message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Its vbucket.
    pub vbucket: VBucketId,
    /// The part of the measurement that it belongs to.
    pub round: u32,
    /// When it was given to the client.
    pub pushed: Since,
    /// When its outcome was known.
    pub settled: Since,
    /// The outcome.
    pub fate: Fate,
}

/// Everything one producer pushed.
#[derive(Debug)]
pub struct Attempts {
    producer: u32,
    all: Mutex<Vec<Attempt>>,
    /// Where it is written down, and the name of the cluster.
    journal: Option<(Journal, String)>,
}

impl Attempts {
    /// Of a producer that has pushed nothing yet.
    pub(super) fn new(producer: u32, journal: Option<(Journal, String)>) -> Self {
        Self { producer, all: Mutex::default(), journal }
    }

    /// Adds a message that is about to be pushed; gives its sequence.
    pub(super) fn begin(&self, vbucket: VBucketId, round: u32, pushed: Since) -> usize {
        let mut all = self.lock();
        all.push(Attempt { vbucket, round, pushed, settled: Since::MAX, fate: Fate::Pending });
        all.len() - 1
    }

    /// Writes down that a message is about to be pushed.
    pub(super) fn note_invocation(&self, sequence: usize, key: &str, key_partition: &str, payload: &[u8]) {
        let Some((journal, _)) = &self.journal else { return };
        let (producer, sequence) = self.name(sequence);
        journal.note(Event::PushInvoke(PushInvoke {
            producer,
            sequence,
            key: key.into(),
            key_partition: HexBytes(key_partition.as_bytes().to_vec()),
            len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            crc32: checksum(key_partition.as_bytes(), key.as_bytes(), payload),
            hash64: hash64(payload),
            plain: false,
        }));
    }

    fn note_outcome(&self, sequence: usize, outcome: &Result<Receipt, PushError>) {
        let Some((journal, cluster)) = &self.journal else { return };
        let (producer, sequence) = self.name(sequence);
        let event = match outcome {
            Ok(receipt) => {
                let position = receipt.position.map(|Position { vbucket, lineage, epoch, offset }| {
                    crate::history::Position { cluster: cluster.into(), vbucket, lineage, epoch, offset }
                });
                Event::PushOk(PushOk { producer, sequence, position, leader: None })
            }
            Err(error) => match fate(&Err(error.clone())) {
                Fate::Rejected(code) => Event::PushFail(PushFail { producer, sequence, code: code.into() }),
                Fate::Unknown | Fate::Pending | Fate::Committed(_) => {
                    Event::PushUnknown(PushUnknown { producer, sequence, code: error.to_string().into() })
                }
            },
        };
        journal.note(event);
    }

    fn name(&self, sequence: usize) -> (ProducerId, Sequence) {
        (ProducerId(u64::from(self.producer)), Sequence(sequence as u64))
    }

    /// Notes an outcome.
    pub(super) fn settle(&self, sequence: usize, settled: Since, outcome: &Result<Receipt, PushError>) {
        self.note_outcome(sequence, outcome);
        if let Some(attempt) = self.lock().get_mut(sequence) {
            attempt.settled = settled;
            attempt.fate = fate(outcome);
        }
    }

    /// The list.
    pub fn lock(&self) -> MutexGuard<'_, Vec<Attempt>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many have no outcome yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        // The newest are the ones that may be pending, but an old one can be stuck among them.
        self.lock().iter().filter(|attempt| attempt.fate == Fate::Pending).count()
    }
}

fn fate(outcome: &Result<Receipt, PushError>) -> Fate {
    match outcome {
        Ok(receipt) => Fate::Committed(receipt.position),
        Err(PushError::Unknown { .. }) => Fate::Unknown,
        Err(PushError::Rejected { code, .. }) => Fate::Rejected(code.name()),
        Err(PushError::NotSent { .. }) => Fate::Rejected("not sent"),
        Err(PushError::MessageTooLarge { .. } | PushError::WouldBlock | PushError::Closed) => Fate::Rejected("refused"),
    }
}

/// When a measurement began.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// It begins now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// How long ago that was.
    #[must_use]
    pub fn now(self) -> Since {
        self.0.elapsed()
    }
}
