//! The readers of one core: who is subscribed, what each new block means to whom, and what is evicted under whom.

use broky_proto::error::Refusal;
use broky_proto::frame;
use broky_proto::id::{ClusterId, Incarnation, MapVersion, Offset, VBucketCount, VBucketId};
use broky_proto::v1::{self, ErrorCode};
use bytes::Bytes;
use slab::Slab;

use crate::feed::{Block, BlockSeq, Entry, Feed, FeedId};
use crate::interest::{InterestId, Interests};
use crate::matching::{Matcher, Matches};
use crate::news::News;
use crate::relay::Relays;
use crate::subscription::{Position, Subscription, SubscriptionId};
use crate::view::{Kind, View, is_fed_by};

/// What a [`Delivery`] is told at its start.
#[derive(Clone, Debug)]
pub struct DeliveryConfig {
    /// The cluster, for confirmations and resume positions.
    pub cluster: ClusterId,
    /// This process.
    pub incarnation: Incarnation,
    /// How many vbuckets the cluster has.
    pub vbuckets: VBucketCount,
    /// How many feeds there are; feed `n` carries the vbuckets whose number modulo this is `n`.
    pub feeds: u16,
    /// After this many bytes of new blocks a filtered reader is told where it stands, so that its resume position does
    /// not age while nothing matches.
    pub cursor_interval_bytes: u64,
}

/// What has happened since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DeliveryStats {
    /// Messages handed to transports.
    pub delivered_messages: u64,
    /// Bytes handed to transports.
    pub delivered_bytes: u64,
    /// Offsets that readers were told they will not get.
    pub dropped_messages: u64,
    /// Gaps told.
    pub gaps: u64,
    /// Messages handed to other nodes that relay them.
    pub relayed_messages: u64,
    /// Bytes handed to other nodes that relay them.
    pub relayed_bytes: u64,
    /// Subscriptions ended because they were too slow or held memory.
    pub slow_ended: u64,
}

/// The readers of one core.
#[derive(Debug)]
pub struct Delivery {
    pub(crate) config: DeliveryConfig,
    pub(crate) map_version: MapVersion,
    /// Whether a client may have read elsewhere what this core has not heard of yet.
    pub(crate) has_others: bool,
    pub(crate) feeds: Vec<Feed>,
    /// Per vbucket.
    pub(crate) views: Vec<View>,
    pub(crate) interests: Interests,
    pub(crate) subscriptions: Slab<Subscription>,
    /// Subscriptions that wait until they can begin.
    pub(crate) opening: Vec<SubscriptionId>,
    /// Other nodes that read here what they do not hold.
    pub(crate) relays: Relays,
    pub(crate) news: News,
    pub(crate) stats: DeliveryStats,
    pub(crate) matcher: Matcher,
    generation: u32,
    heartbeat_slot: usize,
    pub(crate) heartbeat: Bytes,
}

/// Heartbeats of all subscriptions are spread over this many calls of [`Delivery::handle_heartbeat`].
pub const HEARTBEAT_SLOTS: usize = 8;

impl Delivery {
    /// Readers of nothing yet.
    #[must_use]
    pub fn new(config: DeliveryConfig) -> Self {
        let feeds = (0..config.feeds).map(|_| Feed::default()).collect();
        let views = config.vbuckets.iter().map(|_| View::default()).collect();
        let mut delivery = Self {
            config,
            map_version: MapVersion(0),
            has_others: false,
            feeds,
            views,
            interests: Interests::default(),
            subscriptions: Slab::new(),
            opening: Vec::new(),
            relays: Relays::default(),
            news: News::default(),
            stats: DeliveryStats::default(),
            matcher: Matcher::default(),
            generation: 0,
            heartbeat_slot: 0,
            heartbeat: Bytes::new(),
        };
        delivery.set_map_version(MapVersion(0));
        delivery
    }

    /// Notes whether other nodes serve the same vbuckets: then a client may have read what has not come here yet.
    pub fn set_has_others(&mut self, has_others: bool) {
        self.has_others = has_others;
    }

    /// Takes the version that heartbeats tell.
    pub fn set_map_version(&mut self, version: MapVersion) {
        self.map_version = version;
        let heartbeat = Some(v1::Heartbeat { map_version: version.0 });
        self.heartbeat = frame::encode(&v1::Delivery { heartbeat, ..v1::Delivery::default() });
    }

    /// Whether a block's messages have to be looked at one by one for the present readers.
    #[must_use]
    pub fn needs_entries(&self, block: &Block) -> bool {
        self.interests.has_indexed() || (block.has_system && !self.interests.match_all.is_empty())
    }

    /// Takes a committed block. `entries` are its messages, in order; they may be left out where
    /// [`Delivery::needs_entries`] allows it. Readers that have something to read are added to `wake`.
    pub fn handle_block(
        &mut self,
        feed: FeedId,
        kind: Kind,
        block: Block,
        entries: &[Entry],
        wake: &mut Vec<SubscriptionId>,
    ) {
        debug_assert!(
            block.messages as usize == entries.len() || !self.needs_entries(&block) || kind == Kind::Hidden,
            "every message has an entry"
        );
        let matches = match kind {
            Kind::Log | Kind::Relayed => self.matcher.match_block(&self.interests, &block, entries),
            Kind::Hidden => Matches::default(),
        };
        let Some(target) = self.feeds.get_mut(usize::from(feed.0)) else { return };
        let seq = target.tail();
        for run in block.runs.iter() {
            if let Some(view) = self.views.get_mut(usize::from(run.vbucket.0)) {
                view.append(kind, run, seq);
            }
        }
        for interest in matches.interests() {
            let live = self.interests.get_mut(interest).and_then(|it| it.live.get_mut(usize::from(feed.0)));
            for id in live.map(std::mem::take).unwrap_or_default() {
                if let Some(subscription) = self.subscriptions.get_mut(id.index())
                    && let Some(position) = subscription.positions.get_mut(usize::from(feed.0))
                {
                    *position = Position::Behind { next: seq, skip: 0 };
                    target.behind_floor = target.behind_floor.min(seq);
                    wake.push(id);
                }
            }
        }
        if kind == Kind::Log {
            self.relays.note_block(&block, &matches);
        }
        target.push(kind, block, matches);
        if kind == Kind::Hidden {
            self.begin_waiting(wake);
        }
    }

    /// Ends a subscription at its reader's wish, or after [`crate::Poll::Ended`].
    pub fn close(&mut self, id: SubscriptionId) {
        if self.subscription(id).is_none() {
            return;
        }
        for feed in self.feed_ids() {
            self.leave_live(id, feed);
        }
        self.opening.retain(|opening| *opening != id);
        let subscription = self.subscriptions.remove(id.index());
        if subscription.is_local {
            self.forget_reader(subscription.interest);
        }
        self.interests.release(subscription.interest);
    }

    /// Allows a reader `messages` more. Returns whether it should be polled.
    pub fn add_credit(&mut self, id: SubscriptionId, messages: u64) -> bool {
        let Some(subscription) = self.subscription_mut(id) else { return false };
        match &mut subscription.credit {
            Some(credit) => {
                *credit = credit.saturating_add(messages);
                true
            }
            None => {
                let reason = "credit was given to a subscription opened without";
                subscription.ended = Some(Refusal::new(ErrorCode::ProtocolViolation, reason));
                true
            }
        }
    }

    /// Marks the heartbeat of a part of the subscriptions as due; each is marked once in [`HEARTBEAT_SLOTS`] calls.
    pub fn handle_heartbeat(&mut self, wake: &mut Vec<SubscriptionId>) {
        let slot = self.heartbeat_slot;
        self.heartbeat_slot = (slot + 1) % HEARTBEAT_SLOTS;
        for index in (slot..self.subscriptions.capacity()).step_by(HEARTBEAT_SLOTS) {
            let Some(subscription) = self.subscriptions.get_mut(index) else { continue };
            if !subscription.heartbeat_due {
                subscription.heartbeat_due = true;
                #[expect(clippy::cast_possible_truncation, reason = "bounded by SUBSCRIPTIONS_MAX")]
                wake.push(SubscriptionId { index: index as u32, generation: subscription.generation });
            }
        }
    }

    /// Ends a subscription with a reason, which its reader is told when it next reads.
    pub fn end(&mut self, id: SubscriptionId, refusal: Refusal) {
        if let Some(subscription) = self.subscription_mut(id) {
            subscription.ended = Some(refusal);
        }
    }

    /// Ends every subscription with the same reason.
    pub fn end_all(&mut self, refusal: &Refusal, wake: &mut Vec<SubscriptionId>) {
        for (index, subscription) in &mut self.subscriptions {
            subscription.ended = Some(refusal.clone());
            #[expect(clippy::cast_possible_truncation, reason = "bounded by SUBSCRIPTIONS_MAX")]
            wake.push(SubscriptionId { index: index as u32, generation: subscription.generation });
        }
    }

    /// Subscriptions open now.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// Different interests open now.
    #[must_use]
    pub fn interests(&self) -> usize {
        self.interests.len()
    }

    /// Blocks readable now.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.feeds.iter().map(Feed::blocks).sum()
    }

    /// What has happened since the start.
    #[must_use]
    pub fn stats(&self) -> DeliveryStats {
        self.stats
    }

    /// A block of the logs held here, while it is in memory.
    #[must_use]
    pub fn block(&self, feed: FeedId, seq: BlockSeq) -> Option<&Block> {
        let slot = self.feeds.get(usize::from(feed.0))?.slot(seq)?;
        (slot.kind != Kind::Relayed).then_some(&slot.block)
    }

    /// The block of the log in which an offset stands, or the first one behind it; `None` when that is still to come.
    #[must_use]
    pub fn block_of(&self, vbucket: VBucketId, offset: Offset) -> Option<BlockSeq> {
        self.views.get(usize::from(vbucket.0))?.log.block_of(offset)
    }

    /// The sequence that a feed's next block will get.
    #[must_use]
    pub fn tail(&self, feed: FeedId) -> BlockSeq {
        self.feeds.get(usize::from(feed.0)).map(Feed::tail).unwrap_or_default()
    }

    /// The oldest block of a feed.
    #[must_use]
    pub fn oldest(&self, feed: FeedId) -> BlockSeq {
        self.feeds.get(usize::from(feed.0)).map(Feed::oldest).unwrap_or_default()
    }

    pub(crate) fn subscription(&self, id: SubscriptionId) -> Option<&Subscription> {
        self.subscriptions.get(id.index()).filter(|subscription| subscription.generation == id.generation)
    }

    pub(crate) fn subscription_mut(&mut self, id: SubscriptionId) -> Option<&mut Subscription> {
        self.subscriptions.get_mut(id.index()).filter(|subscription| subscription.generation == id.generation)
    }

    pub(crate) fn feed_ids(&self) -> impl Iterator<Item = FeedId> + use<> {
        (0..self.config.feeds).map(FeedId)
    }

    /// Whether a feed has come to these offsets, one per vbucket, in all vbuckets it carries.
    pub(crate) fn has_reached(&self, feed: FeedId, from: &[Offset]) -> bool {
        let carried = self.config.vbuckets.iter().zip(self.views.iter().zip(from));
        let mut carried = carried.filter(|(vbucket, _)| is_fed_by(*vbucket, feed.0, self.config.feeds));
        carried.all(|(_, (view, from))| view.seen().end >= *from)
    }

    pub(crate) fn bytes_total(&self) -> u64 {
        self.feeds.iter().map(|feed| feed.bytes_total).sum()
    }

    pub(crate) fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// The cursors of the vbuckets an interest can want, at the offsets that `at` says.
    pub(crate) fn cursors(&self, interest: InterestId, at: impl Fn(VBucketId, &View) -> Offset) -> Vec<v1::Cursor> {
        let interest = self.interests.get(interest);
        let vbuckets = self.config.vbuckets;
        let wanted = vbuckets.iter().zip(&self.views);
        wanted
            .filter(|(vbucket, _)| interest.is_none_or(|interest| interest.may_want_vbucket(*vbucket, vbuckets)))
            .map(|(vbucket, view)| v1::Cursor {
                vbucket: u32::from(vbucket.0),
                lineage: view.seen().lineage.0,
                epoch: view.epoch.0,
                offset: at(vbucket, view).0,
            })
            .collect()
    }

    /// Puts a reader that may have everything into the right lists after its positions were set.
    pub(crate) fn settle(&mut self, id: SubscriptionId) {
        for feed in self.feed_ids() {
            let Some(next) = self.behind(id, feed) else { continue };
            let Some(source) = self.feeds.get_mut(usize::from(feed.0)) else { continue };
            if next == source.tail() {
                self.join_live(id, feed);
            } else {
                source.behind_floor = source.behind_floor.min(next);
            }
        }
    }

    fn behind(&self, id: SubscriptionId, feed: FeedId) -> Option<BlockSeq> {
        match self.subscription(id)?.positions.get(usize::from(feed.0))? {
            Position::Behind { next, .. } => Some(*next),
            Position::Live { .. } | Position::Overtaken { .. } => None,
        }
    }

    /// Notes that a reader has everything of a feed.
    pub(crate) fn join_live(&mut self, id: SubscriptionId, feed: FeedId) {
        let Some(subscription) = self.subscriptions.get_mut(id.index()) else { return };
        let interest = self.interests.get_mut(subscription.interest);
        let Some(live) = interest.and_then(|interest| interest.live.get_mut(usize::from(feed.0))) else { return };
        #[expect(clippy::cast_possible_truncation, reason = "bounded by SUBSCRIPTIONS_MAX")]
        let at = live.len() as u32;
        live.push(id);
        if let Some(position) = subscription.positions.get_mut(usize::from(feed.0)) {
            *position = Position::Live { at };
        }
    }

    fn leave_live(&mut self, id: SubscriptionId, feed: FeedId) {
        let Some(subscription) = self.subscriptions.get(id.index()) else { return };
        let Some(Position::Live { at }) = subscription.positions.get(usize::from(feed.0)) else { return };
        let at = *at;
        let interest = self.interests.get_mut(subscription.interest);
        let Some(live) = interest.and_then(|interest| interest.live.get_mut(usize::from(feed.0))) else { return };
        live.swap_remove(at as usize);
        // The one that took its place has to know where it stands now.
        let moved = live.get(at as usize).copied();
        if let Some(moved) = moved.and_then(|moved| self.subscriptions.get_mut(moved.index()))
            && let Some(position) = moved.positions.get_mut(usize::from(feed.0))
        {
            *position = Position::Live { at };
        }
    }
}
