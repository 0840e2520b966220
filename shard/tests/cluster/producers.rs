//! Producers that push one message after the other until each is committed, whatever happens in between.

use broky_proto::v1::{self, Acks};
use bytes::Bytes;

use crate::ledger::Id;

/// What a message's key begins with, by which readers choose.
pub(crate) fn tag_of(id: Id) -> u8 {
    if id.is_multiple_of(3) { b'a' } else { b'b' }
}

/// A message on its way.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) id: Id,
    pub(crate) key: Bytes,
    pub(crate) sequence: u64,
}

pub(crate) struct Producer {
    pub(crate) id: u64,
    sequence: u64,
    epoch: u32,
    /// Pushed and not committed, in order.
    pub(crate) unsettled: Vec<Message>,
    /// The ticket and the node of the attempt at hand.
    pub(crate) attempt: Option<(u64, usize)>,
    /// Bytes behind each message's number.
    padding: usize,
}

fn payload(id: Id, padding: usize) -> Bytes {
    let mut payload = id.to_be_bytes().to_vec();
    payload.resize(8 + padding, 0);
    payload.into()
}

impl Producer {
    pub(crate) fn new(id: u64, padding: usize) -> Self {
        Self { id, sequence: 0, epoch: 0, unsettled: Vec::new(), attempt: None, padding }
    }

    pub(crate) fn add(&mut self, id: Id, key: Bytes) {
        self.sequence += 1;
        self.unsettled.push(Message { id, key, sequence: self.sequence });
    }

    /// A request of everything unsettled, as far as sequences follow one another.
    pub(crate) fn request(&mut self) -> v1::PushRequest {
        self.epoch += 1;
        let first = self.unsettled[0].sequence;
        let run = self.unsettled.iter().zip(first..).take_while(|(message, sequence)| message.sequence == *sequence);
        let messages = run.map(|(message, _)| v1::Message {
            key: message.key.clone(),
            payload: payload(message.id, self.padding),
            ..v1::Message::default()
        });
        v1::PushRequest {
            messages: messages.collect(),
            acks: Acks::Committed.into(),
            producer_id: self.id,
            sequence: first,
            want_positions: true,
            producer_epoch: self.epoch,
        }
    }
}
