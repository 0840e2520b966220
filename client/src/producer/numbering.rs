//! Under which id, epochs and sequences a producer's messages go.
//!
//! One id for as long as the producer lives, and one count for all its windows: what is pushed later into a vbucket has
//! a higher sequence, whichever window it takes. So whatever comes too late is known as such by its sequence, on
//! whichever stream. A batch is numbered when it is sent for the first time, because only then everything that has to
//! be stored before it has its numbers. Each window has an epoch of its own, and takes the next one of all when it goes
//! back.

use broky_proto::id::{ProducerEpoch, ProducerId, Sequence};

/// See the module.
#[derive(Debug)]
pub(crate) struct Numbering {
    producer: ProducerId,
    next: Sequence,
    epoch: ProducerEpoch,
}

impl Numbering {
    /// Begins with sequence 1.
    pub(crate) fn new(producer: ProducerId) -> Self {
        Self { producer, next: Sequence(1), epoch: ProducerEpoch(0) }
    }

    pub(super) fn producer(&self) -> ProducerId {
        self.producer
    }

    /// An epoch above all before.
    pub(super) fn raise_epoch(&mut self) -> ProducerEpoch {
        self.epoch.0 = self.epoch.0.saturating_add(1);
        self.epoch
    }

    /// Sequences for so many messages; this is the first.
    pub(super) fn take(&mut self, messages: u32) -> Sequence {
        let first = self.next;
        self.next = first.plus(u64::from(messages));
        first
    }
}
