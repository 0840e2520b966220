//! One subscription: its interest and where it stands in each feed.

use std::collections::VecDeque;
use std::sync::Arc;

use broky_proto::error::Refusal;
use broky_proto::id::{Offset, VBucketId};
use broky_proto::v1::{OnSlow, Open};
use broky_proto::wire::Fields;
use bytes::Bytes;

use crate::feed::{BlockSeq, FeedId};
use crate::fill::Filling;
use crate::interest::InterestId;

/// A subscription's handle. Never names another subscription, even after this one has ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SubscriptionId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl SubscriptionId {
    /// A small number that no other *open* subscription has, for tables beside this one.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// Where a reader stands in a feed.
#[derive(Clone, Debug)]
pub(crate) enum Position {
    /// Has everything; stands at this place of its interest's list of live readers.
    Live { at: u32 },
    /// Reads this block next, without the first `skip` messages it wants of it.
    Behind { next: BlockSeq, skip: u32 },
    /// What it would read next was evicted. Per vbucket: the first offset it has not been sent.
    Overtaken { from: Arc<[Offset]> },
}

/// What a reader wants that does not begin at the end: offsets from some on, and of what came before it was opened only
/// the logs held here.
#[derive(Debug)]
pub(crate) struct Resuming {
    /// Per vbucket: offsets below are not wanted.
    pub(crate) from: Vec<Offset>,
    /// Per vbucket: offsets from here on are not wanted; the subscription ends when there is nothing more.
    pub(crate) to: Option<Vec<Offset>>,
    /// Per feed: blocks below are history.
    pub(crate) opened_at: Vec<BlockSeq>,
    /// Per vbucket: of history, the first block that can be of its log. [`AWAITED`]: nothing of it is wanted.
    pub(crate) since: Vec<BlockSeq>,
    /// Per feed: from this block on, everything is wanted. [`AWAITED`]: from some block on that has not come yet.
    pub(crate) until: Vec<BlockSeq>,
}

/// What a reader that is not at the end wants of one block.
#[derive(Clone, Copy)]
pub(crate) struct WantsAt<'a> {
    pub(crate) resuming: &'a Resuming,
    pub(crate) seq: BlockSeq,
    pub(crate) is_history: bool,
}

impl Resuming {
    pub(crate) fn applies(&self, feed: FeedId) -> bool {
        self.until.get(usize::from(feed.0)).is_some_and(|until| *until > BlockSeq(0))
    }

    pub(crate) fn start_of(&self, vbucket: VBucketId) -> Offset {
        self.from.get(usize::from(vbucket.0)).copied().unwrap_or_default()
    }

    pub(crate) fn end_of(&self, vbucket: VBucketId) -> Offset {
        let end = self.to.as_ref().map(|to| to.get(usize::from(vbucket.0)).copied().unwrap_or_default());
        end.unwrap_or(Offset(u64::MAX))
    }

    fn is_history(&self, feed: FeedId, seq: BlockSeq) -> bool {
        self.opened_at.get(usize::from(feed.0)).is_some_and(|opened_at| seq < *opened_at)
    }

    /// The logs that are read as history at a block, if it is.
    pub(crate) fn history_at(&self, feed: FeedId, seq: BlockSeq) -> Option<&[BlockSeq]> {
        (self.applies(feed) && self.is_history(feed, seq)).then_some(&self.since)
    }

    pub(crate) fn wants_at(&self, feed: FeedId, seq: BlockSeq) -> WantsAt<'_> {
        WantsAt { resuming: self, seq, is_history: self.is_history(feed, seq) }
    }

    /// Offsets that have to be readable before the reader is done.
    pub(crate) fn awaited(&self) -> &[Offset] {
        self.to.as_deref().unwrap_or(&self.from)
    }
}

impl WantsAt<'_> {
    pub(crate) fn wants_vbucket(&self, vbucket: VBucketId) -> bool {
        let since = self.resuming.since.get(usize::from(vbucket.0)).copied().unwrap_or_default();
        !self.is_history || self.seq >= since
    }

    pub(crate) fn wants(&self, fields: &Fields) -> bool {
        let vbucket = u16::try_from(fields.vbucket).map(VBucketId).unwrap_or_default();
        fields.offset >= self.resuming.start_of(vbucket).0
            && fields.offset < self.resuming.end_of(vbucket).0
            && self.wants_vbucket(vbucket)
    }
}

/// Stands for a block that has not come yet.
pub(crate) const AWAITED: BlockSeq = BlockSeq(u64::MAX);

#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) generation: u32,
    pub(crate) interest: InterestId,
    /// Of a client of this node, not of another node for one of its clients.
    pub(crate) is_local: bool,
    /// What was asked for, until it can begin.
    pub(crate) opening: Option<Box<Open>>,
    /// What has to come from other nodes before the feeds are read.
    pub(crate) filling: Option<Box<Filling>>,
    /// Has everything it asked for.
    pub(crate) is_done: bool,
    /// Per feed; empty while it has not begun.
    pub(crate) positions: Vec<Position>,
    pub(crate) resuming: Option<Box<Resuming>>,
    /// Framed deliveries that go before any message; at most a confirmation.
    pub(crate) control: VecDeque<Bytes>,
    /// Messages that may still be sent; `None`: as many as the transport takes.
    pub(crate) credit: Option<u64>,
    pub(crate) on_slow: OnSlow,
    pub(crate) ended: Option<Refusal>,
    pub(crate) heartbeat_due: bool,
    /// The feeds' bytes when the cursors were last sent.
    pub(crate) cursors_at_bytes: u64,
    /// Heartbeats since the cursors were last sent.
    pub(crate) heartbeats_since_cursors: u32,
    /// The feed to look at first.
    pub(crate) turn: u16,
    /// The block last handed to the transport, which may still hold it. Copies do not count: they hold no block.
    pub(crate) in_transport: Option<(FeedId, BlockSeq)>,
    /// The transport asked for more and there was nothing: so it had room, and is not what holds the reader up.
    pub(crate) is_waiting: bool,
    /// Ended because its transport holds memory; it does so until the subscription is closed.
    pub(crate) is_cut: bool,
}

impl Subscription {
    pub(crate) fn may_send(&self) -> bool {
        self.credit != Some(0)
    }

    /// Messages that one delivery may hold.
    pub(crate) fn allowance(&self) -> u64 {
        self.credit.unwrap_or(u64::MAX)
    }

    pub(crate) fn spend(&mut self, messages: u32) {
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_sub(u64::from(messages));
        }
    }

    /// Whether it was told where it begins, or is about to be.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.opening.is_none() && self.filling.as_ref().is_none_or(|filling| !filling.is_unconfirmed())
    }

    pub(crate) fn is_live(&self) -> bool {
        self.positions.iter().all(|position| matches!(position, Position::Live { .. }))
    }
}
