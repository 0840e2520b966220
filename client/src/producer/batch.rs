//! One batch: the bytes of its messages, and what is known about them.

use std::sync::Arc;

use broky_proto::frame::{PREFIX_LEN, prefix};
use broky_proto::id::{ProducerEpoch, Sequence, Token};
use broky_proto::wire::scan_push;
use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::error::PushError;
use super::numbering::Numbering;
use super::options::ProducerOptions;
use super::ticket::{Outcomes, Settled};
use crate::encode::{Encoder, OPTIONS_BYTES_MAX, Options, append_options, set_epoch};

/// Buffers kept for the next batches, at most.
const SPARE_MAX: usize = 8;

/// Buffers of settled batches, to be used again: a batch costs no allocation of its size, and its memory is warm.
#[derive(Default, Debug)]
pub(crate) struct Spare(Vec<Vec<u8>>);

impl Spare {
    /// An empty buffer with room for a batch of `batch_bytes_max` and its frame.
    fn take(&mut self, batch_bytes_max: usize) -> Vec<u8> {
        let mut buffer =
            self.0.pop().unwrap_or_else(|| Vec::with_capacity(PREFIX_LEN + batch_bytes_max + OPTIONS_BYTES_MAX));
        buffer.extend_from_slice(&[0; PREFIX_LEN]);
        buffer
    }

    fn give(&mut self, mut buffer: Vec<u8>, batch_bytes_max: usize) {
        // A buffer that grew for one large message is not kept for small ones.
        if self.0.len() < SPARE_MAX && buffer.capacity() <= 2 * (PREFIX_LEN + batch_bytes_max + OPTIONS_BYTES_MAX) {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

#[derive(Debug)]
enum Body {
    /// Room for the prefix, and messages. Not sent yet, and without a sequence.
    Open(Vec<u8>),
    /// A framed request. But for its epoch it is the same at each attempt.
    Framed(Bytes),
    /// Settled.
    Gone,
}

/// A run of messages that travel together. Counts are of messages, `charge` is in bytes.
#[derive(Debug)]
pub(crate) struct Batch {
    body: Body,
    /// Of its first message, once it was sent.
    sequence: Option<Sequence>,
    pub(super) messages: u32,
    /// Messages without an outcome.
    pub(super) unsettled: u32,
    /// What it takes of the in-flight window.
    pub(super) charge: usize,
    pub(super) deadline: Instant,
    pub(super) outcomes: Arc<Outcomes>,
    /// Whether an attempt may have stored messages without our having heard of it.
    pub(super) is_in_doubt: bool,
    /// The last refusal of one of its messages that asked for a retry.
    pub(super) refusal: Option<PushError>,
}

impl Batch {
    pub(super) fn new(spare: &mut Spare, batch_bytes_max: usize, deadline: Instant) -> Self {
        Self {
            body: Body::Open(spare.take(batch_bytes_max)),
            sequence: None,
            messages: 0,
            unsettled: 0,
            charge: 0,
            deadline,
            outcomes: Arc::default(),
            is_in_doubt: false,
            refusal: None,
        }
    }

    /// Appends a message; returns its index.
    ///
    /// # Panics
    /// When the batch was sent already.
    #[inline]
    pub(super) fn append(&mut self, message: &Encoder<'_>) -> u32 {
        let Body::Open(buffer) = &mut self.body else { panic!("only a batch that was never sent grows") };
        message.append(buffer);
        let index = self.messages;
        self.messages += 1;
        self.unsettled += 1;
        self.charge += message.field_len();
        index
    }

    pub(super) fn was_sent(&self) -> bool {
        !matches!(self.body, Body::Open(_))
    }

    /// The framed request of an attempt in this epoch, numbered when it is asked for the first time.
    ///
    /// # Panics
    /// When the batch is settled: there is nothing to send.
    pub(super) fn request(
        &mut self,
        epoch: ProducerEpoch,
        numbering: &mut Numbering,
        options: &ProducerOptions,
    ) -> Bytes {
        let sequence = *self.sequence.get_or_insert_with(|| numbering.take(self.messages));
        let framed = match std::mem::replace(&mut self.body, Body::Gone) {
            Body::Open(mut buffer) => {
                append_options(
                    &mut buffer,
                    Options {
                        acks: options.acks,
                        producer: numbering.producer(),
                        sequence,
                        want_positions: options.want_positions,
                        epoch,
                    },
                );
                let header = prefix(buffer.len() - PREFIX_LEN);
                if let Some(place) = buffer.first_chunk_mut() {
                    *place = header;
                }
                Bytes::from(buffer)
            }
            Body::Framed(framed) => {
                // The transport may hold what it was given.
                let mut again = framed.try_into_mut().unwrap_or_else(|framed| BytesMut::from(&framed[..]));
                set_epoch(&mut again, epoch);
                again.freeze()
            }
            Body::Gone => panic!("a settled batch is not sent"),
        };
        self.body = Body::Framed(framed.clone());
        framed
    }

    /// The tokens of its messages that have no outcome.
    pub(super) fn unsettled_tokens(&self) -> Vec<Token> {
        let framed: &[u8] = match &self.body {
            Body::Open(buffer) => buffer,
            Body::Framed(framed) => framed,
            Body::Gone => return Vec::new(),
        };
        let Ok(push) = scan_push(framed.get(PREFIX_LEN..).unwrap_or_default(), usize::MAX) else { return Vec::new() };
        let unsettled = push.entries.iter().filter(|entry| !self.outcomes.is_settled(entry.index));
        unsettled.map(|entry| entry.token).collect()
    }

    /// Whether nothing of it is to be sent any more.
    pub(super) fn is_done(&self) -> bool {
        self.unsettled == 0
    }

    /// Settles the messages of this run that have no outcome; returns how many those were.
    pub(super) fn settle_run(&mut self, first: u32, count: u32, outcome: &Settled) -> u32 {
        if count == self.messages && self.unsettled == self.messages {
            return self.settle_rest(outcome.clone());
        }
        let settled = self.outcomes.settle(first, count, self.messages, outcome);
        self.unsettled -= settled;
        settled
    }

    /// Settles every message without an outcome; returns how many those were.
    pub(super) fn settle_rest(&mut self, outcome: Settled) -> u32 {
        self.outcomes.settle_rest(outcome);
        std::mem::take(&mut self.unsettled)
    }

    /// Gives back the memory of a batch that is done. Returns the bytes it took of the window.
    pub(super) fn release_if_done(&mut self, spare: &mut Spare, batch_bytes_max: usize) -> usize {
        if !self.is_done() {
            return 0;
        }
        match std::mem::replace(&mut self.body, Body::Gone) {
            Body::Open(buffer) => spare.give(buffer, batch_bytes_max),
            // The transport has dropped its handle by now, except when the stream broke.
            Body::Framed(framed) => {
                if let Ok(mut buffer) = framed.try_into_mut() {
                    // An empty one becomes a vector without its content being moved onto itself.
                    buffer.clear();
                    spare.give(buffer.into(), batch_bytes_max);
                }
            }
            Body::Gone => {}
        }
        std::mem::take(&mut self.charge)
    }
}
