//! Opening a subscription: validation, where it starts, and its confirmation.

use std::collections::VecDeque;

use broky_proto::error::Refusal;
use broky_proto::frame;
use broky_proto::id::{ClusterId, Lineage, Offset, VBucketCount, VBucketId};
use broky_proto::limits::{KEY_PARTITIONS_MAX, PATTERNS_MAX};
use broky_proto::v1::{self, ErrorCode, GapReason, OnSlow, start::Start};

use crate::delivery::Delivery;
use crate::feed::{BlockSeq, Feed, FeedId};
use crate::fill::{Filling, Range};
use crate::interest::{InterestId, InterestKey, Interests};
use crate::subscription::{AWAITED, Position, Resuming, Subscription, SubscriptionId};
use crate::view::{View, is_fed_by};

/// A place to start reading, found for a request.
struct Begin {
    positions: Vec<Position>,
    resuming: Option<Box<Resuming>>,
    gaps: Vec<v1::Gap>,
    /// Per vbucket.
    from: Vec<Offset>,
    /// What has to come from other nodes first.
    elsewhere: Vec<(VBucketId, Range)>,
}

/// What is readable here, looked at once for all subscriptions that wait.
struct Readiness {
    count: VBucketCount,
    feeds: u16,
    /// Ascending.
    lacking: Vec<VBucketId>,
    /// Readable where the interest is known to who relays them. Ascending.
    relayed: Vec<VBucketId>,
    /// Per feed: whether there are such.
    relayed_feeds: Vec<bool>,
}

impl Readiness {
    /// Whether everything that an interest can want is readable.
    fn is_enough_for(&self, interests: &Interests, id: InterestId) -> bool {
        let Some(interest) = interests.get(id) else { return false };
        let Some(wanted) = interest.key.vbuckets(self.count) else {
            let mut feeds = self.relayed_feeds.iter().zip(&interest.covered);
            return self.lacking.is_empty() && feeds.all(|(is_relayed, is_covered)| !is_relayed || *is_covered);
        };
        let is_covered = |vbucket: VBucketId| interest.covered.get(usize::from(vbucket.0 % self.feeds)) == Some(&true);
        let is_readable = |vbucket: &VBucketId| {
            self.lacking.binary_search(vbucket).is_err()
                && (self.relayed.binary_search(vbucket).is_err() || is_covered(*vbucket))
        };
        wanted.iter().all(is_readable)
    }
}

impl Delivery {
    /// Opens a subscription. Its first frame confirms it, with the cursors it starts from; it comes when everything
    /// that can be wanted is readable here ([`Delivery::has_begun`]).
    ///
    /// # Errors
    /// A refusal says which part of the request cannot be met; nothing was opened.
    pub fn open(&mut self, open: &v1::Open) -> Result<SubscriptionId, Refusal> {
        let key = self.validate(open)?;
        let interest = self.acquire(key);
        self.note_reader(interest);
        let id = self.insert(interest, open, true);
        if self.readiness().is_enough_for(&self.interests, interest) {
            if let Err(refusal) = self.begin(id, open) {
                self.close(id);
                return Err(refusal);
            }
        } else if let Some(subscription) = self.subscription_mut(id) {
            subscription.opening = Some(Box::new(open.clone()));
            self.opening.push(id);
        }
        Ok(id)
    }

    /// Whether a subscription has been confirmed, or is about to be.
    #[must_use]
    pub fn has_begun(&self, id: SubscriptionId) -> bool {
        self.subscription(id).is_none_or(Subscription::is_confirmed)
    }

    /// Begins the subscriptions that wait for something to be readable here, if it is by now.
    pub(crate) fn begin_waiting(&mut self, wake: &mut Vec<SubscriptionId>) {
        if self.opening.is_empty() {
            return;
        }
        let readiness = self.readiness();
        for id in std::mem::take(&mut self.opening) {
            let Some(interest) = self.subscription(id).map(|subscription| subscription.interest) else { continue };
            if !readiness.is_enough_for(&self.interests, interest) {
                self.opening.push(id);
                continue;
            }
            let Some(open) = self.subscription_mut(id).and_then(|subscription| subscription.opening.take()) else {
                continue;
            };
            if let Err(refusal) = self.begin(id, &open) {
                self.end(id, refusal);
            }
            wake.push(id);
        }
    }

    pub(crate) fn acquire(&mut self, key: InterestKey) -> InterestId {
        let tails = self.feeds.iter().map(|feed| feed.tail()).collect();
        self.interests.acquire(key, tails)
    }

    pub(crate) fn insert(&mut self, interest: InterestId, open: &v1::Open, is_local: bool) -> SubscriptionId {
        let generation = self.next_generation();
        let subscription = Subscription {
            generation,
            interest,
            is_local,
            opening: None,
            filling: None,
            is_done: false,
            positions: Vec::new(),
            resuming: None,
            control: VecDeque::new(),
            credit: (open.credit > 0).then_some(open.credit),
            on_slow: OnSlow::try_from(open.on_slow).unwrap_or_default(),
            ended: None,
            heartbeat_due: false,
            cursors_at_bytes: self.bytes_total(),
            heartbeats_since_cursors: 0,
            turn: 0,
            in_transport: None,
            is_waiting: false,
            is_cut: false,
        };
        let index = self.subscriptions.insert(subscription);
        #[expect(clippy::cast_possible_truncation, reason = "subscriptions are bounded by SUBSCRIPTIONS_MAX")]
        SubscriptionId { index: index as u32, generation }
    }

    fn begin(&mut self, id: SubscriptionId, open: &v1::Open) -> Result<(), Refusal> {
        let mut begin = match open.start.as_ref().and_then(|start| start.start.as_ref()) {
            None | Some(Start::Live(_)) => self.begin_live(),
            Some(Start::Earliest(_)) => self.begin_earliest(),
            Some(Start::Resume(resume)) => self.begin_resume(resume)?,
        };
        let Some(interest) = self.subscription(id).map(|subscription| subscription.interest) else { return Ok(()) };
        // A position may come from a wider subscription: what this one cannot want is not missing to it.
        let gaps = self.wanted_gaps(interest, begin.gaps);
        self.count_gaps(&gaps);
        let elsewhere: Vec<_> =
            begin.elsewhere.into_iter().filter(|(vbucket, _)| self.may_want(interest, *vbucket)).collect();
        let filling = Filling::new(&elsewhere, &begin.from);
        // What another node gives is nothing that the feeds could withhold.
        for (vbucket, range) in &elsewhere {
            let resuming = begin.resuming.as_mut();
            if let Some(from) = resuming.and_then(|resuming| resuming.from.get_mut(usize::from(vbucket.0))) {
                *from = range.to.max(*from);
            }
        }
        let is_told = filling.as_ref().is_none_or(|filling| !filling.is_unconfirmed());
        let confirmation = is_told.then(|| self.confirmation(interest, gaps, &begin.from));
        if let Some(subscription) = self.subscription_mut(id) {
            subscription.positions = begin.positions;
            subscription.resuming = begin.resuming;
            subscription.control.extend(confirmation);
            subscription.filling = filling;
        }
        if !elsewhere.is_empty() {
            self.news.fills.push((id, elsewhere));
        }
        self.settle(id);
        Ok(())
    }

    pub(crate) fn may_want(&self, interest: InterestId, vbucket: VBucketId) -> bool {
        self.interests.get(interest).is_none_or(|known| known.may_want_vbucket(vbucket, self.config.vbuckets))
    }

    pub(crate) fn wanted_gaps(&self, interest: InterestId, mut gaps: Vec<v1::Gap>) -> Vec<v1::Gap> {
        gaps.retain(|gap| {
            let vbucket = u16::try_from(gap.vbucket).map(VBucketId).unwrap_or_default();
            self.may_want(interest, vbucket)
        });
        gaps
    }

    fn validate(&self, open: &v1::Open) -> Result<InterestKey, Refusal> {
        if !open.group.is_empty() {
            let reason = format!("consumer groups are not implemented (group {:?})", open.group);
            return Err(Refusal::new(ErrorCode::Unimplemented, reason));
        }
        if open.patterns.is_empty() {
            return Err(Refusal::new(ErrorCode::BadPattern, "a subscription needs at least one pattern"));
        }
        at_most("patterns", open.patterns.len(), PATTERNS_MAX)?;
        at_most("key_partitions", open.key_partitions.len(), KEY_PARTITIONS_MAX)?;
        at_most("subscriptions of this node", self.subscriptions.len() + 1, SUBSCRIPTIONS_MAX)?;
        InterestKey::parse(&open.patterns, &open.key_partitions)
    }

    fn readiness(&self) -> Readiness {
        let (count, feeds) = (self.config.vbuckets, self.config.feeds);
        let mut readiness = Readiness {
            count,
            feeds,
            lacking: Vec::new(),
            relayed: Vec::new(),
            relayed_feeds: vec![false; feeds.into()],
        };
        for (vbucket, view) in count.iter().zip(&self.views) {
            if !view.is_ready || !view.is_whole() {
                readiness.lacking.push(vbucket);
            } else if view.is_relayed() {
                readiness.relayed.push(vbucket);
                if let Some(feed) = readiness.relayed_feeds.get_mut(usize::from(vbucket.0 % feeds)) {
                    *feed = true;
                }
            }
        }
        readiness
    }

    fn begin_live(&self) -> Begin {
        Begin {
            positions: self.feeds.iter().map(|feed| Position::Behind { next: feed.tail(), skip: 0 }).collect(),
            resuming: None,
            gaps: Vec::new(),
            from: self.views.iter().map(|view| view.seen().end).collect(),
            elsewhere: Vec::new(),
        }
    }

    fn begin_earliest(&self) -> Begin {
        let start = |view: &View| if view.is_relayed() { view.seen().base } else { view.log.start };
        let from: Vec<Offset> = self.views.iter().map(start).collect();
        // Blocks may hold messages of histories that are over, from before a vbucket was held here for good, or
        // relayed.
        let stale = |feed: &Feed| if feed.oldest() < feed.stale_until { feed.tail() } else { BlockSeq(0) };
        let until: Vec<BlockSeq> = self.feeds.iter().map(stale).collect();
        let is_filtered = until.iter().any(|until| *until > BlockSeq(0));
        let elsewhere = self.relayed().map(|(vbucket, view)| {
            let seen = view.seen();
            (vbucket, Range { lineage: seen.lineage, from: None, to: seen.end })
        });
        Begin {
            positions: self.feeds.iter().map(|feed| Position::Behind { next: feed.oldest(), skip: 0 }).collect(),
            resuming: is_filtered.then(|| Box::new(self.resuming(from.clone(), until))),
            gaps: Vec::new(),
            from,
            elsewhere: elsewhere.collect(),
        }
    }

    fn begin_resume(&self, resume: &v1::Resume) -> Result<Begin, Refusal> {
        self.check_cluster(resume)?;
        let mut from: Vec<Offset> = self.views.iter().map(|view| view.seen().end).collect();
        let mut gaps = Vec::new();
        let mut elsewhere = Vec::new();
        for cursor in &resume.cursors {
            let (vbucket, view) = self.view_of(cursor.vbucket)?;
            let offset = if view.is_relayed() && Offset(cursor.offset) < view.seen().end {
                // Whoever relays it knows what there is.
                let (lineage, from) = (Lineage(cursor.lineage), Some(Offset(cursor.offset)));
                elsewhere.push((vbucket, Range { lineage, from, to: view.seen().end }));
                Offset(cursor.offset)
            } else {
                self.resume_cursor(vbucket, cursor, &mut gaps)?
            };
            if let Some(from) = from.get_mut(usize::from(vbucket.0)) {
                *from = offset;
            }
        }
        elsewhere.sort_unstable_by_key(|(vbucket, _)| *vbucket);
        elsewhere.dedup_by_key(|(vbucket, _)| *vbucket);
        let mut begin = self.begin_at(from, gaps);
        begin.elsewhere = elsewhere;
        Ok(begin)
    }

    pub(crate) fn check_cluster(&self, resume: &v1::Resume) -> Result<(), Refusal> {
        if ClusterId::from_bytes(&resume.cluster_id) == Some(self.config.cluster) {
            return Ok(());
        }
        let reason = format!("the position is not of this cluster, {}", self.config.cluster);
        Err(Refusal::new(ErrorCode::ForeignCluster, reason))
    }

    fn begin_at(&self, from: Vec<Offset>, gaps: Vec<v1::Gap>) -> Begin {
        let until = self.until(&from);
        let positions = self.feed_ids().map(|feed| self.first_wanted(feed, &from)).collect();
        let is_filtered = until.iter().any(|until| *until > BlockSeq(0));
        let resuming = is_filtered.then(|| Box::new(self.resuming(from.clone(), until)));
        Begin { positions, resuming, gaps, from, elsewhere: Vec::new() }
    }

    /// Per feed: the block from which on there is nothing below these offsets.
    pub(crate) fn until(&self, reach: &[Offset]) -> Vec<BlockSeq> {
        self.feed_ids().map(|feed| if self.has_reached(feed, reach) { self.tail(feed) } else { AWAITED }).collect()
    }

    pub(crate) fn resuming(&self, from: Vec<Offset>, until: Vec<BlockSeq>) -> Resuming {
        let since = |view: &View| if view.is_relayed() { AWAITED } else { view.since };
        Resuming {
            from,
            to: None,
            opened_at: self.feeds.iter().map(|feed| feed.tail()).collect(),
            since: self.views.iter().map(since).collect(),
            until,
        }
    }

    fn relayed(&self) -> impl Iterator<Item = (VBucketId, &View)> {
        self.config.vbuckets.iter().zip(&self.views).filter(|(_, view)| view.is_relayed())
    }

    pub(crate) fn view_of(&self, number: u32) -> Result<(VBucketId, &View), Refusal> {
        let known = u16::try_from(number).ok().map(VBucketId);
        known.and_then(|vbucket| Some((vbucket, self.views.get(usize::from(vbucket.0))?))).ok_or_else(|| {
            let reason = format!("vbucket {number} does not exist: there are {}", self.views.len());
            Refusal::new(ErrorCode::PositionAhead, reason)
        })
    }

    /// Where a cursor lets its reader go on in a log held here; what it cannot have goes to `gaps`.
    pub(crate) fn resume_cursor(
        &self,
        vbucket: VBucketId,
        cursor: &v1::Cursor,
        gaps: &mut Vec<v1::Gap>,
    ) -> Result<Offset, Refusal> {
        let (_, view) = self.view_of(u32::from(vbucket.0))?;
        let seen = view.seen();
        let start = if view.is_relayed() { seen.end } else { view.log.start };
        let mut offset = Offset(cursor.offset);
        let mut gap = |lineage: Lineage, from: Offset, to: Offset, reason: GapReason| {
            let (vbucket, lineage, reason) = (cursor.vbucket, lineage.0, reason.into());
            gaps.push(v1::Gap { vbucket, lineage, from: from.0, to: to.0, reason });
        };
        if offset < seen.base {
            // Whatever the lineage of then held beyond this point is gone. The present one starts above all of it; a
            // reader that has come so far is in it, whatever lineage it last heard of.
            gap(Lineage(cursor.lineage), offset, start, GapReason::Lost);
            offset = start;
        }
        // This shard may not have heard yet what a reader of another shard or node has been sent.
        let ahead_max = if self.config.feeds > 1 || self.has_others { LAG_MAX } else { 0 };
        if cursor.lineage > seen.lineage.0 || offset > seen.end.plus(ahead_max) {
            let reason = format!(
                "vbucket {vbucket}: position {offset} of lineage {} is ahead of {} of lineage {}",
                cursor.lineage, seen.end, seen.lineage
            );
            return Err(Refusal::new(ErrorCode::PositionAhead, reason));
        }
        if offset < start {
            gap(seen.lineage, offset, start, GapReason::Evicted);
            offset = start;
        }
        Ok(offset)
    }

    /// The oldest block of a feed in which something at or above `from` stands.
    pub(crate) fn first_wanted(&self, feed: FeedId, from: &[Offset]) -> Position {
        let feeds = self.config.feeds;
        let wanted = (0..).map(VBucketId).zip(self.views.iter().zip(from));
        let next = wanted
            .filter(|(vbucket, _)| is_fed_by(*vbucket, feed.0, feeds))
            .filter(|(_, (view, _))| !view.is_relayed())
            .filter_map(|(_, (view, from))| view.log.block_of(*from))
            .min()
            .unwrap_or_else(|| self.feeds.get(usize::from(feed.0)).map(|feed| feed.tail()).unwrap_or_default());
        Position::Behind { next, skip: 0 }
    }

    pub(crate) fn confirmation(&self, interest: InterestId, gaps: Vec<v1::Gap>, from: &[Offset]) -> bytes::Bytes {
        frame::encode(&v1::Delivery {
            gaps,
            cursors: self.cursors(interest, |vbucket, _| from.get(usize::from(vbucket.0)).copied().unwrap_or_default()),
            confirmed: Some(v1::Confirmed {
                cluster_id: self.config.cluster.0.to_vec().into(),
                map_version: self.map_version.0,
                vbuckets: u32::from(self.config.vbuckets.get()),
                node_incarnation: self.config.incarnation.0,
            }),
            ..v1::Delivery::default()
        })
    }
}

/// Messages that one shard of a node may be behind another, generously: a tenth of a second of far more than it can do.
const LAG_MAX: u64 = 1 << 24;
/// Subscriptions one shard keeps at the most.
const SUBSCRIPTIONS_MAX: usize = 1 << 20;

fn at_most(what: &str, count: usize, max: usize) -> Result<(), Refusal> {
    if count <= max {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::LimitExceeded, format!("{count} {what}; the limit is {max}")))
}
