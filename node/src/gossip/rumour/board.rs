//! What the others say of themselves, as far as it has come here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use broky_proto::id::{Epoch, Member, NodeId, VBucketId};
use broky_ring::map::ClusterMap;

use super::own::Leads;
use super::{Chunk, ChunkId, Digest, Head, Rumour};

/// Time that a missing chunk has to come by itself before it is asked for.
pub(in crate::gossip) const PATIENCE: Duration = Duration::from_millis(300);
/// The longest time between two asks for the same.
const PATIENCE_MAX: Duration = Duration::from_secs(8);

/// What the others say of themselves.
#[derive(Debug, Default)]
pub(in crate::gossip) struct Board {
    others: BTreeMap<NodeId, Other>,
}

#[derive(Debug)]
struct Other {
    member: Member,
    head: Option<Head>,
    chunks: BTreeMap<ChunkId, Chunk>,
    /// Set while the chunks are not what the head says they are, or there is no head.
    missing: Option<Missing>,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    ask_at: Instant,
    asks: u32,
}

impl Other {
    fn new(member: Member) -> Self {
        Self { member, head: None, chunks: BTreeMap::new(), missing: None }
    }

    /// Whether the rumour is news.
    fn accept(&mut self, rumour: Rumour) -> bool {
        match rumour {
            Rumour::Head(head) => {
                let is_news = self.head.as_ref().is_none_or(|known| known.stamp < head.stamp);
                if is_news {
                    self.head = Some(head);
                }
                is_news
            }
            Rumour::Chunk(chunk) => {
                let is_news = self.chunks.get(&chunk.id).is_none_or(|known| known.stamp < chunk.stamp);
                if is_news {
                    self.chunks.insert(chunk.id, chunk);
                }
                is_news
            }
        }
    }

    fn check_whole(&mut self, now: Instant) {
        let is_whole = self.head.as_ref().is_some_and(|head| head.digest == Digest::of(self.chunks.values()));
        self.missing = match self.missing {
            _ if is_whole => None,
            Some(missing) => Some(missing),
            None => Some(Missing { ask_at: now + PATIENCE, asks: 0 }),
        };
    }
}

impl Board {
    /// Follows the map: a process that is no longer in it has said nothing, and all in it should be heard.
    pub(in crate::gossip) fn handle_map(&mut self, now: Instant, map: &ClusterMap, me: Member) {
        self.others.retain(|_, other| map.is_current(other.member));
        for (node, its) in map.nodes().filter(|(node, _)| *node != me.node) {
            let member = Member { node, incarnation: its.incarnation };
            self.others.entry(node).or_insert_with(|| Other::new(member)).check_whole(now);
        }
    }

    /// Takes a rumour about somebody in the map. Whether it is news.
    pub(in crate::gossip) fn accept(&mut self, now: Instant, rumour: Rumour) -> bool {
        let member = rumour.member();
        let Some(other) = self.others.get_mut(&member.node).filter(|other| other.member == member) else {
            return false;
        };
        let is_news = other.accept(rumour);
        if is_news {
            other.check_whole(now);
        }
        is_news
    }

    /// What was heard of a member, encoded.
    pub(in crate::gossip) fn said_by(&self, member: Member) -> Vec<Vec<u8>> {
        let Some(other) = self.others.get(&member.node).filter(|other| other.member == member) else {
            return Vec::new();
        };
        other.head.iter().map(Head::encode).chain(other.chunks.values().map(Chunk::encode)).collect()
    }

    /// The heads, and how many vbuckets each leads.
    pub(in crate::gossip) fn heads(&self) -> impl Iterator<Item = (&Head, usize)> {
        let led = |other: &Other| other.chunks.values().map(|chunk| chunk.led.len()).sum();
        self.others.values().filter_map(move |other| other.head.as_ref().map(|head| (head, led(other))))
    }

    /// Who leads what `mine` has, in a newer epoch.
    pub(in crate::gossip) fn leads_over(&self, mine: &Leads) -> Vec<(VBucketId, Epoch, Member)> {
        self.others.values().flat_map(|other| other.chunks.values()).flat_map(|chunk| leads_over(chunk, mine)).collect()
    }

    /// When somebody's missing chunks are to be asked for.
    pub(in crate::gossip) fn next_ask(&self) -> Option<Instant> {
        self.others.values().filter_map(|other| other.missing).map(|missing| missing.ask_at).min()
    }

    /// Whose chunks are to be asked for now, and how often they were before. The most overdue first, not more than
    /// `max`: the next are due at once.
    pub(in crate::gossip) fn asks(&mut self, now: Instant, max: usize) -> Vec<(Member, u32)> {
        let mut due: Vec<(Member, &mut Missing)> = self
            .others
            .values_mut()
            .filter_map(|other| other.missing.as_mut().map(|missing| (other.member, missing)))
            .filter(|(_, missing)| missing.ask_at <= now)
            .collect();
        due.sort_by_key(|(_, missing)| missing.ask_at);
        due.truncate(max);
        due.into_iter()
            .map(|(member, missing)| {
                let asked_before = missing.asks;
                missing.asks = missing.asks.saturating_add(1);
                missing.ask_at = now + PATIENCE.saturating_mul(1 << missing.asks.min(10)).min(PATIENCE_MAX);
                (member, asked_before)
            })
            .collect()
    }

    /// What is known to be led by a member, and whether that is all it leads.
    #[cfg(test)]
    pub(in crate::gossip) fn led_by(&self, member: Member) -> Option<Leads> {
        let other = self.others.get(&member.node).filter(|other| other.member == member && other.missing.is_none())?;
        Some(other.chunks.values().flat_map(|chunk| chunk.led.iter().copied()).collect())
    }
}

/// What of `mine` the chunk's node leads in a newer epoch.
pub(in crate::gossip) fn leads_over(chunk: &Chunk, mine: &Leads) -> impl Iterator<Item = (VBucketId, Epoch, Member)> {
    let newer = |(vbucket, epoch): &(VBucketId, Epoch)| mine.get(vbucket).is_some_and(|ours| ours < epoch);
    chunk.led.iter().filter(move |led| newer(led)).map(|(vbucket, epoch)| (*vbucket, *epoch, chunk.member))
}
