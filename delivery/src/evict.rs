//! Eviction: what happens to readers when the blocks they have not read leave the memory.
//!
//! A reader that is overtaken must be told exactly what it missed, long after those blocks are gone. What it has not
//! been sent begins, in every vbucket, where the log started just before the first evicted block it had not read, or
//! where the first note of a gap begins that it had not come to. So that vector of starts is kept, once for all readers
//! overtaken at the same block, and the gap is worked out when the reader comes back: from there to where the log, or a
//! note, starts by then.

use std::sync::Arc;

use broky_proto::error::Refusal;
use broky_proto::id::{Offset, VBucketId};
use broky_proto::v1::{self, ErrorCode};
use broky_proto::wire::{Fields, stored_messages};

use crate::delivery::Delivery;
use crate::feed::{Block, BlockSeq, Feed, FeedId};
use crate::poll::wanted_pieces;
use crate::subscription::{Position, SubscriptionId};
use crate::view::{Kind, View};

pub(crate) fn vbucket_of(gap: &v1::Gap) -> VBucketId {
    u16::try_from(gap.vbucket).map(VBucketId).unwrap_or_default()
}

impl Delivery {
    /// Evicts the oldest block of a feed; hands it to `on_evicted` so that its owner can account for it. What is
    /// relayed or a note of a gap is [`Kind::Relayed`].
    ///
    /// Returns whether there was one.
    pub fn evict_oldest(&mut self, feed: FeedId, on_evicted: impl FnOnce(Kind, &Block)) -> bool {
        let Some(source) = self.feeds.get(usize::from(feed.0)) else { return false };
        let oldest = source.oldest();
        if oldest == source.tail() {
            return false;
        }
        if source.behind_floor <= oldest {
            self.overtake(feed, oldest);
        }
        let evicted = self.feeds.get_mut(usize::from(feed.0)).and_then(|source| source.pop());
        let Some((kind, block)) = evicted else { return false };
        for run in block.runs.iter() {
            if let Some(view) = self.views.get_mut(usize::from(run.vbucket.0)) {
                view.evict(run, oldest);
            }
        }
        on_evicted(kind, &block);
        true
    }

    /// Marks every reader that would read `oldest` next as overtaken, and finds the floor of the others.
    fn overtake(&mut self, feed: FeedId, oldest: BlockSeq) {
        let mut floor = self.tail(feed);
        let mut shared: Option<Arc<[Offset]>> = None;
        let mut overtaken = Vec::new();
        for (index, subscription) in &self.subscriptions {
            match subscription.positions.get(usize::from(feed.0)) {
                Some(Position::Behind { next, skip }) if *next <= oldest => overtaken.push((index, *skip)),
                Some(Position::Behind { next, .. }) => floor = floor.min(*next),
                Some(Position::Live { .. } | Position::Overtaken { .. }) | None => {}
            }
        }
        for (index, skip) in overtaken {
            let resuming = self.subscriptions.get(index).and_then(|it| it.resuming.as_deref());
            let history = resuming.and_then(|resuming| Some((resuming, resuming.history_at(feed, oldest)?)));
            let from = match history {
                // History is not read by what was seen: a note of what lies before all of it may stand behind.
                Some((resuming, since)) => {
                    self.starts_of(Some(since), |gap| Offset(gap.to) > resuming.start_of(vbucket_of(gap)))
                }
                None => shared.get_or_insert_with(|| self.starts_of(None, |_| true)).clone(),
            };
            let from = if skip > 0 { self.after_part(index, feed, oldest, skip, &from) } else { from };
            if let Some(subscription) = self.subscriptions.get_mut(index)
                && let Some(position) = subscription.positions.get_mut(usize::from(feed.0))
            {
                *position = Position::Overtaken { from };
            }
        }
        if let Some(source) = self.feeds.get_mut(usize::from(feed.0)) {
            source.behind_floor = floor;
        }
    }

    /// Where that begins, per vbucket, which a reader gets who goes on at the oldest block: of a log that it reads as
    /// history, what the log holds, whatever those missed who read what was relayed; of others what is seen, or where a
    /// note of a gap that counts begins, if that is before.
    pub(crate) fn starts_of(&self, history: Option<&[BlockSeq]>, counts: impl Fn(&v1::Gap) -> bool) -> Arc<[Offset]> {
        let is_history = |at: usize, view: &View| history.and_then(|since| since.get(at)) == Some(&view.since);
        let start = |(at, view)| if is_history(at, view) { view.log.start } else { view.seen().start };
        let mut starts: Vec<Offset> = self.views.iter().enumerate().map(start).collect();
        for gap in self.feeds.iter().flat_map(Feed::gaps).filter(|gap| counts(gap)) {
            let at = gap.vbucket as usize;
            if let (Some(start), Some(view)) = (starts.get_mut(at), self.views.get(at))
                && !is_history(at, view)
            {
                *start = (*start).min(Offset(gap.from));
            }
        }
        starts.into()
    }

    /// The log starts `from`, moved behind the first `skip` messages that the reader was sent of `seq`.
    fn after_part(&self, index: usize, feed: FeedId, seq: BlockSeq, skip: u32, from: &[Offset]) -> Arc<[Offset]> {
        let mut from = from.to_vec();
        let slot = self.feeds.get(usize::from(feed.0)).and_then(|source| source.slot(seq));
        let subscription = self.subscriptions.get(index);
        let interest = subscription.and_then(|subscription| self.interest_of(subscription));
        if let (Some(slot), Some(subscription), Some(interest)) = (slot, subscription, interest) {
            let resuming = subscription.resuming.as_deref().filter(|resuming| resuming.applies(feed));
            let wanted = resuming.map(|resuming| resuming.wants_at(feed, seq));
            for piece in wanted_pieces(interest, &slot.block, wanted).iter().take(skip as usize) {
                let start = piece.start as usize;
                let stored = slot.block.framed.get(start..start + piece.len as usize).unwrap_or_default();
                let sent = stored_messages(stored).flatten().filter_map(|(_, message)| Fields::scan(message).ok());
                for fields in sent {
                    if let Some(from) = from.get_mut(fields.vbucket as usize) {
                        *from = Offset(fields.offset).plus(1);
                    }
                }
            }
        }
        from.into()
    }

    /// Readers to cut off so that the oldest evicted blocks of a feed that transports hold, up to `through`, are let
    /// go.
    ///
    /// A transport that asked for more and is still waiting lets go of what it was given by itself. So its reader goes
    /// only when there is no other, and never where readers of other feeds' shards may be the ones that hold them. None
    /// goes while one that was cut off is not closed: what it holds is still to come.
    #[must_use]
    pub fn holders_of_evicted(&self, feed: FeedId, through: BlockSeq) -> Vec<SubscriptionId> {
        let oldest = self.oldest(feed);
        let mut holders: Vec<(bool, BlockSeq, SubscriptionId)> = Vec::new();
        for (index, subscription) in &self.subscriptions {
            if let Some((held_feed, seq)) = subscription.in_transport
                && held_feed == feed
                && seq < oldest
            {
                if subscription.is_cut {
                    return Vec::new();
                }
                #[expect(clippy::cast_possible_truncation, reason = "bounded by SUBSCRIPTIONS_MAX")]
                let id = SubscriptionId { index: index as u32, generation: subscription.generation };
                holders.push((subscription.is_waiting, seq, id));
            }
        }
        holders.sort_unstable();
        // Of several blocks in a transport only the last is known: the oldest holder goes, whatever it was given since.
        let Some((is_waiting, first, _)) = holders.first().copied() else { return Vec::new() };
        if is_waiting && self.config.feeds > 1 {
            return Vec::new();
        }
        let through = through.max(first);
        let oldest = holders.into_iter().take_while(|holder| holder.0 == is_waiting && holder.1 <= through);
        oldest.map(|(_, _, id)| id).collect()
    }

    /// Ends a reader because its transport holds memory that the node needs.
    pub fn end_for_memory(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscription_mut(id) else { return };
        let reason = "the stalled subscriber held memory the node needs";
        subscription.ended = Some(Refusal::new(ErrorCode::MemoryPressure, reason));
        subscription.is_cut = true;
        self.stats.slow_ended += 1;
    }

    /// Where the log held here of a vbucket starts and ends, as far as it is committed.
    #[must_use]
    pub fn bounds(&self, vbucket: VBucketId) -> Option<(Offset, Offset)> {
        self.views.get(usize::from(vbucket.0)).map(|view| (view.log.start, view.log.end))
    }
}
