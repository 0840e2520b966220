//! Under which id and sequences a producer's messages go.
//!
//! One id for as long as the producer lives, and one count for all its windows: what is pushed later into a vbucket has
//! a higher sequence, whichever window it takes. So whatever comes too late is known as such by its sequence, on
//! whichever stream. A batch is numbered when it is sent for the first time, because only then everything that has to
//! be stored before it has its numbers.

use broky_proto::id::{ProducerId, Sequence};

/// See the module.
#[derive(Debug)]
pub(crate) struct Numbering {
    producer: ProducerId,
    next: Sequence,
}

impl Numbering {
    /// Begins with sequence 1.
    pub(crate) fn new(producer: ProducerId) -> Self {
        Self { producer, next: Sequence(1) }
    }

    pub(super) fn producer(&self) -> ProducerId {
        self.producer
    }

    /// Sequences for so many messages; this is the first.
    pub(super) fn take(&mut self, messages: u32) -> Sequence {
        let first = self.next;
        self.next = first.plus(u64::from(messages));
        first
    }
}
