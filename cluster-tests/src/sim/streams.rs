//! Connections between parties: frames in order in both directions, with an end that either side learns of late.
//!
//! A party that is paused still takes connections and bytes, as its kernel does; it looks at them when it goes on. One
//! that is dead refuses. Behind a cut nothing arrives, not even the end, until it is mended.

use std::collections::{BTreeMap, VecDeque};

use broky_delivery::{RelayId, SubscriptionId};
use broky_proto::id::Member;
use broky_proto::time::Timestamp;
use broky_shard::{HistoryId, InboundId, SessionId, UpstreamId};
use bytes::Bytes;

use super::network::Place;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct StreamId(pub(super) u64);

/// An end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Dialler,
    Listener,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Listener,
            Self::Listener => Self::Dialler,
        }
    }
}

/// What is under way on a connection.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// The dialler's first words.
    Hello,
    /// The listener takes it.
    Welcome,
    /// Nobody is there, or not the one that was asked for.
    Refused,
    Frame(Bytes),
    /// The reader has taken a frame.
    Room,
    /// Everything was sent.
    Done,
    Closed,
}

/// What a connection is for, and what both ends call it.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Replicate { member: Member, session: SessionId, inbound: InboundId },
    Forward { member: Member },
    Relay { member: Member, upstream: UpstreamId, relay: Option<RelayId> },
    History { member: Member, name: HistoryId, request: Bytes, subscription: Option<SubscriptionId> },
    Push { producer: usize },
    Subscribe { reader: usize, open: Bytes, subscription: Option<SubscriptionId> },
}

/// One end.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) place: Place,
    /// In which of its lives the place took part.
    pub(super) life: u64,
    pub(super) is_open: bool,
    /// What is on its way to this end, and when it comes.
    inbox: VecDeque<(Timestamp, Item)>,
}

/// A connection.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) kind: Kind,
    dialler: End,
    listener: End,
    /// Whether the listener has taken it, as far as the dialler knows.
    pub(super) is_welcome: bool,
    /// Frames on their way that the listener sent and the dialler has not taken.
    pub(super) unread: u64,
}

impl Stream {
    pub(super) fn end(&self, side: Side) -> &End {
        match side {
            Side::Dialler => &self.dialler,
            Side::Listener => &self.listener,
        }
    }

    pub(super) fn end_mut(&mut self, side: Side) -> &mut End {
        match side {
            Side::Dialler => &mut self.dialler,
            Side::Listener => &mut self.listener,
        }
    }

    /// From where to where something passes that comes to this side.
    pub(super) fn way_to(&self, side: Side) -> (Place, Place) {
        (self.end(side.other()).place, self.end(side).place)
    }
}

impl End {
    fn new(place: Place, life: u64) -> Self {
        Self { place, life, is_open: true, inbox: VecDeque::new() }
    }

    /// Puts something on its way, behind everything else; it arrives no earlier than `at`. Gives when it does.
    pub(super) fn put(&mut self, at: Timestamp, item: Item) -> Timestamp {
        let at = self.inbox.back().map_or(at, |(last, _)| at.max(*last));
        self.inbox.push_back((at, item));
        at
    }

    /// What has arrived.
    pub(super) fn take(&mut self, now: Timestamp) -> Option<Item> {
        let is_there = self.inbox.front().is_some_and(|(at, _)| *at <= now);
        is_there.then(|| self.inbox.pop_front()).flatten().map(|(_, item)| item)
    }

    /// Whether something has arrived.
    pub(super) fn has_arrived(&self, now: Timestamp) -> bool {
        self.inbox.front().is_some_and(|(at, _)| *at <= now)
    }

    /// A reset overtakes what is on its way.
    pub(super) fn forget_frames(&mut self) {
        self.inbox.retain(|(_, item)| !matches!(item, Item::Frame(_) | Item::Room | Item::Done));
    }
}

/// All connections.
#[derive(Default)]
pub(super) struct Streams {
    all: BTreeMap<StreamId, Stream>,
    next: u64,
}

impl Streams {
    pub(super) fn open(&mut self, kind: Kind, dialler: (Place, u64), listener: (Place, u64)) -> StreamId {
        self.next += 1;
        let id = StreamId(self.next);
        let (dialler, listener) = (End::new(dialler.0, dialler.1), End::new(listener.0, listener.1));
        self.all.insert(id, Stream { kind, dialler, listener, is_welcome: false, unread: 0 });
        id
    }

    pub(super) fn get(&self, id: StreamId) -> Option<&Stream> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.all.get_mut(&id)
    }

    /// Forgets it when both ends have.
    pub(super) fn forget(&mut self, id: StreamId) {
        if self.all.get(&id).is_some_and(|it| !it.dialler.is_open && !it.listener.is_open) {
            self.all.remove(&id);
        }
    }

    pub(super) fn ids(&self) -> Vec<StreamId> {
        self.all.keys().copied().collect()
    }

    /// The ends at a place.
    pub(super) fn at(&self, place: Place) -> Vec<(StreamId, Side)> {
        let ends = self
            .all
            .iter()
            .flat_map(|(id, it)| [(*id, Side::Dialler, &it.dialler), (*id, Side::Listener, &it.listener)]);
        ends.filter(|(_, _, end)| end.place == place && end.is_open).map(|(id, side, _)| (id, side)).collect()
    }
}
