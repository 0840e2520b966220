//! What placement decides upon: the nodes as seats, their zones and shares, and the ring.

use broky_proto::id::{NodeId, Token, VBucketCount, VBucketId};

use super::Candidate;
use super::share::{Share, ZoneRule, zone_rules};
use crate::member::Zone;
use crate::ring::{TokenRing, distance, range_start, tokens_of};

/// A node, by its rank among the candidates' ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Seat(pub(super) usize);

/// The fixed side of one placement.
pub(super) struct Field {
    pub(super) vbuckets: VBucketCount,
    /// Copies of each vbucket: never more than there are seats.
    pub(super) replicas: usize,
    /// Leaders per seat.
    pub(super) lead_share: Share,
    seats: Vec<SeatInfo>,
    zones: Vec<ZoneRule>,
    ring: TokenRing,
}

struct SeatInfo {
    node: NodeId,
    zone: usize,
    is_open: bool,
    tokens: Vec<Token>,
}

impl Field {
    pub(super) fn new(nodes: &[Candidate], vbuckets: VBucketCount, replicas: u8) -> Self {
        let mut nodes: Vec<&Candidate> = nodes.iter().collect();
        nodes.sort_by_key(|candidate| candidate.node);
        nodes.dedup_by_key(|candidate| candidate.node);
        let mut names: Vec<&Zone> = nodes.iter().map(|candidate| &candidate.zone).collect();
        names.sort_unstable();
        names.dedup();
        let replicas = usize::from(replicas).min(nodes.len());
        let sizes: Vec<u64> =
            names.iter().map(|name| count(nodes.iter().filter(|c| c.zone == **name).count())).collect();
        let seat = |candidate: &&Candidate| SeatInfo {
            node: candidate.node,
            zone: names.binary_search(&&candidate.zone).unwrap_or_default(),
            is_open: candidate.is_open,
            tokens: sorted(tokens_of(candidate.node).collect()),
        };
        Self {
            vbuckets,
            replicas,
            lead_share: Share::new(u64::from(vbuckets.get()), count(nodes.len())),
            zones: zone_rules(&sizes, u64::from(vbuckets.get()), count(replicas)),
            ring: TokenRing::new(nodes.iter().map(|candidate| candidate.node)),
            seats: nodes.iter().map(seat).collect(),
        }
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = Seat> + use<> {
        (0..self.seats.len()).map(Seat)
    }

    pub(super) fn seat_of(&self, node: NodeId) -> Option<Seat> {
        self.seats.binary_search_by_key(&node, |info| info.node).ok().map(Seat)
    }

    pub(super) fn node(&self, seat: Seat) -> Option<NodeId> {
        self.seats.get(seat.0).map(|info| info.node)
    }

    pub(super) fn is_open(&self, seat: Seat) -> bool {
        self.seats.get(seat.0).is_some_and(|info| info.is_open)
    }

    /// Copies for this seat.
    pub(super) fn share(&self, seat: Seat) -> Share {
        self.zones.get(self.zone(seat)).map_or(Share::new(0, 1), |rule| rule.share)
    }

    /// The seats met clockwise from where the vbucket begins, once per token.
    pub(super) fn walk(&self, vbucket: VBucketId) -> impl Iterator<Item = Seat> + '_ {
        self.ring.walk(range_start(vbucket, self.vbuckets)).filter_map(|node| self.seat_of(node))
    }

    /// How far clockwise the seat's nearest token is from where the vbucket begins: its rank as a candidate.
    pub(super) fn distance(&self, vbucket: VBucketId, seat: Seat) -> u32 {
        let start = range_start(vbucket, self.vbuckets);
        let Some(info) = self.seats.get(seat.0) else { return u32::MAX };
        let next = info.tokens.partition_point(|token| *token < start);
        info.tokens.get(next).or(info.tokens.first()).map_or(u32::MAX, |token| distance(start, *token))
    }

    /// Whether `seat` may join the unfinished set `held`: it is not in it, its zone has room, and the places left after
    /// it still suffice for the zones that must have a copy.
    pub(super) fn fits(&self, held: &[Seat], seat: Seat) -> bool {
        if held.contains(&seat) || held.len() >= self.replicas {
            return false;
        }
        let zone = self.zone(seat);
        let in_zone = |zone: usize| count(held.iter().filter(|other| self.zone(**other) == zone).count());
        let Some(rule) = self.zones.get(zone) else { return false };
        let before = in_zone(zone);
        if before >= rule.at_most {
            return false;
        }
        if before < rule.at_least {
            return true;
        }
        let owed: u64 =
            self.zones.iter().enumerate().map(|(zone, rule)| rule.at_least.saturating_sub(in_zone(zone))).sum();
        owed + count(held.len()) < count(self.replicas)
    }

    /// Whether in the full set `held` `to` may take the place of `from`.
    pub(super) fn can_replace(&self, held: &[Seat], from: Seat, to: Seat) -> bool {
        if held.contains(&to) {
            return false;
        }
        let (leaves, enters) = (self.zone(from), self.zone(to));
        if leaves == enters {
            return true;
        }
        let in_zone = |zone: usize| count(held.iter().filter(|other| self.zone(**other) == zone).count());
        self.zones.get(enters).is_some_and(|rule| in_zone(enters) < rule.at_most)
            && self.zones.get(leaves).is_some_and(|rule| in_zone(leaves) > rule.at_least)
    }

    fn zone(&self, seat: Seat) -> usize {
        self.seats.get(seat.0).map_or(usize::MAX, |info| info.zone)
    }
}

/// A length as a load.
pub(super) fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn sorted(mut tokens: Vec<Token>) -> Vec<Token> {
    tokens.sort_unstable();
    tokens
}
