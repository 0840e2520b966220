//! The token ring: in which order nodes are candidates for a vbucket.
//!
//! Every node owns [`TOKENS_PER_NODE`] tokens, derived from its id alone, on the same circle that messages are hashed
//! to. The candidates of a vbucket are the nodes met when walking clockwise from the first token of its range. Many
//! tokens per node mean that the neighbours of a node's vbuckets are spread over all others, so that its death burdens
//! everybody a little and nobody much (consistent hashing, Karger et al. 1997; virtual nodes, Dynamo 2007).

use broky_proto::id::{NodeId, Token, VBucketCount, VBucketId};

/// Tokens each node owns.
pub const TOKENS_PER_NODE: u8 = 64;

/// Every node's tokens, in clockwise order.
#[derive(Clone, Debug)]
pub struct TokenRing {
    points: Vec<(Token, NodeId)>,
}

impl TokenRing {
    /// The ring of these nodes.
    #[must_use]
    pub fn new(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let mut points: Vec<_> =
            nodes.into_iter().flat_map(|node| tokens_of(node).map(move |token| (token, node))).collect();
        // Two nodes may own the same token; the lower id then comes first, everywhere.
        points.sort_unstable();
        Self { points }
    }

    /// The owners of the tokens clockwise from `from`, once around. A node comes up once for each of its tokens.
    pub fn walk(&self, from: Token) -> impl Iterator<Item = NodeId> + '_ {
        let start = self.points.partition_point(|(token, _)| *token < from);
        let (before, after) = self.points.split_at_checked(start).unwrap_or((&self.points, &[]));
        after.iter().chain(before).map(|(_, node)| *node)
    }
}

/// The tokens a node owns.
pub fn tokens_of(node: NodeId) -> impl Iterator<Item = Token> {
    (0..TOKENS_PER_NODE).map(move |nth| token_from(mix(u64::from(node.0) << 8 | u64::from(nth))))
}

/// The first token of a vbucket's range, where the walk to its candidates begins.
#[must_use]
pub fn range_start(vbucket: VBucketId, vbuckets: VBucketCount) -> Token {
    let bits = vbuckets.get().trailing_zeros();
    token_from(u64::from(vbucket.0) << (u64::BITS - bits).min(u64::BITS - 1))
}

/// How far it is, clockwise, from one token to another.
#[must_use]
pub fn distance(from: Token, to: Token) -> u32 {
    to.0.wrapping_sub(from.0)
}

/// The upper half of `bits`.
fn token_from(bits: u64) -> Token {
    Token(u32::try_from(bits >> u32::BITS).unwrap_or(u32::MAX))
}

/// The finaliser of splitmix64: every bit of the input moves about half the bits of the output.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_starts_where_the_vbucket_does() {
        for count in [1, 2, 1024, 32_768] {
            let count = VBucketCount::new(count).unwrap();
            for vbucket in count.iter() {
                let start = range_start(vbucket, count);
                assert_eq!(count.vbucket_of(start), vbucket);
                assert!(start.0 == 0 || count.vbucket_of(Token(start.0 - 1)).0 == vbucket.0 - 1);
            }
        }
    }

    #[test]
    fn walk_meets_every_token_once_and_goes_clockwise() {
        let ring = TokenRing::new((1..=5).map(NodeId));
        for from in [0, 1, 1 << 31, u32::MAX].map(Token) {
            let walked: Vec<_> = ring.walk(from).collect();
            assert_eq!(walked.len(), 5 * usize::from(TOKENS_PER_NODE));
            let nearest = |node: NodeId| tokens_of(node).map(|token| distance(from, token)).min().unwrap();
            let closest = (1..=5).map(NodeId).min_by_key(|node| nearest(*node)).unwrap();
            assert_eq!(walked[0], closest);
        }
    }

    #[test]
    fn tokens_do_not_depend_on_other_nodes() {
        let all: Vec<_> = TokenRing::new((1..=9).map(NodeId)).walk(Token(7)).filter(|n| n.0 != 4).collect();
        let without: Vec<_> = TokenRing::new((1..=9).filter(|n| *n != 4).map(NodeId)).walk(Token(7)).collect();
        assert_eq!(all, without);
    }

    #[test]
    fn empty_ring_has_no_candidates() {
        assert_eq!(TokenRing::new([]).walk(Token(3)).count(), 0);
    }
}
