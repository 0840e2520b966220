//! History that subscriptions here need of other nodes: asked of the vbuckets' leaders, again where that fails.

use std::collections::BTreeMap;

use broky_delivery::{Range, SubscriptionId};
use broky_proto::data_v1::{History, HistoryRange};
use broky_proto::error::Refusal;
use broky_proto::frame;
use broky_proto::id::{Member, VBucketId};
use broky_proto::v1::ErrorCode;
use bytes::Bytes;

use crate::outbox::{HistoryId, Outbox};
use crate::shard::Shard;

type Ranges = Vec<(VBucketId, Range)>;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Histories {
    next: u64,
    open: BTreeMap<HistoryId, (SubscriptionId, Vec<VBucketId>)>,
    waiting: Vec<(SubscriptionId, Ranges)>,
}

impl Shard {
    /// Whether a subscription here waits for history.
    #[must_use]
    pub fn has_histories(&self) -> bool {
        !self.histories.open.is_empty() || !self.histories.waiting.is_empty()
    }

    /// Asks for the history that subscriptions need.
    pub(crate) fn ask_for_histories(&mut self, out: &mut Outbox) {
        let mut wanted = std::mem::take(&mut self.histories.waiting);
        wanted.append(&mut self.delivery.take_fills());
        for (id, ranges) in wanted {
            let Some((patterns, key_partitions)) = self.delivery.asked_by(id) else { continue };
            let mut by_member: BTreeMap<Member, Ranges> = BTreeMap::new();
            let mut waiting = Vec::new();
            for (vbucket, range) in ranges {
                match self.leaders.get(usize::from(vbucket.0)).copied().flatten() {
                    Some(leader) if leader == self.config.me => {
                        // It has come to be held here: opened anew, the subscription reads it from memory.
                        let reason = format!("vbucket {vbucket} has moved to this node");
                        self.delivery.end(id, Refusal::new(ErrorCode::NotReady, reason));
                        out.wake.push(id);
                    }
                    Some(leader) => by_member.entry(leader).or_default().push((vbucket, range)),
                    None => waiting.push((vbucket, range)),
                }
            }
            if !waiting.is_empty() {
                self.histories.waiting.push((id, waiting));
            }
            for (member, ranges) in by_member {
                self.histories.next += 1;
                let name = HistoryId(self.histories.next);
                let vbuckets = ranges.iter().map(|(vbucket, _)| *vbucket).collect();
                self.histories.open.insert(name, (id, vbuckets));
                let ranges = ranges.iter().map(|(vbucket, range)| HistoryRange {
                    vbucket: u32::from(vbucket.0),
                    lineage: range.lineage.0,
                    has_from: range.from.is_some(),
                    from: range.from.unwrap_or_default().0,
                    to: range.to.0,
                });
                let (patterns, key_partitions) = (patterns.clone(), key_partitions.clone());
                let history = History { patterns, key_partitions, ranges: ranges.collect() };
                out.histories.push((name, member, frame::encode(&history)));
            }
        }
    }

    /// Takes a delivery of history, as it came.
    pub fn handle_history(&mut self, name: HistoryId, delivery: Bytes, out: &mut Outbox) {
        if let Some((id, _)) = self.histories.open.get(&name) {
            self.delivery.handle_fill(*id, delivery, &mut out.wake);
        }
    }

    /// Takes the end of a history: everything came, or the stream broke.
    pub fn handle_history_end(&mut self, name: HistoryId, is_whole: bool, out: &mut Outbox) {
        if let Some((id, vbuckets)) = self.histories.open.remove(&name) {
            self.delivery.handle_fill_end(id, vbuckets, is_whole, &mut out.wake);
        }
    }

    /// Whether a subscription waits to be confirmed for what this history begins with.
    #[must_use]
    pub fn is_history_unheard(&self, name: HistoryId) -> bool {
        let open = self.histories.open.get(&name);
        open.is_some_and(|(id, vbuckets)| self.delivery.is_fill_unheard(*id, vbuckets))
    }

    /// Deliveries of history that the subscription of this one has not been sent yet; `None` when nobody waits for it
    /// any more.
    #[must_use]
    pub fn history_backlog(&self, name: HistoryId) -> Option<usize> {
        let (id, vbuckets) = self.histories.open.get(&name)?;
        self.delivery.fill_backlog(*id, vbuckets)
    }
}
