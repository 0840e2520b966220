//! Where a vbucket's messages should go, and where they have to go for now.
//!
//! Pure. The cluster map says which node leads a vbucket: the *way* its messages should take. The *pin* says in which
//! lane its latest messages went, and at which mark of that lane's window they are settled. While they are not, the
//! vbucket stays in that lane: in another it could overtake itself.
//!
//! A pin is a mark and not a count, so that settling costs nothing per message. It holds a little longer than needed,
//! until everything sent before in the same lane is settled too; since answers come in order, that is the same moment
//! unless something was refused.
//!
//! The hard case: a cluster that was founded anew may have another number of vbuckets. If it has more, pins become
//! finer. If it has fewer, what is unsettled of one may be in two lanes, and the sequences of one lane may be between
//! those of the other: then everything is given up, as it was pushed to a cluster that is no more.

use std::sync::Arc;

use broky_proto::id::{Token, VBucketCount};

use super::Slot;
use crate::topology::Topology;

/// The node that leads some vbuckets, and the group of them that share their fate.
#[derive(Debug)]
pub(super) struct Way {
    /// `host:port`. Nodes are told apart by it, since it is what a lane connects to.
    pub(super) address: Arc<str>,
    pub(super) group: u32,
    /// The lane to it, once there was something to send.
    pub(super) lane: Option<Slot>,
}

/// Where a vbucket's latest messages went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pin {
    /// `None`: nothing is unsettled, wherever that was.
    pub(super) lane: Option<Slot>,
    pub(super) mark: u64,
}

/// A vbucket's pin, by its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PinId(usize);

impl PinId {
    /// The place of no pin.
    pub(super) const NONE: Self = Self(usize::MAX);
}

/// See the module.
#[derive(Debug)]
pub(super) struct Routes {
    pub(super) count: VBucketCount,
    /// Per vbucket: place of its leader's way.
    leaders: Vec<Option<u16>>,
    pub(super) ways: Vec<Way>,
    /// Every node of the cluster.
    nodes: Vec<Arc<str>>,
    /// Per vbucket.
    pins: Vec<Pin>,
}

impl Routes {
    /// Routes without a way, with every vbucket pinned alike.
    pub(super) fn new(count: VBucketCount, pin: Pin) -> Self {
        Self {
            count,
            leaders: vec![None; count.len()],
            ways: Vec::new(),
            nodes: Vec::new(),
            pins: vec![pin; count.len()],
        }
    }

    /// Takes the leaders from a map. Lanes are to be assigned anew: `lane` tells which there is to an address.
    pub(super) fn handle_map(&mut self, map: &Topology, lane: impl Fn(&str, u32) -> Option<Slot>) {
        self.nodes = map.addresses();
        self.divide(map.vbucket_count());
        self.ways.clear();
        let mut leaders = Vec::with_capacity(self.count.len());
        for vbucket in self.count.iter() {
            let address = map.leader(vbucket).map(|(node, _)| node.address.as_str());
            let address = address.filter(|address| !address.is_empty());
            leaders.push(address.and_then(|address| self.way_to(address, map.group(vbucket))));
        }
        for way in &mut self.ways {
            way.lane = lane(&way.address, way.group);
        }
        self.leaders = leaders;
    }

    /// The way of a group to an address, which is made if there is none.
    fn way_to(&mut self, address: &str, group: u32) -> Option<u16> {
        let at = match self.ways.iter().position(|way| way.group == group && *way.address == *address) {
            Some(at) => at,
            None => {
                self.ways.push(Way { address: Arc::from(address), group, lane: None });
                self.ways.len() - 1
            }
        };
        u16::try_from(at).ok()
    }

    /// Takes another number of vbuckets. Both are powers of two.
    fn divide(&mut self, count: VBucketCount) {
        self.pins = match count.len().checked_div(self.count.len()) {
            // Nothing is unsettled.
            None | Some(0) => vec![Pin { lane: None, mark: 0 }; count.len()],
            Some(factor) => self.pins.iter().flat_map(|pin| std::iter::repeat_n(*pin, factor)).collect(),
        };
        self.count = count;
    }

    /// Whether the cluster has this node.
    pub(super) fn has_node(&self, address: &str) -> bool {
        self.nodes.iter().any(|node| **node == *address)
    }

    /// Whether there is no choice between nodes.
    pub(super) fn is_trivial(&self) -> bool {
        self.nodes.len() <= 1
    }

    /// The pin of a token.
    #[inline]
    pub(super) fn pin(&self, token: Token) -> (PinId, Pin) {
        let at = usize::from(self.count.vbucket_of(token).0);
        (PinId(at), self.pins.get(at).copied().unwrap_or(Pin { lane: None, mark: 0 }))
    }

    /// Pins a vbucket.
    #[inline]
    pub(super) fn set_pin(&mut self, id: PinId, pin: Pin) {
        if let Some(place) = self.pins.get_mut(id.0) {
            *place = pin;
        }
    }

    /// The way a token should take; `None` while its vbucket has no leader.
    #[inline]
    pub(super) fn way(&self, token: Token) -> Option<usize> {
        let leader = self.leaders.get(usize::from(self.count.vbucket_of(token).0));
        leader.copied().flatten().map(usize::from)
    }

    /// The lane of a way, if there is one.
    #[inline]
    pub(super) fn lane(&self, way: usize) -> Option<Slot> {
        self.ways.get(way).and_then(|way| way.lane)
    }

    /// A lane is gone; nothing in it was unsettled.
    pub(super) fn forget_lane(&mut self, lane: Slot) {
        for way in self.ways.iter_mut().filter(|way| way.lane == Some(lane)) {
            way.lane = None;
        }
        for pin in self.pins.iter_mut().filter(|pin| pin.lane == Some(lane)) {
            pin.lane = None;
        }
    }

    #[cfg(test)]
    pub(super) fn pins(&self) -> &[Pin] {
        &self.pins
    }
}

#[cfg(test)]
mod tests {
    use broky_proto::v1;

    use super::*;

    fn map(addresses: &[&str], leaders: &[u32]) -> Topology {
        let node = |address: &&str| v1::TopologyNode { address: (*address).to_owned(), ..v1::TopologyNode::default() };
        Topology::new(v1::TopologyResponse {
            cluster_id: vec![1; 16].into(),
            map_version: 1,
            vbuckets: u32::try_from(leaders.len()).unwrap(),
            nodes: addresses.iter().map(node).collect(),
            leaders: leaders.to_vec(),
            epochs: vec![1; leaders.len()],
            groups: Vec::new(),
        })
        .unwrap()
    }

    fn free() -> Pin {
        Pin { lane: None, mark: 0 }
    }

    /// The lowest token of a vbucket.
    fn token(vbucket: u32, count: u32) -> Token {
        Token(u32::try_from(u64::from(vbucket) * (1 << 32) / u64::from(count)).unwrap())
    }

    #[test]
    fn token_takes_the_way_to_its_leader() {
        let mut routes = Routes::new(VBucketCount::new(4).unwrap(), free());
        routes.handle_map(&map(&["a:1", "b:1", ""], &[2, 1, 0, 3]), |_, _| None);
        let address = |vbucket| routes.way(token(vbucket, 4)).map(|way| &*routes.ways[way].address);
        assert_eq!([address(0), address(1), address(2)], [Some("b:1"), Some("a:1"), None]);
        assert_eq!(address(3), None, "a node without an address cannot be gone to");
    }

    #[test]
    fn nodes_at_one_address_are_one_way() {
        let mut routes = Routes::new(VBucketCount::new(2).unwrap(), free());
        routes.handle_map(&map(&["a:1", "a:1"], &[1, 2]), |_, _| None);
        assert_eq!(routes.ways.len(), 1);
    }

    #[test]
    fn pins_get_finer_or_are_let_go() {
        let pin = Pin { lane: Some(Slot::FIRST), mark: 7 };
        let mut routes = Routes::new(VBucketCount::new(2).unwrap(), free());
        let (upper, _) = routes.pin(token(1, 2));
        routes.set_pin(upper, pin);
        routes.handle_map(&map(&["a:1"], &[1, 1, 1, 1]), |_, _| None);
        let marks = |routes: &Routes| routes.pins().iter().map(|pin| pin.mark).collect::<Vec<_>>();
        assert_eq!(marks(&routes), [0, 0, 7, 7]);
        routes.handle_map(&map(&["a:1"], &[1, 1]), |_, _| None);
        assert_eq!(routes.pins().len(), 2);
        assert!(routes.pins().iter().all(|pin| pin.lane.is_none()));
    }
}
