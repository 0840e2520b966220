//! One subscription: its interest and where it stands in each feed.

use std::collections::VecDeque;
use std::sync::Arc;

use broky_proto::error::Refusal;
use broky_proto::id::Offset;
use broky_proto::v1::OnSlow;
use bytes::Bytes;

use crate::feed::{BlockSeq, FeedId};
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

/// Offsets below which a resuming reader wants nothing.
#[derive(Debug)]
pub(crate) struct Resuming {
    /// Per vbucket.
    pub(crate) from: Vec<Offset>,
    /// Per feed: from this block on, everything is wanted. [`AWAITED`]: from some block on that has not come yet.
    pub(crate) until: Vec<BlockSeq>,
}

/// Stands for a block that has not come yet.
pub(crate) const AWAITED: BlockSeq = BlockSeq(u64::MAX);

#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) generation: u32,
    pub(crate) interest: InterestId,
    /// Per feed.
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

    pub(crate) fn is_live(&self) -> bool {
        self.positions.iter().all(|position| matches!(position, Position::Live { .. }))
    }
}
