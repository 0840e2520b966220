//! What subscriptions need of other nodes: interests to be relayed, and history that is not held here.

use broky_proto::id::VBucketId;
use bytes::Bytes;

use crate::delivery::Delivery;
use crate::fill::Range;
use crate::interest::{InterestId, InterestKey};
use crate::subscription::SubscriptionId;

/// Names an interest of this core's readers. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WantId(pub u64);

/// What has come to be wanted, or is no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Want {
    /// Readers ask for this.
    Begun(WantId, InterestKey),
    /// None of them does any more.
    Ended(WantId),
}

#[derive(Debug, Default)]
pub(crate) struct News {
    wants: Vec<Want>,
    pub(crate) fills: Vec<(SubscriptionId, Vec<(VBucketId, Range)>)>,
}

impl InterestKey {
    /// What is asked for, as it goes over the wire: patterns and key_partitions.
    #[must_use]
    pub fn to_parts(&self) -> (Vec<Bytes>, Vec<Bytes>) {
        (self.patterns.iter().map(|pattern| pattern.to_bytes().into()).collect(), self.key_partitions.clone())
    }
}

impl Delivery {
    /// What has come to be wanted since the last call, in that order.
    pub fn take_wants(&mut self) -> Vec<Want> {
        std::mem::take(&mut self.news.wants)
    }

    /// History that subscriptions need of other nodes, since the last call.
    pub fn take_fills(&mut self) -> Vec<(SubscriptionId, Vec<(VBucketId, Range)>)> {
        std::mem::take(&mut self.news.fills)
    }

    /// What a subscription asks for, as it goes over the wire; `None` when it is over.
    #[must_use]
    pub fn asked_by(&self, id: SubscriptionId) -> Option<(Vec<Bytes>, Vec<Bytes>)> {
        let interest = self.interests.get(self.subscription(id)?.interest)?;
        Some(interest.key.to_parts())
    }

    /// Counts a reader of an interest.
    pub(crate) fn note_reader(&mut self, id: InterestId) {
        let Some(interest) = self.interests.get_mut(id) else { return };
        interest.readers += 1;
        if interest.readers == 1 {
            self.news.wants.push(Want::Begun(want_id(id, interest.generation), interest.key.clone()));
        }
    }

    /// Takes a reader from an interest.
    pub(crate) fn forget_reader(&mut self, id: InterestId) {
        let generation = self.interests.next_generation();
        let Some(interest) = self.interests.get_mut(id).filter(|interest| interest.readers > 0) else { return };
        interest.readers -= 1;
        if interest.readers == 0 {
            interest.covered.fill(false);
            self.news.wants.push(Want::Ended(want_id(id, interest.generation)));
            // Asked for again, it is another one.
            interest.generation = generation;
        }
    }

    /// Notes that what is relayed into a feed holds from here on whatever an interest wants.
    pub fn set_covered(&mut self, want: WantId, feed: crate::feed::FeedId, wake: &mut Vec<SubscriptionId>) {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is the place in the table")]
        let id = InterestId(want.0 as u32);
        let Some(interest) = self.interests.get_mut(id).filter(|it| want_id(id, it.generation) == want) else { return };
        if let Some(covered) = interest.covered.get_mut(usize::from(feed.0)) {
            *covered = true;
        }
        self.begin_waiting(wake);
    }
}

fn want_id(InterestId(id): InterestId, generation: u32) -> WantId {
    WantId(u64::from(generation) << 32 | u64::from(id))
}
