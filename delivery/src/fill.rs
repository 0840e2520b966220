//! History from elsewhere: what a subscription needs of vbuckets that another node relays, from before it was opened.
//!
//! What is relayed into the feeds begins when it is first asked for. A subscription that starts further back reads the
//! rest from the vbuckets' leaders, each part in a stream of its own, before it goes on in the feeds. There such a part
//! is a subscription that has an end ([`Delivery::open_part`]).
//!
//! Where the oldest message is, only the leaders know. Whoever asks for that is confirmed when each has said so: from a
//! position that is not the first one it would take what has left the memory for something that was passed over.

use std::collections::{BTreeMap, VecDeque};

use broky_proto::error::Refusal;
use broky_proto::frame;
use broky_proto::id::{Lineage, Offset, VBucketId};
use broky_proto::v1::{self, ErrorCode};
use broky_proto::wire::{Fields, stored_messages};
use bytes::Bytes;
use prost::Message as _;

use crate::delivery::Delivery;
use crate::feed::BlockSeq;
use crate::interest::InterestKey;
use crate::subscription::{Position, SubscriptionId};

/// A part of a vbucket's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The lineage that a reader has last heard of.
    pub lineage: Lineage,
    /// The first offset; `None`: the oldest there is.
    pub from: Option<Offset>,
    /// The offset behind the last.
    pub to: Offset,
}

/// What a subscription still has to be sent before it reads the feeds.
#[derive(Debug)]
pub(crate) struct Filling {
    lacking: BTreeMap<VBucketId, Range>,
    queue: VecDeque<Queued>,
    /// Per vbucket, where the reader begins: while it is not confirmed, for want of an answer to where that is.
    unconfirmed: Option<Vec<Offset>>,
}

#[derive(Debug)]
enum Queued {
    /// An encoded `Delivery`.
    Delivery(Bytes),
    /// Nothing more comes of these, whether everything has come or not.
    End(Vec<VBucketId>, bool),
}

/// What a subscription that waits for history is sent next.
pub(crate) enum Filled {
    Frame(Bytes, u32),
    Waits,
    Done,
}

impl Filling {
    pub(crate) fn new(lacking: &[(VBucketId, Range)], from: &[Offset]) -> Option<Box<Self>> {
        let lacking: BTreeMap<_, _> = lacking.iter().copied().collect();
        let is_open = lacking.values().any(|range| range.from.is_none());
        let unconfirmed = is_open.then(|| from.to_vec());
        (!lacking.is_empty()).then(|| Box::new(Self { lacking, queue: VecDeque::new(), unconfirmed }))
    }

    /// Whether its reader has not been told where it begins.
    pub(crate) fn is_unconfirmed(&self) -> bool {
        self.unconfirmed.is_some()
    }

    /// Where the reader begins, once that is known of every vbucket; once.
    fn take_begin(&mut self) -> Option<Vec<Offset>> {
        if self.lacking.values().any(|range| range.from.is_none()) {
            return None;
        }
        let mut from = self.unconfirmed.take()?;
        for (vbucket, range) in &self.lacking {
            if let (Some(from), Some(first)) = (from.get_mut(usize::from(vbucket.0)), range.from) {
                *from = first;
            }
        }
        Some(from)
    }

    fn is_unheard(&self, vbuckets: &[VBucketId]) -> bool {
        let range = |vbucket| self.lacking.get(vbucket);
        vbuckets.iter().filter_map(range).any(|range| range.from.is_none())
    }

    /// Takes what a stream says of where it begins, before any of it is sent. That comes first in each.
    fn hear_begin(&mut self, delivery: &Bytes) {
        if self.is_unconfirmed()
            && !is_messages(delivery)
            && let Ok(told) = v1::Delivery::decode(delivery.clone())
        {
            for cursor in told.cursors {
                let vbucket = u16::try_from(cursor.vbucket).map(VBucketId).unwrap_or_default();
                if let Some(range) = self.lacking.get_mut(&vbucket) {
                    range.from.get_or_insert(Offset(cursor.offset));
                }
            }
        }
    }
}

impl Delivery {
    /// Opens a part of what is readable here, for a subscription at another node: for each vbucket a range. Gaps come
    /// first, with the cursors it starts from; then messages; and then it is done.
    ///
    /// # Errors
    /// A vbucket cannot be read here, or a position is ahead of what there is.
    pub fn open_part(&mut self, key: InterestKey, ranges: &[(VBucketId, Range)]) -> Result<SubscriptionId, Refusal> {
        let mut from = vec![Offset(u64::MAX); self.views.len()];
        let mut to = vec![Offset::ZERO; self.views.len()];
        let (mut gaps, mut cursors) = (Vec::new(), Vec::new());
        for (vbucket, range) in ranges {
            let (_, view) = self.view_of(u32::from(vbucket.0))?;
            if !view.is_ready || !view.is_whole() || view.is_relayed() {
                let reason = format!("vbucket {vbucket} is not in sync at this node");
                return Err(Refusal::new(ErrorCode::NotReady, reason));
            }
            let (lineage, epoch, vbucket_number) = (view.seen().lineage, view.epoch, u32::from(vbucket.0));
            let first = match range.from {
                None => view.log.start,
                Some(from) => {
                    let (lineage, offset) = (range.lineage.0, from.0);
                    let cursor = v1::Cursor { vbucket: vbucket_number, lineage, epoch: epoch.0, offset };
                    self.resume_cursor(*vbucket, &cursor, &mut gaps)?
                }
            };
            let first = first.min(range.to);
            cursors.push(v1::Cursor { vbucket: vbucket_number, lineage: lineage.0, epoch: epoch.0, offset: first.0 });
            if let (Some(from), Some(to)) = (from.get_mut(usize::from(vbucket.0)), to.get_mut(usize::from(vbucket.0))) {
                (*from, *to) = (first, range.to);
            }
        }
        let of = |vbucket: u32| ranges.iter().find(|(of, _)| u32::from(of.0) == vbucket);
        for gap in &mut gaps {
            // What comes behind is told by whoever relays it.
            gap.to = gap.to.min(of(gap.vbucket).map_or(gap.to, |(_, range)| range.to.0));
        }
        let interest = self.acquire(key);
        let id = self.insert(interest, &v1::Open::default(), false);
        let until = self.until(&to);
        let is_done = until.iter().all(|until| *until == BlockSeq(0));
        let mut resuming = self.resuming(from.clone(), until);
        let positions: Vec<Position> = self.feed_ids().map(|feed| self.first_wanted(feed, &from)).collect();
        resuming.to = Some(to);
        let first = frame::encode(&v1::Delivery { gaps, cursors, ..v1::Delivery::default() });
        if let Some(subscription) = self.subscription_mut(id) {
            subscription.positions = positions;
            subscription.is_done = is_done;
            subscription.resuming = Some(Box::new(resuming));
            subscription.control.push_back(first);
        }
        self.settle(id);
        Ok(id)
    }

    /// Takes an encoded `Delivery` of history for a subscription.
    pub fn handle_fill(&mut self, id: SubscriptionId, delivery: Bytes, wake: &mut Vec<SubscriptionId>) {
        if let Some(filling) = self.subscription_mut(id).and_then(|subscription| subscription.filling.as_mut()) {
            filling.hear_begin(&delivery);
            filling.queue.push_back(Queued::Delivery(delivery));
            wake.push(id);
        }
    }

    /// Takes the end of a stream of history for a subscription: all of it came, or the rest has to be asked for anew.
    pub fn handle_fill_end(
        &mut self,
        id: SubscriptionId,
        mut vbuckets: Vec<VBucketId>,
        is_whole: bool,
        wake: &mut Vec<SubscriptionId>,
    ) {
        let Some(filling) = self.subscription_mut(id).and_then(|subscription| subscription.filling.as_mut()) else {
            return;
        };
        // A stream that said nothing is asked for again before what others gave is sent: the confirmation waits for it.
        let mut unheard = Vec::new();
        if filling.is_unconfirmed() {
            vbuckets.retain(|vbucket| match filling.lacking.get(vbucket) {
                Some(range) if range.from.is_none() => {
                    unheard.push((*vbucket, *range));
                    false
                }
                Some(_) | None => true,
            });
        }
        if !vbuckets.is_empty() {
            filling.queue.push_back(Queued::End(vbuckets, is_whole));
        }
        if !unheard.is_empty() {
            self.news.fills.push((id, unheard));
        }
        wake.push(id);
    }

    /// Deliveries of history that a subscription has not been sent yet; none for a stream of these vbuckets that has
    /// yet to say where they begin, for which everything else waits. `None` when the subscription waits for no history.
    #[must_use]
    pub fn fill_backlog(&self, id: SubscriptionId, vbuckets: &[VBucketId]) -> Option<usize> {
        let filling = self.subscription(id)?.filling.as_ref()?;
        Some(if filling.is_unheard(vbuckets) { 0 } else { filling.queue.len() })
    }

    /// Whether a subscription is not confirmed for want of where these vbuckets begin.
    #[must_use]
    pub fn is_fill_unheard(&self, id: SubscriptionId, vbuckets: &[VBucketId]) -> bool {
        self.subscription(id).and_then(|it| it.filling.as_ref()).is_some_and(|filling| filling.is_unheard(vbuckets))
    }

    pub(crate) fn poll_fill(&mut self, id: SubscriptionId) -> Filled {
        let subscription = self.subscription_mut(id);
        if let Some(filling) = subscription.and_then(|it| it.filling.as_mut()).filter(|it| it.is_unconfirmed()) {
            let Some(from) = filling.take_begin() else { return Filled::Waits };
            let interest = self.subscription(id).map(|subscription| subscription.interest);
            return interest
                .map_or(Filled::Waits, |interest| Filled::Frame(self.confirmation(interest, Vec::new(), &from), 0));
        }
        loop {
            let Some(subscription) = self.subscriptions.get_mut(id.index()) else { return Filled::Waits };
            let allowance = subscription.allowance();
            let Some(filling) = &mut subscription.filling else { return Filled::Done };
            if filling.lacking.is_empty() {
                subscription.filling = None;
                return Filled::Done;
            }
            match filling.queue.pop_front() {
                None => return Filled::Waits,
                Some(Queued::End(vbuckets, true)) => filling.lacking.retain(|vbucket, _| !vbuckets.contains(vbucket)),
                Some(Queued::End(vbuckets, false)) => {
                    let rest = |vbucket: &VBucketId| Some((*vbucket, *filling.lacking.get(vbucket)?));
                    let rest: Vec<_> = vbuckets.iter().filter_map(rest).collect();
                    self.news.fills.push((id, rest));
                }
                Some(Queued::Delivery(delivery)) => {
                    let Some(taken) = take(filling, delivery, allowance) else { continue };
                    if let Some(rest) = taken.rest {
                        filling.queue.push_front(Queued::Delivery(rest));
                    }
                    let Some((framed, messages)) = taken.framed else { return Filled::Waits };
                    subscription.spend(messages);
                    self.count_gaps(&taken.gaps);
                    return Filled::Frame(framed, messages);
                }
            }
        }
    }
}

struct Taken {
    framed: Option<(Bytes, u32)>,
    gaps: Vec<v1::Gap>,
    rest: Option<Bytes>,
}

/// What of a delivery a reader is sent now: as many messages as it may be. `None` when there is nothing in it.
fn take(filling: &mut Filling, delivery: Bytes, allowance: u64) -> Option<Taken> {
    if !is_messages(&delivery) {
        let told = v1::Delivery::decode(delivery).ok()?;
        let gaps = told.gaps;
        for gap in &gaps {
            note(&mut filling.lacking, gap.vbucket, Offset(gap.to));
        }
        for cursor in &told.cursors {
            note(&mut filling.lacking, cursor.vbucket, Offset(cursor.offset));
        }
        if gaps.is_empty() && told.cursors.is_empty() {
            return None;
        }
        let framed =
            frame::encode(&v1::Delivery { gaps: gaps.clone(), cursors: told.cursors, ..v1::Delivery::default() });
        return Some(Taken { framed: Some((framed, 0)), gaps, rest: None });
    }
    let (mut taken, mut end) = (0_u32, 0);
    for (span, message) in stored_messages(&delivery).flatten() {
        if u64::from(taken) >= allowance {
            break;
        }
        if let Ok(fields) = Fields::scan(message) {
            note(&mut filling.lacking, fields.vbucket, Offset(fields.offset).plus(1));
        }
        taken += 1;
        end = (span.start + span.len) as usize;
    }
    let rest = (end < delivery.len()).then(|| delivery.slice(end..));
    let framed = (taken > 0).then(|| {
        let mut framed = Vec::with_capacity(frame::PREFIX_LEN + end);
        framed.extend_from_slice(&frame::prefix(end));
        framed.extend_from_slice(delivery.get(..end).unwrap_or_default());
        (Bytes::from(framed), taken)
    });
    Some(Taken { framed, gaps: Vec::new(), rest })
}

/// Field 1, length-delimited: how a delivery of messages begins.
const TAG_MESSAGES: u8 = 1 << 3 | 2;

fn is_messages(delivery: &Bytes) -> bool {
    delivery.first() == Some(&TAG_MESSAGES)
}

fn note(lacking: &mut BTreeMap<VBucketId, Range>, vbucket: u32, next: Offset) {
    let known = u16::try_from(vbucket).ok().and_then(|vbucket| lacking.get_mut(&VBucketId(vbucket)));
    if let Some(range) = known {
        range.from = Some(range.from.map_or(next, |from| from.max(next)));
    }
}
