//! Whether a producer's messages of a vbucket come one behind the other.
//!
//! A producer raises its *epoch* whenever it goes back: what it pushes from then on begins with the first message that it
//! has no outcome of. So the messages of one epoch are a row without a gap, and what is stored of several such rows is in
//! order, as long as nothing is stored of a row beyond a message of it that was refused, and nothing of an older row once
//! a younger one is there.
//!
//! A row that broke is mended within its epoch as well: by a node that forwards and sends again what was not taken, or what
//! went on a link that broke, and by a client that knows nothing of epochs and pushes again on the same stream. That begins
//! with the first that was refused, and up to the last that was, whatever comes next is the next. It would not do for two
//! that come at the same time: hence the epochs, and hence a link between nodes is not read on once its successor has begun.
//!
//! Source: the producer epochs of Kafka (KIP-98, KIP-360).

use std::cmp::Ordering;

use broky_proto::id::{ProducerEpoch, Sequence};

/// See the module. Sequences are those of one producer in one vbucket, and need not be contiguous.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Row {
    /// The youngest epoch of which anything has come.
    epoch: ProducerEpoch,
    broken: Option<Break>,
}

/// What was refused of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Break {
    /// The first, as long as that has not come again. Then the first sequence behind what has.
    first: Sequence,
    has_begun: bool,
    last: Sequence,
}

impl Row {
    /// Whether messages of this epoch go on where those before them ended.
    #[inline]
    #[must_use]
    pub fn is_whole(&self, epoch: ProducerEpoch) -> bool {
        self.epoch == epoch && self.broken.is_none()
    }

    /// Whether a message that nothing was stored beyond may be stored now.
    #[inline]
    #[must_use]
    pub fn admits(&self, epoch: ProducerEpoch, sequence: Sequence) -> bool {
        match epoch.cmp(&self.epoch) {
            Ordering::Less => false,
            Ordering::Equal => self.broken.is_none_or(|broken| broken.admits(sequence)),
            Ordering::Greater => true,
        }
    }

    /// This message was refused, and may come again.
    pub fn refuse(&mut self, epoch: ProducerEpoch, sequence: Sequence) {
        match epoch.cmp(&self.epoch) {
            Ordering::Less => {}
            Ordering::Equal => {
                self.broken = Some(self.broken.map_or(Break::at(sequence), |broken| broken.and(sequence)));
            }
            Ordering::Greater => *self = Self { epoch, broken: Some(Break::at(sequence)) },
        }
    }

    /// This message is stored, or on its way: those before it in its row are as well, or never will be.
    #[inline]
    pub fn pass(&mut self, epoch: ProducerEpoch, sequence: Sequence) {
        match epoch.cmp(&self.epoch) {
            Ordering::Less => {}
            Ordering::Equal => self.pass_unseen(sequence),
            Ordering::Greater => *self = Self { epoch, broken: None },
        }
    }

    /// As [`Row::pass`], of a message that another node let through, whatever its epoch was.
    #[inline]
    pub fn pass_unseen(&mut self, sequence: Sequence) {
        if let Some(broken) = self.broken {
            self.broken = broken.behind(sequence);
        }
    }
}

impl Break {
    fn at(sequence: Sequence) -> Self {
        Self { first: sequence, has_begun: false, last: sequence }
    }

    fn and(self, sequence: Sequence) -> Self {
        // What comes again comes in order: nothing that was refused is left between `first` and this one.
        let is_next = self.has_begun && sequence <= self.last;
        match sequence <= self.first || is_next {
            true => Self { first: sequence, has_begun: false, last: self.last.max(sequence) },
            false => Self { last: self.last.max(sequence), ..self },
        }
    }

    fn admits(self, sequence: Sequence) -> bool {
        sequence <= self.first || self.has_begun && sequence <= self.last
    }

    fn behind(self, sequence: Sequence) -> Option<Self> {
        match sequence {
            _ if sequence >= self.last => None,
            _ if sequence >= self.first => Some(Self { first: sequence.plus(1), has_begun: true, ..self }),
            _ => Some(self),
        }
    }
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
