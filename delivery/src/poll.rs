//! Reading: what a subscription is sent next.
//!
//! A reader pulls. Each call gives one framed delivery, and the transport calls again when it has room. Near the tail
//! the block's matches are at hand; further back, and wherever only a part of a block may go out, the reader matches
//! for itself.

use broky_proto::error::Refusal;
use broky_proto::frame;
use broky_proto::id::{Offset, VBucketCount, VBucketId};
use broky_proto::v1::{self, ErrorCode, GapReason, OnSlow};
use broky_proto::wire::{Fields, stored_messages};
use bytes::Bytes;

use crate::delivery::Delivery;
use crate::evict::vbucket_of;
use crate::feed::{Block, BlockSeq, FeedId};
use crate::fill::Filled;
use crate::interest::Interest;
use crate::matching::{Piece, frame_pieces};
use crate::subscription::{AWAITED, Position, Resuming, Subscription, SubscriptionId, WantsAt};
use crate::view::{Kind, is_fed_by};

/// What a reader gets.
#[derive(Debug)]
pub enum Poll {
    /// A framed delivery to send. There may be more.
    Frame(Bytes),
    /// Nothing now; the reader will be woken.
    Pending,
    /// Nothing yet, but there is more to look through: poll again after the others had their turn.
    Yield,
    /// Everything that was asked for has been sent; close it.
    Done,
    /// The subscription is over; close it.
    Ended(Refusal),
}

/// Bytes of old blocks that one call looks through before others get their turn: 1 MiB.
const SCAN_BYTES_MAX: usize = 1 << 20;
/// Heartbeats after which a filtered reader is told where it stands, if it has moved.
const CURSORS_EVERY_HEARTBEATS: u32 = 60;

/// What one look at one feed gives.
enum Step {
    Frame(Bytes),
    Nothing,
    Yield,
}

impl Delivery {
    /// What a subscription is sent next.
    pub fn poll(&mut self, id: SubscriptionId) -> Poll {
        let Some(subscription) = self.subscription_mut(id) else {
            return Poll::Ended(Refusal::new(ErrorCode::Unspecified, "the subscription is closed"));
        };
        subscription.is_waiting = false;
        if let Some(frame) = subscription.control.pop_front() {
            return self.sent(frame, 0);
        }
        if let Some(ended) = &subscription.ended {
            return Poll::Ended(ended.clone());
        }
        if subscription.opening.is_some() {
            return Poll::Pending;
        }
        if subscription.heartbeat_due && subscription.is_confirmed() {
            subscription.heartbeat_due = false;
            subscription.heartbeats_since_cursors += 1;
            let frame = self.heartbeat(id);
            return self.sent(frame, 0);
        }
        if subscription.filling.is_some() {
            match self.poll_fill(id) {
                Filled::Frame(frame, messages) => return self.sent(frame, messages),
                Filled::Waits => return Poll::Pending,
                Filled::Done => {}
            }
        }
        let Some(subscription) = self.subscription_mut(id) else { return Poll::Pending };
        let turn = subscription.turn;
        let feeds = self.config.feeds;
        let mut yielded = false;
        for feed in (turn..feeds).chain(0..turn).map(FeedId) {
            match self.poll_feed(id, feed) {
                Step::Frame(frame) => {
                    if let Some(subscription) = self.subscription_mut(id) {
                        subscription.turn = (feed.0 + 1) % feeds;
                    }
                    return Poll::Frame(frame);
                }
                Step::Nothing => {}
                Step::Yield => yielded = true,
            }
        }
        if yielded {
            return Poll::Yield;
        }
        match self.subscription_mut(id) {
            Some(subscription) if subscription.is_done => Poll::Done,
            Some(subscription) => {
                subscription.is_waiting = true;
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }

    fn sent(&mut self, frame: Bytes, messages: u32) -> Poll {
        self.count_sent(&frame, messages);
        Poll::Frame(frame)
    }

    fn count_sent(&mut self, frame: &Bytes, messages: u32) {
        self.stats.delivered_messages += u64::from(messages);
        self.stats.delivered_bytes += frame.len() as u64;
    }

    /// The heartbeat, with cursors where the reader has moved far without being sent anything.
    fn heartbeat(&mut self, id: SubscriptionId) -> Bytes {
        let bytes = self.bytes_total();
        let interval = self.config.cursor_interval_bytes;
        let Some(subscription) = self.subscription(id) else { return self.heartbeat.clone() };
        let moved = bytes.saturating_sub(subscription.cursors_at_bytes);
        let is_due = moved >= interval || subscription.heartbeats_since_cursors >= CURSORS_EVERY_HEARTBEATS;
        // A resuming reader may be ahead of what this shard has.
        if moved == 0
            || !is_due
            || !subscription.is_live()
            || subscription.resuming.is_some()
            || subscription.filling.is_some()
        {
            return self.heartbeat.clone();
        }
        let cursors = self.cursors(subscription.interest, |_, view| view.seen().end);
        if let Some(subscription) = self.subscription_mut(id) {
            subscription.cursors_at_bytes = bytes;
            subscription.heartbeats_since_cursors = 0;
        }
        let heartbeat = Some(v1::Heartbeat { map_version: self.map_version.0 });
        frame::encode(&v1::Delivery { cursors, heartbeat, ..v1::Delivery::default() })
    }

    fn poll_feed(&mut self, id: SubscriptionId, feed: FeedId) -> Step {
        if self.is_over(id, feed) {
            return Step::Nothing;
        }
        let Some(subscription) = self.subscription(id) else { return Step::Nothing };
        match subscription.positions.get(usize::from(feed.0)) {
            Some(Position::Overtaken { from }) => {
                let from = from.clone();
                self.report_overtaken(id, feed, &from)
            }
            Some(Position::Behind { next, skip }) if subscription.may_send() => {
                let (next, skip) = (*next, *skip);
                self.read_on(id, feed, next, skip)
            }
            Some(Position::Live { .. }) => {
                self.stop_resuming(id, feed, self.tail(feed));
                Step::Nothing
            }
            Some(Position::Behind { .. }) | None => Step::Nothing,
        }
    }

    /// Looks through a feed from `next` on, until something is found for the reader or the tail is reached.
    fn read_on(&mut self, id: SubscriptionId, feed: FeedId, mut next: BlockSeq, mut skip: u32) -> Step {
        let mut looked_through = 0;
        loop {
            let tail = self.tail(feed);
            if next >= tail {
                self.stop_resuming(id, feed, next);
                self.join_live(id, feed);
                return Step::Nothing;
            }
            if looked_through > SCAN_BYTES_MAX {
                self.set_behind(id, feed, next, skip);
                return Step::Yield;
            }
            self.stop_resuming(id, feed, next);
            if self.is_over(id, feed) {
                return Step::Nothing;
            }
            match self.read_block(id, feed, next, skip, &mut looked_through) {
                None => (next, skip) = (next.next(), 0),
                Some(Part { framed, messages, rest, is_copy, gaps }) => {
                    self.count_gaps(&gaps);
                    match rest {
                        0 => self.set_behind(id, feed, next.next(), 0),
                        _ => self.set_behind(id, feed, next, skip + messages),
                    }
                    if let Some(subscription) = self.subscription_mut(id) {
                        subscription.spend(messages);
                        if !is_copy {
                            subscription.in_transport = Some((feed, next));
                        }
                    }
                    self.count_sent(&framed, messages);
                    return Step::Frame(framed);
                }
            }
        }
    }

    /// Whether a subscription that asked for a part has all of it that a feed carries.
    fn is_over(&self, id: SubscriptionId, feed: FeedId) -> bool {
        let Some(subscription) = self.subscription(id) else { return true };
        let has_part = |it: &Resuming| it.to.is_some() && !it.applies(feed);
        subscription.is_done || subscription.resuming.as_deref().is_some_and(has_part)
    }

    fn set_behind(&mut self, id: SubscriptionId, feed: FeedId, next: BlockSeq, skip: u32) {
        if let Some(subscription) = self.subscriptions.get_mut(id.index())
            && let Some(position) = subscription.positions.get_mut(usize::from(feed.0))
        {
            *position = Position::Behind { next, skip };
        }
    }

    fn stop_resuming(&mut self, id: SubscriptionId, feed: FeedId, next: BlockSeq) {
        let Some(resuming) = self.subscriptions.get(id.index()).and_then(|it| it.resuming.as_deref()) else { return };
        let is_reached = match resuming.until.get(usize::from(feed.0)) {
            Some(&AWAITED) => next >= self.tail(feed) && self.has_reached(feed, resuming.awaited()),
            Some(until) => next >= *until,
            None => return,
        };
        let Some(subscription) = self.subscriptions.get_mut(id.index()) else { return };
        let Some(resuming) = &mut subscription.resuming else { return };
        if let Some(until) = resuming.until.get_mut(usize::from(feed.0)).filter(|_| is_reached) {
            *until = BlockSeq(0);
        }
        if resuming.until.iter().all(|until| *until == BlockSeq(0)) {
            subscription.is_done = resuming.to.is_some();
            subscription.resuming = None;
        }
    }

    /// What the reader gets of one block, or `None` when that is nothing.
    fn read_block(
        &mut self,
        id: SubscriptionId,
        feed: FeedId,
        seq: BlockSeq,
        skip: u32,
        looked: &mut usize,
    ) -> Option<Part> {
        let subscription = self.subscriptions.get(id.index())?;
        let source = self.feeds.get_mut(usize::from(feed.0))?;
        let interest = self.interests.get(subscription.interest)?;
        let is_resuming = subscription.resuming.as_ref().is_some_and(|resuming| resuming.applies(feed));
        let since = interest.since.get(usize::from(feed.0)).copied().unwrap_or_default();
        // Planted: blocks that came before the interest seem to hold nothing for it.
        let is_matched = (seq >= since || cfg!(feature = "bug-stale-matches")) && source.remembers_matches(seq);
        let allowance = subscription.allowance();
        let slot = source.slot_mut(seq)?;
        let resuming = subscription.resuming.as_deref().filter(|_| is_resuming);
        let wants = resuming.map(|resuming| resuming.wants_at(feed, seq));
        let is_history = wants.is_some_and(|wants| wants.is_history);
        if let Some(gaps) = &slot.gaps {
            // A log that is read as history has no hole. Planted: the reader goes on behind the gap.
            if is_history || cfg!(feature = "bug-skip-gap") {
                return None;
            }
            let vbuckets = self.config.vbuckets;
            let gaps = gaps.iter().filter_map(|gap| gap_for(gap, interest, vbuckets, resuming)).collect::<Vec<_>>();
            return Part::of_gaps(gaps);
        }
        if slot.kind == (if is_history { Kind::Relayed } else { Kind::Hidden }) {
            return None;
        }
        if is_matched && !is_resuming && skip == 0 {
            let matches = slot.matches.as_mut()?;
            let (at, messages) = matches.find(subscription.interest)?;
            if u64::from(messages) <= allowance {
                let is_copy = messages != slot.block.messages;
                let wanted = matches.wanted(at, &slot.block)?;
                source.note_gathered(wanted.gathered_bytes);
                return Some(Part { framed: wanted.framed, messages, rest: 0, is_copy, gaps: Vec::new() });
            }
        }
        let is_whole = interest.is_match_all() && !slot.block.has_system && !is_resuming && skip == 0;
        if is_whole && u64::from(slot.block.messages) <= allowance {
            let (framed, messages) = (slot.block.framed.clone(), slot.block.messages);
            return Some(Part { framed, messages, rest: 0, is_copy: false, gaps: Vec::new() });
        }
        *looked += slot.block.framed.len();
        let mut pieces = wanted_pieces(interest, &slot.block, wants);
        pieces.drain(..pieces.len().min(skip as usize));
        let allowed = usize::try_from(allowance).unwrap_or(usize::MAX).min(pieces.len());
        let rest = pieces.len() - allowed;
        pieces.truncate(allowed);
        if pieces.is_empty() {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a block holds fewer than u32::MAX messages")]
        let messages = pieces.len() as u32;
        let is_copy = messages != slot.block.messages;
        Some(Part { framed: frame_pieces(&slot.block, &pieces), messages, rest, is_copy, gaps: Vec::new() })
    }

    /// Tells a reader what was evicted before it came, and lets it go on from the oldest block.
    fn report_overtaken(&mut self, id: SubscriptionId, feed: FeedId, from: &[Offset]) -> Step {
        let oldest = self.oldest(feed);
        let gaps = self.gaps_since(id, feed, from);
        self.set_behind(id, feed, oldest, 0);
        if let Some(source) = self.feeds.get_mut(usize::from(feed.0)) {
            source.behind_floor = source.behind_floor.min(oldest);
        }
        if gaps.is_empty() {
            return Step::Yield;
        }
        self.count_gaps(&gaps);
        let Some(subscription) = self.subscription_mut(id) else { return Step::Nothing };
        if subscription.on_slow == OnSlow::Disconnect {
            let reason = "the subscriber was slower than the node's memory and asked not to skip";
            subscription.ended = Some(Refusal::new(ErrorCode::SlowSubscriber, reason));
            self.stats.slow_ended += 1;
        }
        let frame = frame::encode(&v1::Delivery { gaps, ..v1::Delivery::default() });
        self.count_sent(&frame, 0);
        Step::Frame(frame)
    }

    fn gaps_since(&self, id: SubscriptionId, feed: FeedId, from: &[Offset]) -> Vec<v1::Gap> {
        let Some(subscription) = self.subscription(id) else { return Vec::new() };
        let interest = self.interests.get(subscription.interest);
        let vbuckets = self.config.vbuckets;
        let resuming = subscription.resuming.as_deref().filter(|resuming| resuming.applies(feed));
        let begin = |vbucket: VBucketId, from: Offset| match resuming {
            Some(resuming) => from.max(resuming.start_of(vbucket)),
            None => from,
        };
        let is_wanted = |gap: &v1::Gap| {
            let vbucket = vbucket_of(gap);
            Offset(gap.to) > from.get(usize::from(vbucket.0)).map_or(Offset::ZERO, |from| begin(vbucket, *from))
        };
        let history = resuming.and_then(|resuming| resuming.history_at(feed, self.oldest(feed)));
        let starts = self.starts_of(history, is_wanted);
        let seen = vbuckets.iter().zip(from).zip(self.views.iter().zip(starts.iter()));
        seen.filter(|((vbucket, _), _)| is_fed_by(*vbucket, feed.0, self.config.feeds))
            .filter(|((vbucket, _), _)| interest.is_none_or(|interest| interest.may_want_vbucket(*vbucket, vbuckets)))
            .map(|((vbucket, from), (view, start))| {
                let to = resuming.map_or(*start, |resuming| resuming.end_of(vbucket).min(*start));
                (vbucket, begin(vbucket, *from), to, view.seen())
            })
            .filter(|(_, from, to, _)| from < to)
            .map(|(vbucket, from, to, seen)| v1::Gap {
                vbucket: u32::from(vbucket.0),
                lineage: seen.lineage.0,
                from: from.0,
                to: to.0,
                // A lineage that began since has lost what lay between.
                reason: if from < seen.base { GapReason::Lost } else { GapReason::Slow }.into(),
            })
            .collect()
    }

    pub(crate) fn count_gaps(&mut self, gaps: &[v1::Gap]) {
        self.stats.gaps += gaps.len() as u64;
        self.stats.dropped_messages += gaps.iter().map(|gap| gap.to.saturating_sub(gap.from)).sum::<u64>();
    }

    pub(crate) fn interest_of(&self, subscription: &Subscription) -> Option<&Interest> {
        self.interests.get(subscription.interest)
    }
}

/// A delivery of one block, and how many wanted messages of the block are still to be sent.
struct Part {
    framed: Bytes,
    messages: u32,
    rest: usize,
    /// Does not share the block's memory.
    is_copy: bool,
    /// Told in place of messages.
    gaps: Vec<v1::Gap>,
}

impl Part {
    fn of_gaps(gaps: Vec<v1::Gap>) -> Option<Self> {
        if gaps.is_empty() {
            return None;
        }
        let framed = frame::encode(&v1::Delivery { gaps: gaps.clone(), ..v1::Delivery::default() });
        Some(Self { framed, messages: 0, rest: 0, is_copy: true, gaps })
    }
}

/// What a reader is told of a gap that stands in a feed.
fn gap_for(gap: &v1::Gap, interest: &Interest, vbuckets: VBucketCount, resuming: Option<&Resuming>) -> Option<v1::Gap> {
    let vbucket = u16::try_from(gap.vbucket).map(VBucketId).ok()?;
    if !interest.may_want_vbucket(vbucket, vbuckets) {
        return None;
    }
    let from = resuming.map_or(gap.from, |resuming| gap.from.max(resuming.start_of(vbucket).0));
    let to = resuming.map_or(gap.to, |resuming| gap.to.min(resuming.end_of(vbucket).0));
    (from < to).then_some(v1::Gap { from, to, ..*gap })
}

/// The messages of a block that an interest wants, found by looking at each.
pub(crate) fn wanted_pieces(interest: &Interest, block: &Block, wants: Option<WantsAt<'_>>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut scratch = Vec::new();
    let mut start = frame::PREFIX_LEN;
    for (span, message) in stored_messages(block.encoded()).flatten() {
        let end = frame::PREFIX_LEN + (span.start + span.len) as usize;
        // Blocks hold what was validated when it was pushed.
        let Ok(fields) = Fields::scan(message) else { continue };
        if interest.wants(message, &fields, &mut scratch) && wants.is_none_or(|wants| wants.wants(&fields)) {
            #[expect(clippy::cast_possible_truncation, reason = "positions inside a block")]
            pieces.push(Piece { start: start as u32, len: (end - start) as u32 });
        }
        start = end;
    }
    pieces
}
