//! A subscriber, as the protocol describes one: it keeps a position per vbucket and nothing else.

use std::collections::BTreeMap;

use broky_delivery::SubscriptionId;
use broky_proto::error::Refusal;
use broky_proto::frame::prefix;
use broky_proto::id::{Token, VBucketCount};
use broky_proto::v1::{self, ErrorCode, GapReason, OnSlow};
use bytes::Bytes;
use prost::Message as _;

use crate::log::{EPOCH, LINEAGE, Logs, is_wanted};

/// What a shard's readers can see of a vbucket.
pub(crate) type Bounds = (u64, u64);

/// What the reader is told next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// The confirmation.
    Opened,
    Reading,
    /// It was skipped and asked to be ended in that case.
    Skipped,
    /// Not subscribed; it may resume.
    Closed,
}

pub(crate) struct Reader {
    pub(crate) open: v1::Open,
    pub(crate) shard: usize,
    pub(crate) id: Option<SubscriptionId>,
    pub(crate) state: State,
    /// Per vbucket that it wants: the first offset it knows nothing about.
    pub(crate) positions: BTreeMap<usize, u64>,
    /// Messages it allows; `None` without flow control.
    pub(crate) credit: Option<u64>,
    /// It got `Pending` and was not woken since.
    pub(crate) is_asleep: bool,
    /// It reads after each flush and must miss nothing.
    pub(crate) keeps_up: bool,
    pub(crate) received: u64,
    pub(crate) missed: u64,
    /// Per vbucket: what could be seen when it was opened.
    opened: Vec<Bounds>,
    vbuckets: VBucketCount,
}

impl Reader {
    pub(crate) fn new(open: v1::Open, shard: usize, id: SubscriptionId, opened: Vec<Bounds>) -> Self {
        let credit = (open.credit > 0).then_some(open.credit);
        Self {
            open,
            shard,
            id: Some(id),
            state: State::Opened,
            positions: BTreeMap::new(),
            credit,
            is_asleep: false,
            keeps_up: false,
            received: 0,
            missed: 0,
            vbuckets: VBucketCount::new(u32::try_from(opened.len()).unwrap()).unwrap(),
            opened,
        }
    }

    /// The same reader goes on under another subscription.
    pub(crate) fn resumed(&mut self, open: v1::Open, shard: usize, id: SubscriptionId, opened: Vec<Bounds>) {
        let next = Self::new(open, shard, id, opened);
        *self = Self { positions: std::mem::take(&mut self.positions), ..next };
    }

    /// Takes one frame. `bounds` are those of the vbuckets at the shard that sent it.
    pub(crate) fn take(&mut self, frame: &Bytes, logs: &Logs, bounds: impl Fn(usize) -> Bounds) {
        assert_eq!(frame[..5], prefix(frame.len() - 5), "the gRPC prefix tells the length");
        let delivery = v1::Delivery::decode(frame.slice(5..)).unwrap();
        let is_first = self.state == State::Opened;
        assert_eq!(delivery.confirmed.is_some(), is_first, "the first delivery, and no other, confirms");
        match self.state {
            State::Opened => self.state = State::Reading,
            State::Reading => {}
            State::Skipped | State::Closed => panic!("a frame after the end: {:?}", self.state),
        }
        if let Some(confirmed) = &delivery.confirmed {
            assert!(delivery.messages.is_empty(), "nothing comes with the confirmation");
            assert_eq!(confirmed.vbuckets, u32::from(self.vbuckets.get()));
            self.check_start(&delivery.cursors);
        }
        for gap in &delivery.gaps {
            self.take_gap(gap, is_first, logs, &bounds);
        }
        for message in &delivery.messages {
            self.take_message(message, logs, &bounds);
        }
        for cursor in &delivery.cursors {
            self.take_cursor(cursor, logs, &bounds);
        }
    }

    /// Takes the end.
    pub(crate) fn end(&mut self, refusal: &Refusal) {
        assert_eq!((self.state, refusal.code), (State::Skipped, ErrorCode::SlowSubscriber), "{refusal}");
    }

    /// Fails unless the reader has everything it wants below the end.
    pub(crate) fn check_drained(&self, logs: &Logs, bounds: impl Fn(usize) -> Bounds) {
        for (vbucket, position) in &self.positions {
            self.check_unwanted(*vbucket, *position, bounds(*vbucket).1, logs, "was read to the end without them");
        }
    }

    /// The cursors to resume from.
    pub(crate) fn cursors(&self) -> Vec<v1::Cursor> {
        let cursor = |(vbucket, offset): (&usize, &u64)| v1::Cursor {
            vbucket: u32::try_from(*vbucket).unwrap(),
            lineage: LINEAGE,
            epoch: EPOCH,
            offset: *offset,
        };
        self.positions.iter().map(cursor).collect()
    }

    /// The confirmation tells every vbucket that can be wanted, and starts where it was asked to.
    fn check_start(&mut self, cursors: &[v1::Cursor]) {
        let partitions = self.open.key_partitions.iter();
        let narrowed: Vec<u16> = partitions.map(|kp| self.vbuckets.vbucket_of(Token::of(kp, kp)).0).collect();
        let wanted = self.vbuckets.iter().filter(|vbucket| narrowed.is_empty() || narrowed.contains(&vbucket.0));
        let told = cursors.iter().map(|cursor| cursor.vbucket);
        assert!(wanted.map(|vbucket| u32::from(vbucket.0)).eq(told), "a cursor for each vbucket that can be wanted");
        for cursor in cursors {
            let vbucket = cursor.vbucket as usize;
            let (start, end) = self.opened[vbucket];
            match self.open.start.as_ref().and_then(|start| start.start.as_ref()) {
                None | Some(v1::start::Start::Live(_)) => assert_eq!(cursor.offset, end),
                Some(v1::start::Start::Earliest(_)) => assert_eq!(cursor.offset, start),
                Some(v1::start::Start::Resume(_)) => {
                    let position = self.positions.get(&vbucket).copied();
                    assert_eq!(cursor.offset, position.map_or(end, |position| position.max(start)));
                }
            }
            self.positions.entry(vbucket).or_insert(cursor.offset);
        }
    }

    fn take_gap(&mut self, gap: &v1::Gap, is_first: bool, logs: &Logs, bounds: &impl Fn(usize) -> Bounds) {
        let vbucket = gap.vbucket as usize;
        let reason = if is_first { GapReason::Evicted } else { GapReason::Slow };
        let start = if is_first { self.opened[vbucket].0 } else { bounds(vbucket).0 };
        assert_eq!((gap.lineage, gap.reason()), (LINEAGE, reason));
        assert!(gap.from < gap.to, "an empty gap: {gap:?}");
        assert_eq!(gap.to, start, "a gap ends where the log starts");
        assert!(!self.keeps_up, "a reader that keeps up missed {gap:?}");
        self.move_to(vbucket, gap.from, logs, "before a gap");
        self.move_over(vbucket, gap.to);
        self.missed += gap.to - gap.from;
        if !is_first && self.open.on_slow() == OnSlow::Disconnect {
            self.state = State::Skipped;
        }
    }

    fn take_message(&mut self, message: &v1::Message, logs: &Logs, bounds: &impl Fn(usize) -> Bounds) {
        let (vbucket, offset) = (message.vbucket as usize, message.offset);
        let stored = logs.at(vbucket, offset).unwrap_or_else(|| panic!("{vbucket}/{offset} was never stored"));
        assert!(message == stored, "{vbucket}/{offset} is not what was stored there");
        assert!(is_wanted(&self.open.patterns, &self.open.key_partitions, message), "{vbucket}/{offset} is not wanted");
        assert!(offset < bounds(vbucket).1, "{vbucket}/{offset} is not committed");
        self.move_to(vbucket, offset, logs, "before a message");
        self.move_over(vbucket, offset + 1);
        self.received += 1;
        if let Some(credit) = &mut self.credit {
            *credit = credit.checked_sub(1).expect("no more messages than credit");
        }
    }

    fn take_cursor(&mut self, cursor: &v1::Cursor, logs: &Logs, bounds: &impl Fn(usize) -> Bounds) {
        let vbucket = cursor.vbucket as usize;
        assert_eq!((cursor.lineage, cursor.epoch), (LINEAGE, EPOCH));
        // Where a reader begins may be ahead of what its shard has heard of another's log.
        let may_be_ahead = self.positions.get(&vbucket) == Some(&cursor.offset);
        assert!(may_be_ahead || cursor.offset <= bounds(vbucket).1, "a cursor ahead of the log: {cursor:?}");
        self.move_to(vbucket, cursor.offset, logs, "before a cursor");
    }

    /// Moves over messages that must not be wanted.
    fn move_to(&mut self, vbucket: usize, to: u64, logs: &Logs, what: &str) {
        let position = self.position(vbucket);
        assert!(position <= to, "vbucket {vbucket}: {to} {what} lies behind {position}");
        self.check_unwanted(vbucket, position, to, logs, what);
        self.move_over(vbucket, to);
    }

    fn move_over(&mut self, vbucket: usize, to: u64) {
        self.positions.insert(vbucket, to);
    }

    fn position(&self, vbucket: usize) -> u64 {
        *self.positions.get(&vbucket).unwrap_or_else(|| panic!("vbucket {vbucket} cannot be wanted"))
    }

    fn check_unwanted(&self, vbucket: usize, from: u64, to: u64, logs: &Logs, what: &str) {
        for message in logs.range(vbucket, from, to) {
            let is_wanted = is_wanted(&self.open.patterns, &self.open.key_partitions, message);
            assert!(!is_wanted, "{vbucket}/{} was skipped without a word ({what})", message.offset);
        }
    }
}
