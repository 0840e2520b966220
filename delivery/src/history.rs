//! Vbuckets of which this node begins to hold another part: a new history, a later start, another epoch.
//!
//! Readers stand at different places in a feed, so what will not come is noted in the feed itself, between the blocks
//! before and those behind it. Each reader is told when it gets there, in order with everything else.

use broky_proto::error::Refusal;
use broky_proto::id::{Epoch, Lineage, Offset, VBucketId};
use broky_proto::v1::{self, ErrorCode, GapReason};

use crate::delivery::Delivery;
use crate::feed::FeedId;
use crate::subscription::{Position, SubscriptionId};
use crate::view::View;

impl Delivery {
    /// Makes a vbucket readable from `base` on, under a lineage and an epoch. Nobody is told: for vbuckets that no reader
    /// was told to be readable before.
    pub fn set_view(&mut self, vbucket: VBucketId, lineage: Lineage, epoch: Epoch, base: Offset) {
        if let Some(view) = self.views.get_mut(usize::from(vbucket.0)) {
            *view = View::new(lineage, epoch, base);
        }
        // It may have been held here before.
        for feed in &mut self.feeds {
            feed.stale_until = feed.tail();
        }
    }

    /// Takes a vbucket's new epoch, which resume positions carry.
    pub fn set_epoch(&mut self, vbucket: VBucketId, epoch: Epoch) {
        if let Some(view) = self.views.get_mut(usize::from(vbucket.0)) {
            view.epoch = epoch;
        }
    }

    /// Notes whether what is read here is all there is. Subscriptions are not opened while it is not, and those that are
    /// open end: they would miss what they were promised, and not know it. Elsewhere they go on where they were. Returns
    /// whether that changed.
    pub fn set_ready(&mut self, vbucket: VBucketId, is_ready: bool, wake: &mut Vec<SubscriptionId>) -> bool {
        let Some(view) = self.views.get_mut(usize::from(vbucket.0)) else { return false };
        let was_ready = std::mem::replace(&mut view.is_ready, is_ready);
        if was_ready && !is_ready {
            self.end_readers_of(vbucket, wake);
        }
        was_ready != is_ready
    }

    fn end_readers_of(&mut self, vbucket: VBucketId, wake: &mut Vec<SubscriptionId>) {
        let (interests, vbuckets) = (&self.interests, self.config.vbuckets);
        for (index, subscription) in &mut self.subscriptions {
            let wants = interests.get(subscription.interest).is_none_or(|it| it.may_want_vbucket(vbucket, vbuckets));
            if wants && subscription.ended.is_none() {
                let reason = format!("vbucket {vbucket} is not in sync at this node any more");
                subscription.ended = Some(Refusal::new(ErrorCode::NotReady, reason));
                #[expect(clippy::cast_possible_truncation, reason = "bounded by SUBSCRIPTIONS_MAX")]
                wake.push(SubscriptionId { index: index as u32, generation: subscription.generation });
            }
        }
    }

    /// Whether subscriptions to a vbucket can be opened here.
    #[must_use]
    pub fn is_ready(&self, vbucket: VBucketId) -> bool {
        self.views.get(usize::from(vbucket.0)).is_some_and(|view| view.is_ready)
    }

    /// Begins a vbucket's new history at `base`: everything not yet read of the one before is lost.
    pub fn begin_lineage(
        &mut self,
        feed: FeedId,
        vbucket: VBucketId,
        (lineage, epoch): (Lineage, Epoch),
        base: Offset,
        wake: &mut Vec<SubscriptionId>,
    ) {
        let Some(view) = self.views.get_mut(usize::from(vbucket.0)) else { return };
        let gap = v1::Gap {
            vbucket: u32::from(vbucket.0),
            lineage: view.lineage.0,
            from: view.end.0,
            to: base.0,
            reason: GapReason::Lost.into(),
        };
        let is_ready = view.is_ready;
        *view = View::new(lineage, epoch, base);
        view.is_ready = is_ready;
        if let Some(source) = self.feeds.get_mut(usize::from(feed.0)) {
            source.stale_until = source.tail();
        }
        self.note_gap(feed, gap, wake);
    }

    /// Goes on at `next`: what lies before it is not to be had any more, here or at the leader.
    pub fn skip_to(&mut self, feed: FeedId, vbucket: VBucketId, next: Offset, wake: &mut Vec<SubscriptionId>) {
        let Some(view) = self.views.get_mut(usize::from(vbucket.0)) else { return };
        let gap = v1::Gap {
            vbucket: u32::from(vbucket.0),
            lineage: view.lineage.0,
            from: view.end.0,
            to: next.0,
            reason: GapReason::Evicted.into(),
        };
        view.skip_to(next);
        self.note_gap(feed, gap, wake);
    }

    fn note_gap(&mut self, feed: FeedId, gap: v1::Gap, wake: &mut Vec<SubscriptionId>) {
        if gap.from >= gap.to {
            return;
        }
        let Some(target) = self.feeds.get_mut(usize::from(feed.0)) else { return };
        let seq = target.tail();
        target.push_gaps(Box::new([gap]));
        for live in self.interests.live_mut(feed) {
            for id in std::mem::take(live) {
                if let Some(subscription) = self.subscriptions.get_mut(id.index())
                    && let Some(position) = subscription.positions.get_mut(usize::from(feed.0))
                {
                    *position = Position::Behind { next: seq, skip: 0 };
                    target.behind_floor = target.behind_floor.min(seq);
                    wake.push(id);
                }
            }
        }
    }
}
