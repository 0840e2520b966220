//! What was pushed, what a subscriber got, and whether the two agree.

use std::collections::BTreeMap;

use broky_client::{Batch, MessageView, Subscription};

use crate::wait::in_time;

/// What a subscriber got, in the order in which it got it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Ledger {
    /// Payloads per key_partition.
    pub partitions: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    /// Payload by vbucket and offset.
    pub places: BTreeMap<(u16, u64), Vec<u8>>,
    /// How many messages there are.
    pub messages: u64,
    /// How many messages gaps told of.
    pub missed: u64,
}

impl Ledger {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads until that many messages came or were told as missed.
    ///
    /// # Panics
    /// When a message comes twice or out of order, when the subscription ends, or when too little comes.
    pub async fn read(&mut self, subscription: &mut Subscription, total: u64) {
        while self.messages + self.missed < total {
            let so_far = format!("{} messages and {} missed of {total}", self.messages, self.missed);
            let batch = in_time(&so_far, subscription.next_batch()).await;
            self.add(&batch.unwrap_or_else(|| panic!("ended after {so_far}")).unwrap());
        }
        assert_eq!(self.messages + self.missed, total, "{} came, {} missed", self.messages, self.missed);
    }

    /// Takes in a batch.
    ///
    /// # Panics
    /// When a message comes twice, or behind a later one of its vbucket.
    pub fn add(&mut self, batch: &Batch) {
        self.missed += batch.gaps().map(|gap| gap.to.since(gap.from)).sum::<u64>();
        for message in batch.messages() {
            self.add_message(&message);
        }
    }

    fn add_message(&mut self, message: &MessageView<'_>) {
        let place = (message.vbucket().0, message.offset().0);
        let later = self.places.range(place..=(place.0, u64::MAX)).next();
        assert!(later.is_none(), "{place:?} after {later:?}");
        self.places.insert(place, message.payload().to_vec());
        self.messages += 1;
        let partition = if message.key_partition().is_empty() { message.key() } else { message.key_partition() };
        self.partitions.entry(partition.to_vec()).or_default().push(message.payload().to_vec());
    }

    /// Every payload, sorted.
    #[must_use]
    pub fn payloads(&self) -> Vec<Vec<u8>> {
        let mut all: Vec<_> = self.places.values().cloned().collect();
        all.sort_unstable();
        all
    }
}
