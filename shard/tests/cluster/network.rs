//! Links between shards: bytes in both directions, in order, as long as they stand.

use std::collections::{BTreeMap, VecDeque};

use broky_proto::data_v1::{to_follower, to_leader};
use broky_proto::frame::Deframer;
use broky_proto::id::Member;
use broky_proto::replicate::{FRAME_BYTES_MAX, decode_to_follower, decode_to_leader};
use broky_shard::{Frame, InboundId, SessionId};
use bytes::{BufMut, Bytes, BytesMut};

/// One link, from a leader to a follower.
pub(crate) struct Link {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) inbound: InboundId,
    pub(crate) member: Member,
    down: VecDeque<Bytes>,
    up: VecDeque<Bytes>,
}

#[derive(Default)]
pub(crate) struct Network {
    pub(crate) links: BTreeMap<SessionId, Link>,
    next: u64,
}

pub(crate) fn joined(frame: &Frame) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_slice(&frame.head);
    bytes.put_slice(&frame.body);
    bytes.freeze()
}

pub(crate) fn deframed(bytes: Bytes) -> Bytes {
    let mut deframer = Deframer::new(FRAME_BYTES_MAX);
    deframer.push(bytes);
    let message = deframer.next_message().unwrap().unwrap();
    deframer.finish().unwrap();
    message
}

impl Network {
    pub(crate) fn open(&mut self, from: usize, to: usize, member: Member) -> (SessionId, InboundId) {
        self.next += 1;
        let (session, inbound) = (SessionId(self.next), InboundId(self.next));
        let link = Link { from, to, inbound, member, down: VecDeque::new(), up: VecDeque::new() };
        self.links.insert(session, link);
        (session, inbound)
    }

    pub(crate) fn send_down(&mut self, session: SessionId, frame: &Frame) {
        if let Some(link) = self.links.get_mut(&session) {
            link.down.push_back(joined(frame));
        }
    }

    pub(crate) fn send_up(&mut self, inbound: InboundId, frame: &Frame) {
        if let Some(link) = self.links.values_mut().find(|link| link.inbound == inbound) {
            link.up.push_back(joined(frame));
        }
    }

    /// The next frame for the follower.
    pub(crate) fn next_down(&mut self, session: SessionId) -> Option<to_follower::Frame> {
        let bytes = self.links.get_mut(&session)?.down.pop_front()?;
        Some(decode_to_follower(deframed(bytes)).unwrap())
    }

    /// The next frame for the leader.
    pub(crate) fn next_up(&mut self, session: SessionId) -> Option<to_leader::Frame> {
        let bytes = self.links.get_mut(&session)?.up.pop_front()?;
        Some(decode_to_leader(deframed(bytes)).unwrap())
    }
}
