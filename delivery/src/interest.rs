//! Interests: what subscriptions ask for, kept once however many subscriptions ask for the same.
//!
//! Ten thousand subscribers of one key are one interest: a block is matched, gathered and framed for it once, and each
//! subscriber gets a reference.

use broky_proto::error::Refusal;
use broky_proto::id::{Token, VBucketCount, VBucketId};
use broky_proto::v1::ErrorCode;
use broky_proto::wire::Fields;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use slab::Slab;

use crate::feed::{BlockSeq, FeedId};
use crate::index::PatternIndex;
use crate::pattern::Pattern;
use crate::subscription::SubscriptionId;

/// An interest's place in the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(crate) struct InterestId(pub(crate) u32);

/// What makes two interests the same: sorted, without repetition.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InterestKey {
    pub(crate) patterns: Vec<Pattern>,
    /// Empty: every key_partition.
    pub(crate) key_partitions: Vec<Bytes>,
}

impl InterestKey {
    pub(crate) fn new(mut patterns: Vec<Pattern>, mut key_partitions: Vec<Bytes>) -> Self {
        patterns.sort_unstable();
        patterns.dedup();
        key_partitions.sort_unstable();
        key_partitions.dedup();
        Self { patterns, key_partitions }
    }

    /// What patterns and key_partitions ask for.
    ///
    /// # Errors
    /// The refusal of a pattern that is none.
    pub fn parse(patterns: &[Bytes], key_partitions: &[Bytes]) -> Result<Self, Refusal> {
        let patterns = patterns.iter().map(|pattern| {
            Pattern::parse(pattern).map_err(|error| {
                let text = String::from_utf8_lossy(pattern);
                Refusal::new(ErrorCode::BadPattern, format!("pattern {text:?}: {error}"))
            })
        });
        Ok(Self::new(patterns.collect::<Result<_, _>>()?, key_partitions.to_vec()))
    }

    /// The vbuckets of which something can be wanted; `None` when it can be of any.
    #[must_use]
    pub fn vbuckets(&self, count: VBucketCount) -> Option<Vec<VBucketId>> {
        let vbucket = |partition: &Bytes| count.vbucket_of(Token::of(partition, partition));
        (!self.key_partitions.is_empty()).then(|| self.key_partitions.iter().map(vbucket).collect())
    }
}

/// Patterns from which on an interest keeps an index of its own for reading old blocks.
const OWN_INDEX_PATTERNS_MIN: usize = 16;

#[derive(Debug)]
pub(crate) struct Interest {
    pub(crate) key: InterestKey,
    /// Tells it from what had its place in the table before, or was asked for before.
    pub(crate) generation: u32,
    tokens: Vec<Token>,
    /// For interests of many patterns only.
    own_index: Option<PatternIndex<()>>,
    /// Subscriptions, and other nodes that ask for it.
    users: u32,
    /// Subscriptions of this node's clients.
    pub(crate) readers: u32,
    /// Per feed: whether what is relayed into it holds what this interest wants.
    pub(crate) covered: Vec<bool>,
    /// Per feed: the first block matched with this interest in the index.
    pub(crate) since: Vec<BlockSeq>,
    /// Per feed: readers that have everything, to be woken by the next match.
    pub(crate) live: Vec<Vec<SubscriptionId>>,
}

impl Interest {
    /// Wants everything but system keys, and none of those.
    pub(crate) fn is_match_all(&self) -> bool {
        let patterns = &self.key.patterns;
        !self.is_narrowed() && patterns.iter().any(Pattern::is_match_all) && !patterns.iter().any(Pattern::is_system)
    }

    pub(crate) fn is_narrowed(&self) -> bool {
        !self.key.key_partitions.is_empty()
    }

    /// Whether a message of `token` can be among the wanted key_partitions.
    pub(crate) fn may_want_token(&self, token: Token) -> bool {
        self.tokens.is_empty() || self.tokens.binary_search(&token).is_ok()
    }

    pub(crate) fn wants_partition(&self, key_partition: &[u8]) -> bool {
        !self.is_narrowed()
            || self.key.key_partitions.binary_search_by(|wanted| wanted.as_ref().cmp(key_partition)).is_ok()
    }

    /// Whether the key_partition of a stored message is wanted.
    pub(crate) fn wants_partition_of(&self, message: &[u8], fields: &Fields) -> bool {
        !self.is_narrowed() || self.wants_partition(effective_partition(message, fields))
    }

    /// Whether a stored message is wanted; `scratch` saves an allocation.
    pub(crate) fn wants(&self, message: &[u8], fields: &Fields, scratch: &mut Vec<()>) -> bool {
        let key = fields.key.of(message);
        if !self.wants_partition_of(message, fields) {
            return false;
        }
        match &self.own_index {
            Some(index) => {
                scratch.clear();
                index.matches(key, scratch);
                !scratch.is_empty()
            }
            None => self.key.patterns.iter().any(|pattern| pattern.matches(key)),
        }
    }

    /// Whether messages of `vbucket` can be wanted.
    pub(crate) fn may_want_vbucket(&self, vbucket: VBucketId, vbuckets: VBucketCount) -> bool {
        self.tokens.is_empty() || self.tokens.iter().any(|token| vbuckets.vbucket_of(*token) == vbucket)
    }
}

/// The key_partition that decided a message's vbucket.
pub(crate) fn effective_partition<'a>(message: &'a [u8], fields: &Fields) -> &'a [u8] {
    match fields.key_partition.of(message) {
        [] => fields.key.of(message),
        key_partition => key_partition,
    }
}

/// All interests, and the index that finds them by key.
#[derive(Debug, Default)]
pub(crate) struct Interests {
    table: Slab<Interest>,
    by_key: FxHashMap<InterestKey, InterestId>,
    /// Interests that are not match-all.
    pub(crate) index: PatternIndex<InterestId>,
    /// Interests that are.
    pub(crate) match_all: Vec<InterestId>,
    indexed: usize,
    generation: u32,
}

impl Interests {
    pub(crate) fn get(&self, id: InterestId) -> Option<&Interest> {
        self.table.get(id.0 as usize)
    }

    pub(crate) fn get_mut(&mut self, id: InterestId) -> Option<&mut Interest> {
        self.table.get_mut(id.0 as usize)
    }

    /// Whether any interest has to be found by key.
    pub(crate) fn has_indexed(&self) -> bool {
        self.indexed > 0
    }

    /// Interests whose patterns match a key.
    pub(crate) fn find(&self, key: &[u8], found: &mut Vec<InterestId>) {
        self.index.matches(key, found);
        if !crate::pattern::is_system_key(key) {
            found.extend_from_slice(&self.match_all);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Each interest's readers that have everything of a feed.
    pub(crate) fn live_mut(&mut self, feed: FeedId) -> impl Iterator<Item = &mut Vec<SubscriptionId>> {
        self.table.iter_mut().filter_map(move |(_, interest)| interest.live.get_mut(usize::from(feed.0)))
    }

    /// A number that tells one interest from another in its place.
    pub(crate) fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// Adds one user to the interest with this key. `tails` are the feeds' next blocks.
    pub(crate) fn acquire(&mut self, key: InterestKey, tails: Vec<BlockSeq>) -> InterestId {
        if let Some(id) = self.by_key.get(&key).copied() {
            if let Some(interest) = self.get_mut(id) {
                interest.users += 1;
            }
            return id;
        }
        let mut tokens: Vec<Token> = key.key_partitions.iter().map(|kp| Token::of(kp, kp)).collect();
        tokens.sort_unstable();
        let own_index = (key.patterns.len() >= OWN_INDEX_PATTERNS_MIN).then(|| {
            let mut index = PatternIndex::default();
            key.patterns.iter().for_each(|pattern| index.insert(pattern, ()));
            index
        });
        let live = tails.iter().map(|_| Vec::new()).collect();
        let interest = Interest {
            key: key.clone(),
            generation: self.next_generation(),
            tokens,
            own_index,
            users: 1,
            readers: 0,
            covered: vec![false; tails.len()],
            since: tails,
            live,
        };
        let is_match_all = interest.is_match_all();
        #[expect(clippy::cast_possible_truncation, reason = "subscriptions are bounded far below u32::MAX")]
        let id = InterestId(self.table.insert(interest) as u32);
        if is_match_all {
            self.match_all.push(id);
        } else {
            key.patterns.iter().for_each(|pattern| self.index.insert(pattern, id));
            self.indexed += 1;
        }
        self.by_key.insert(key, id);
        id
    }

    /// Takes one user from an interest; the last one removes it.
    pub(crate) fn release(&mut self, id: InterestId) {
        let Some(interest) = self.get_mut(id) else { return };
        interest.users -= 1;
        if interest.users > 0 {
            return;
        }
        let interest = self.table.remove(id.0 as usize);
        self.by_key.remove(&interest.key);
        if interest.is_match_all() {
            self.match_all.retain(|other| *other != id);
        } else {
            for pattern in &interest.key.patterns {
                self.index.remove(pattern, id);
            }
            self.indexed -= 1;
        }
    }
}
