//! From the bytes of a delivery to a [`Batch`]: scanned, checked, cleared of what was given out before.
//!
//! Pure. A delivery is scanned once, in place. Its gaps count before its messages and its cursors after them, whatever
//! their order on the wire, so the scan only collects; then each message meets the cursors.
//!
//! **Invariant:** a message that fails its checksum stops everything: what stands before it is given out, itself and
//! what is behind it are not, and the cursors stand right before it.

use std::sync::Arc;

use broky_proto::id::{Offset, VBucketId};
use broky_proto::v1;
use broky_proto::wire::{Fields, scan_delivery};
use bytes::Bytes;
use prost::Message as _;

use super::cursors::{Admission, Cursors, Slot, Violation};
use super::delivery::{Batch, Entry, Spare};
use super::error::SubscribeError;

/// What a delivery gave.
#[derive(Debug)]
pub(super) struct Taken {
    /// What is to be given out; `None` when there is nothing.
    pub(super) batch: Option<Batch>,
    /// Messages the node sent, including those dropped: what it counts against the credit.
    pub(super) messages: u64,
    /// Why the subscription ends behind the batch.
    pub(super) error: Option<SubscribeError>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) cursors: Cursors,
    /// Whether the stream was confirmed.
    is_confirmed: bool,
    spare: Arc<Spare>,
}

impl Intake {
    pub(super) fn new(cursors: Cursors) -> Self {
        Self { cursors, is_confirmed: false, spare: Arc::default() }
    }

    /// There is a new stream: its first delivery must confirm it.
    pub(super) fn handle_open(&mut self) {
        self.is_confirmed = false;
    }

    /// Takes a delivery in.
    ///
    /// # Errors
    /// When it breaks the protocol. Nothing of its messages is given out then.
    pub(super) fn handle_delivery(&mut self, bytes: Bytes) -> Result<Taken, SubscribeError> {
        let mut entries = self.spare.take();
        let mut damaged = None;
        // Made once: each new one looks up what the processor can do.
        let fresh = crc32fast::Hasher::new();
        let rest = scan_delivery(&bytes, |message, content, fields| {
            if damaged.is_none() {
                let actual = checksum(&fresh, content, &fields);
                if actual == fields.crc32 {
                    entries.push(Entry { message, fields });
                } else {
                    damaged = Some((fields, actual));
                }
            }
        });
        let rest = rest.map_err(|error| SubscribeError::InvalidDelivery(error.to_string()))?;
        let messages = entries.len() as u64;
        let error = damaged.map(|(fields, actual)| SubscribeError::Corrupted {
            vbucket: VBucketId(u16::try_from(fields.vbucket).unwrap_or(u16::MAX)),
            offset: Offset(fields.offset),
            expected: fields.crc32,
            actual,
        });
        let mut batch = Batch { bytes, entries, gaps: Vec::new(), spare: Arc::clone(&self.spare) };
        self.apply(&rest, &mut batch, error.is_some()).map_err(violation)?;
        let is_empty = batch.entries.is_empty() && batch.gaps.is_empty();
        Ok(Taken { batch: (!is_empty).then_some(batch), messages, error })
    }

    fn apply(&mut self, rest: &[u8], batch: &mut Batch, is_damaged: bool) -> Result<(), Refused> {
        // Most deliveries are messages and nothing else.
        let rest = match rest {
            [] => v1::Delivery::default(),
            rest => v1::Delivery::decode(rest).map_err(|error| Refused::Other(error.to_string()))?,
        };
        if let Some(confirmed) = &rest.confirmed {
            self.cursors.handle_confirmed(confirmed)?;
            self.is_confirmed = true;
        }
        if !self.is_confirmed {
            return Err(Refused::Other("a delivery before the confirmation".to_owned()));
        }
        self.cursors.check(&rest, batch.entries.iter().map(|entry| entry.fields.vbucket).max())?;
        for gap in &rest.gaps {
            batch.gaps.extend(self.cursors.apply_gap(gap));
        }
        batch.entries.retain(|Entry { fields, .. }| {
            self.cursors.admit(fields.vbucket, fields.epoch, fields.offset) == Admission::Fresh
        });
        // A cursor counts behind all messages of the delivery, so behind the damaged one too.
        if !is_damaged {
            rest.cursors.iter().for_each(|cursor| self.cursors.apply_cursor(cursor));
        }
        Ok(())
    }

    /// The positions before what is left of a batch from these places on, or, without one, the positions.
    pub(super) fn positions(&self, left: Option<(&Batch, usize, usize)>) -> Option<v1::Resume> {
        let gaps = left.iter().flat_map(|(batch, gap, _)| batch.gaps.iter().skip(*gap).rev());
        let gaps = gaps.map(|(gap, before)| (gap.vbucket, *before));
        let messages = left.iter().flat_map(|(batch, _, message)| batch.entries.iter().skip(*message).rev());
        // The earliest of a vbucket has to win, so the order is reversed: messages from the last to the first, then
        // gaps.
        self.cursors.positions(messages.filter_map(|entry| self.before(entry)).chain(gaps))
    }

    fn before(&self, entry: &Entry) -> Option<(VBucketId, Slot)> {
        let vbucket = VBucketId(u16::try_from(entry.fields.vbucket).ok()?);
        Some((vbucket, self.cursors.slot(vbucket).before_message(entry.fields.epoch, entry.fields.offset)))
    }
}

/// The CRC-32 over key_partition, key and payload.
#[inline]
fn checksum(fresh: &crc32fast::Hasher, message: &[u8], fields: &Fields) -> u32 {
    let mut crc = fresh.clone();
    crc.update(fields.key_partition.of(message));
    crc.update(fields.key.of(message));
    crc.update(fields.payload.of(message));
    crc.finalize()
}

/// Why a delivery was refused.
enum Refused {
    Violation(Violation),
    Other(String),
}

impl From<Violation> for Refused {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

fn violation(refused: Refused) -> SubscribeError {
    match refused {
        Refused::Violation(foreign @ Violation::Foreign { .. }) => SubscribeError::ForeignCluster(foreign.to_string()),
        Refused::Violation(violation) => SubscribeError::InvalidDelivery(violation.to_string()),
        Refused::Other(words) => SubscribeError::InvalidDelivery(words),
    }
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
