//! Opening a subscription: validation, where it starts, and its confirmation.

use broky_proto::error::Refusal;
use broky_proto::frame;
use broky_proto::id::{ClusterId, Lineage, Offset, Token, VBucketId};
use broky_proto::limits::{KEY_PARTITIONS_MAX, PATTERNS_MAX};
use broky_proto::v1::{self, ErrorCode, GapReason, OnSlow, start::Start};

use crate::delivery::Delivery;
use crate::feed::{BlockSeq, Feed, FeedId};
use crate::interest::{InterestId, InterestKey};
use crate::pattern::Pattern;
use crate::subscription::{AWAITED, Position, Resuming, Subscription, SubscriptionId};
use crate::view::is_fed_by;

/// A place to start reading, found for a request.
struct Begin {
    positions: Vec<Position>,
    resuming: Option<Box<Resuming>>,
    gaps: Vec<v1::Gap>,
    /// Per vbucket.
    from: Vec<Offset>,
}

impl Delivery {
    /// Opens a subscription. Its first frame confirms it, with the cursors it starts from.
    ///
    /// # Errors
    /// A refusal says which part of the request cannot be met; nothing was opened.
    pub fn open(&mut self, open: &v1::Open) -> Result<SubscriptionId, Refusal> {
        let key = self.validate(open)?;
        self.check_ready(&key)?;
        let mut begin = match open.start.as_ref().and_then(|start| start.start.as_ref()) {
            None | Some(Start::Live(_)) => self.begin_live(),
            Some(Start::Earliest(_)) => self.begin_earliest(),
            Some(Start::Resume(resume)) => self.begin_resume(resume)?,
        };
        let tails = self.feeds.iter().map(|feed| feed.tail()).collect();
        let interest = self.interests.acquire(key, tails);
        // A position may come from a wider subscription: what this one cannot want is not missing to it.
        let may_want = |gap: &v1::Gap| {
            let vbucket = u16::try_from(gap.vbucket).map(VBucketId).unwrap_or_default();
            self.interests.get(interest).is_none_or(|known| known.may_want_vbucket(vbucket, self.config.vbuckets))
        };
        begin.gaps.retain(may_want);
        self.count_gaps(&begin.gaps);
        let confirmation = self.confirmation(interest, begin.gaps, &begin.from);
        let generation = self.next_generation();
        let subscription = Subscription {
            generation,
            interest,
            positions: begin.positions,
            resuming: begin.resuming,
            control: [confirmation].into(),
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
        let id = SubscriptionId { index: index as u32, generation };
        self.settle(id);
        Ok(id)
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
        let patterns = open.patterns.iter().map(|pattern| {
            Pattern::parse(pattern).map_err(|error| {
                let text = String::from_utf8_lossy(pattern);
                Refusal::new(ErrorCode::BadPattern, format!("pattern {text:?}: {error}"))
            })
        });
        Ok(InterestKey::new(patterns.collect::<Result<_, _>>()?, open.key_partitions.clone()))
    }

    /// Fails while a vbucket that can be wanted is not readable here.
    fn check_ready(&self, key: &InterestKey) -> Result<(), Refusal> {
        let vbuckets = self.config.vbuckets;
        let wanted: Vec<VBucketId> =
            key.key_partitions.iter().map(|partition| vbuckets.vbucket_of(Token::of(partition, partition))).collect();
        let lacking = vbuckets.iter().zip(&self.views).filter(|(_, view)| !view.is_ready);
        let lacking = lacking.map(|(vbucket, _)| vbucket).find(|vbucket| wanted.is_empty() || wanted.contains(vbucket));
        match lacking {
            None => Ok(()),
            Some(vbucket) => {
                let reason = format!("vbucket {vbucket} is not in sync at this node");
                Err(Refusal::new(ErrorCode::NotReady, reason))
            }
        }
    }

    fn begin_live(&self) -> Begin {
        Begin {
            positions: self.feeds.iter().map(|feed| Position::Behind { next: feed.tail(), skip: 0 }).collect(),
            resuming: None,
            gaps: Vec::new(),
            from: self.views.iter().map(|view| view.end).collect(),
        }
    }

    fn begin_earliest(&self) -> Begin {
        let from: Vec<Offset> = self.views.iter().map(|view| view.start).collect();
        // Blocks may hold messages of histories that are over, or from before a vbucket was held here for good.
        let stale = |feed: &Feed| if feed.oldest() < feed.stale_until { feed.stale_until } else { BlockSeq(0) };
        let until: Vec<BlockSeq> = self.feeds.iter().map(stale).collect();
        let is_filtered = until.iter().any(|until| *until > BlockSeq(0));
        Begin {
            positions: self.feeds.iter().map(|feed| Position::Behind { next: feed.oldest(), skip: 0 }).collect(),
            resuming: is_filtered.then(|| Box::new(Resuming { from: from.clone(), until })),
            gaps: Vec::new(),
            from,
        }
    }

    fn begin_resume(&self, resume: &v1::Resume) -> Result<Begin, Refusal> {
        if ClusterId::from_bytes(&resume.cluster_id) != Some(self.config.cluster) {
            let reason = format!("the position is not of this cluster, {}", self.config.cluster);
            return Err(Refusal::new(ErrorCode::ForeignCluster, reason));
        }
        let mut from: Vec<Offset> = self.views.iter().map(|view| view.end).collect();
        let mut gaps = Vec::new();
        for cursor in &resume.cursors {
            let (vbucket, offset) = self.resume_cursor(cursor, &mut gaps)?;
            if let Some(from) = from.get_mut(usize::from(vbucket.0)) {
                *from = offset;
            }
        }
        let until =
            self.feed_ids().map(|feed| if self.has_reached(feed, &from) { self.tail(feed) } else { AWAITED }).collect();
        let positions = self.feed_ids().map(|feed| self.first_wanted(feed, &from)).collect();
        Ok(Begin { positions, resuming: Some(Box::new(Resuming { from: from.clone(), until })), gaps, from })
    }

    /// Where a cursor lets its reader go on; what it cannot have goes to `gaps`.
    fn resume_cursor(&self, cursor: &v1::Cursor, gaps: &mut Vec<v1::Gap>) -> Result<(VBucketId, Offset), Refusal> {
        let known = u16::try_from(cursor.vbucket).ok().map(VBucketId);
        let view = known.and_then(|vbucket| self.views.get(usize::from(vbucket.0)));
        let (Some(vbucket), Some(view)) = (known, view) else {
            let reason = format!("vbucket {} does not exist: there are {}", cursor.vbucket, self.views.len());
            return Err(Refusal::new(ErrorCode::PositionAhead, reason));
        };
        let mut offset = Offset(cursor.offset);
        let mut gap = |lineage: Lineage, from: Offset, to: Offset, reason: GapReason| {
            let (vbucket, lineage, reason) = (cursor.vbucket, lineage.0, reason.into());
            gaps.push(v1::Gap { vbucket, lineage, from: from.0, to: to.0, reason });
        };
        if offset < view.base {
            // Whatever the lineage of then held beyond this point is gone. The present one starts above all of it; a
            // reader that has come so far is in it, whatever lineage it last heard of.
            gap(Lineage(cursor.lineage), offset, view.start, GapReason::Lost);
            offset = view.start;
        }
        // This shard may not have heard yet what a reader of another shard or node has been sent.
        let ahead_max = if self.config.feeds > 1 || self.has_others { LAG_MAX } else { 0 };
        if cursor.lineage > view.lineage.0 || offset > view.end.plus(ahead_max) {
            let reason = format!(
                "vbucket {vbucket}: position {offset} of lineage {} is ahead of {} of lineage {}",
                cursor.lineage, view.end, view.lineage
            );
            return Err(Refusal::new(ErrorCode::PositionAhead, reason));
        }
        if offset < view.start {
            gap(view.lineage, offset, view.start, GapReason::Evicted);
            offset = view.start;
        }
        Ok((vbucket, offset))
    }

    /// The oldest block of a feed in which something at or above `from` stands.
    fn first_wanted(&self, feed: FeedId, from: &[Offset]) -> Position {
        let feeds = self.config.feeds;
        let wanted = (0..).map(VBucketId).zip(self.views.iter().zip(from));
        let next = wanted
            .filter(|(vbucket, _)| is_fed_by(*vbucket, feed.0, feeds))
            .filter_map(|(_, (view, from))| view.block_of(*from))
            .min()
            .unwrap_or_else(|| self.feeds.get(usize::from(feed.0)).map(|feed| feed.tail()).unwrap_or_default());
        Position::Behind { next, skip: 0 }
    }

    fn confirmation(&self, interest: InterestId, gaps: Vec<v1::Gap>, from: &[Offset]) -> bytes::Bytes {
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
