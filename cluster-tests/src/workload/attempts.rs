//! What was pushed, when, and what became of it: one list per producer, whose index is the message's sequence.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use broky_client::{Position, PushError, Receipt, VBucketId};

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
#[derive(Default, Debug)]
pub struct Attempts(Mutex<Vec<Attempt>>);

impl Attempts {
    /// Adds a message that is about to be pushed; gives its sequence.
    pub(super) fn begin(&self, vbucket: VBucketId, round: u32, pushed: Since) -> usize {
        let mut all = self.lock();
        all.push(Attempt { vbucket, round, pushed, settled: Since::MAX, fate: Fate::Pending });
        all.len() - 1
    }

    /// Notes an outcome.
    pub(super) fn settle(&self, sequence: usize, settled: Since, outcome: &Result<Receipt, PushError>) {
        if let Some(attempt) = self.lock().get_mut(sequence) {
            attempt.settled = settled;
            attempt.fate = fate(outcome);
        }
    }

    /// The list.
    pub fn lock(&self) -> MutexGuard<'_, Vec<Attempt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
