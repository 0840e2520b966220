//! Vbuckets of which this node begins to see another part: a new history, a later start, another epoch, another source.
//!
//! Readers stand at different places in a feed, so what will not come is noted in the feed itself, between the blocks
//! before and those behind it. Each reader is told when it gets there, in order with everything else.

use broky_proto::error::Refusal;
use broky_proto::id::{Epoch, Lineage, Offset, VBucketId};
use broky_proto::v1::{self, ErrorCode, GapReason};

use crate::delivery::Delivery;
use crate::feed::FeedId;
use crate::subscription::{Position, SubscriptionId};
use crate::view::{History, Line, View};

impl Delivery {
    /// Begins a log of a vbucket at `base`, under a lineage and an epoch. Nobody is told: readers see it when it is in
    /// sync.
    pub fn set_view(
        &mut self,
        vbucket: VBucketId,
        (lineage, epoch): (Lineage, Epoch),
        base: Offset,
        wake: &mut Vec<SubscriptionId>,
    ) {
        self.end_readers_of_history(vbucket, wake);
        let since = self.tail(self.feed_of(vbucket));
        if let Some(view) = self.views.get_mut(usize::from(vbucket.0)) {
            if view.is_relayed() {
                view.replace_log(Line::new(lineage, base), since);
            } else {
                *view = View::new(lineage, epoch, base, since);
            }
        }
        // It may have been held here before.
        self.note_stale(vbucket);
    }

    /// Takes a vbucket's new epoch, which resume positions carry.
    pub fn set_epoch(&mut self, vbucket: VBucketId, epoch: Epoch) {
        if let Some(view) = self.views.get_mut(usize::from(vbucket.0)) {
            view.epoch = epoch;
        }
    }

    /// Notes that a log is in sync, so that readers see it, or that it is not any more. Then they see nothing new,
    /// until another node relays the vbucket ([`Delivery::begin_relayed`]).
    pub fn set_in_sync(&mut self, vbucket: VBucketId, is_in_sync: bool, wake: &mut Vec<SubscriptionId>) {
        let has_readers = !self.subscriptions.is_empty();
        let Some(view) = self.views.get_mut(usize::from(vbucket.0)) else { return };
        if is_in_sync {
            view.return_to_log();
            view.is_ready = true;
            self.begin_waiting(wake);
            return;
        }
        let was_ready = view.is_ready;
        if was_ready && !view.is_relayed() && has_readers {
            view.leave_log();
            self.note_stale(vbucket);
        }
        if let Some(view) = self.views.get_mut(usize::from(vbucket.0)).filter(|view| !view.is_relayed()) {
            view.is_ready = false;
        }
        if was_ready {
            self.relays.leave(vbucket);
        }
    }

    /// Whether what readers can see of a vbucket here is all there is.
    #[must_use]
    pub fn is_ready(&self, vbucket: VBucketId) -> bool {
        self.views.get(usize::from(vbucket.0)).is_some_and(|view| view.is_ready)
    }

    /// Whether what readers see of a vbucket is what another node relays.
    #[must_use]
    pub fn is_relayed(&self, vbucket: VBucketId) -> bool {
        self.views.get(usize::from(vbucket.0)).is_some_and(View::is_relayed)
    }

    /// Where what readers see of a vbucket ends: its lineage, epoch and the next offset.
    #[must_use]
    pub fn seen(&self, vbucket: VBucketId) -> (Lineage, Epoch, Offset) {
        let view = self.views.get(usize::from(vbucket.0));
        view.map(|view| (view.seen().lineage, view.epoch, view.seen().end)).unwrap_or_default()
    }

    /// Below this offset readers do not see the log of a vbucket.
    #[must_use]
    pub fn hidden_below(&self, vbucket: VBucketId) -> Offset {
        self.views.get(usize::from(vbucket.0)).map(View::hidden_below).unwrap_or_default()
    }

    /// Begins, or goes on with, a vbucket that another node relays: from `next` on. Gaps are told to whoever reads on.
    pub fn begin_relayed(
        &mut self,
        vbucket: VBucketId,
        history: History,
        next: Offset,
        gaps: Vec<v1::Gap>,
        wake: &mut Vec<SubscriptionId>,
    ) {
        let feed = self.feed_of(vbucket);
        for gap in gaps {
            self.note_gap(feed, gap, wake);
        }
        if let Some(view) = self.views.get_mut(usize::from(vbucket.0)) {
            view.begin_relayed(history, next);
        }
        self.note_stale(vbucket);
        self.begin_waiting(wake);
    }

    /// Notes that nothing that is asked for was relayed of a vbucket up to `next`.
    pub fn pass_relayed_to(&mut self, vbucket: VBucketId, next: Offset) {
        if let Some(view) = self.views.get_mut(usize::from(vbucket.0)) {
            view.pass_to(next);
        }
    }

    /// Notes that nobody relays a vbucket for the moment. Whoever reads it goes on when somebody does.
    pub fn pause_relayed(&mut self, vbucket: VBucketId) {
        if let Some(view) = self.views.get_mut(usize::from(vbucket.0)).filter(|view| view.is_relayed()) {
            view.is_ready = false;
        }
    }

    /// Notes that a vbucket is relayed no more because nobody here asks for it.
    pub fn end_relayed(&mut self, vbucket: VBucketId) {
        if let Some(view) = self.views.get_mut(usize::from(vbucket.0)).filter(|view| view.is_relayed()) {
            view.end_relayed();
        }
    }

    /// Ends the subscriptions that want a vbucket. Elsewhere they go on where they were.
    pub fn end_readers_of(&mut self, vbucket: VBucketId, wake: &mut Vec<SubscriptionId>) {
        let (interests, vbuckets) = (&self.interests, self.config.vbuckets);
        for (index, subscription) in &mut self.subscriptions {
            let wants = interests.get(subscription.interest).is_none_or(|it| it.may_want_vbucket(vbucket, vbuckets));
            if wants && subscription.ended.is_none() {
                let reason = format!("vbucket {vbucket} cannot be had at this node at present");
                subscription.ended = Some(Refusal::new(ErrorCode::NotReady, reason));
                #[expect(clippy::cast_possible_truncation, reason = "bounded by SUBSCRIPTIONS_MAX")]
                wake.push(SubscriptionId { index: index as u32, generation: subscription.generation });
            }
        }
    }

    /// Ends those who read the history of a log that is about to be replaced by another.
    fn end_readers_of_history(&mut self, vbucket: VBucketId, wake: &mut Vec<SubscriptionId>) {
        let Some(view) = self.views.get(usize::from(vbucket.0)) else { return };
        let reads = |since: &[crate::feed::BlockSeq]| since.get(usize::from(vbucket.0)) == Some(&view.since);
        for (index, subscription) in &mut self.subscriptions {
            if subscription.resuming.as_ref().is_some_and(|resuming| reads(&resuming.since)) {
                let reason = format!("vbucket {vbucket} came anew to this node");
                subscription.ended = Some(Refusal::new(ErrorCode::NotReady, reason));
                #[expect(clippy::cast_possible_truncation, reason = "bounded by SUBSCRIPTIONS_MAX")]
                wake.push(SubscriptionId { index: index as u32, generation: subscription.generation });
            }
        }
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
        let log = Line::new(lineage, base);
        self.replace_log(feed, vbucket, log, GapReason::Lost, wake);
        if !self.is_relayed(vbucket) {
            self.set_epoch(vbucket, epoch);
        }
    }

    /// Goes on at `next`: what lies before it is not to be had any more, here or at the leader.
    pub fn skip_to(&mut self, feed: FeedId, vbucket: VBucketId, next: Offset, wake: &mut Vec<SubscriptionId>) {
        let Some(view) = self.views.get(usize::from(vbucket.0)) else { return };
        // Not a hole in the log that there is: whoever comes to read it would have to be told of that.
        let log = view.log.anew_at(next);
        self.replace_log(feed, vbucket, log, GapReason::Evicted, wake);
    }

    /// Begins another log. Readers who see the present one are told of the gap to its start.
    fn replace_log(
        &mut self,
        feed: FeedId,
        vbucket: VBucketId,
        log: Line,
        reason: GapReason,
        wake: &mut Vec<SubscriptionId>,
    ) {
        self.end_readers_of_history(vbucket, wake);
        let since = self.tail(feed);
        let Some(view) = self.views.get_mut(usize::from(vbucket.0)) else { return };
        let gap = gap_to(vbucket, view, log.start, reason);
        view.replace_log(log, since);
        let is_relayed = view.is_relayed();
        self.note_stale(vbucket);
        self.relays.leave(vbucket);
        if !is_relayed {
            self.note_gap(feed, gap, wake);
        }
    }

    /// Tells whoever reads on that what they see of a vbucket goes on at `next`, under the log's lineage.
    pub fn lose_until(&mut self, vbucket: VBucketId, next: Offset, reason: GapReason, wake: &mut Vec<SubscriptionId>) {
        let feed = self.feed_of(vbucket);
        let Some(view) = self.views.get_mut(usize::from(vbucket.0)) else { return };
        let gap = gap_to(vbucket, view, next, reason);
        view.skip_seen_to(next);
        self.note_gap(feed, gap, wake);
    }

    fn note_stale(&mut self, vbucket: VBucketId) {
        let feed = self.feed_of(vbucket);
        if let Some(feed) = self.feeds.get_mut(usize::from(feed.0)) {
            feed.stale_until = feed.tail();
        }
    }

    pub(crate) fn feed_of(&self, vbucket: VBucketId) -> FeedId {
        FeedId(vbucket.0 % self.config.feeds)
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

/// From where what readers see of a vbucket ends to where it goes on.
fn gap_to(vbucket: VBucketId, view: &View, next: Offset, reason: GapReason) -> v1::Gap {
    let seen = view.seen();
    let (lineage, from, reason) = (seen.lineage.0, seen.end.0, reason.into());
    v1::Gap { vbucket: u32::from(vbucket.0), lineage, from, to: next.0, reason }
}
