//! Fair shares: how many copies or leaders a node should have, and how far it may be off.
//!
//! Without zones every node's share is the mean. With zones that is not always possible: where there are three zones
//! and three copies, each zone holds one copy of everything, and the only node of a zone holds everything. So copies
//! are shared out like water: every node gets the same, except in zones that are full or that have to take more.

/// A number of things shared evenly by a number of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    things: u64,
    nodes: u64,
}

impl Share {
    /// `things` shared by `nodes`; sharing among none is sharing among one.
    #[must_use]
    pub fn new(things: u64, nodes: u64) -> Self {
        Self { things, nodes: nodes.max(1) }
    }

    /// The mean, rounded down.
    #[must_use]
    pub fn floor(self) -> u64 {
        self.things / self.nodes
    }

    /// The mean, rounded up.
    #[must_use]
    pub fn ceil(self) -> u64 {
        self.things.div_ceil(self.nodes)
    }

    /// The most one node may have: 5 % over the mean, or the mean rounded up where that is more.
    #[must_use]
    pub fn most(self) -> u64 {
        self.ceil().max(self.things * 105 / (self.nodes * 100))
    }

    /// The least one node may have: 5 % under the mean, or the mean rounded down where that is less. Without it a node
    /// that joins a large cluster would stay empty: nobody else is over the limit.
    #[must_use]
    pub fn least(self) -> u64 {
        self.floor().min((self.things * 95).div_ceil(self.nodes * 100))
    }
}

/// What one zone holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ZoneRule {
    /// Copies of every vbucket that this zone holds at least.
    pub(super) at_least: u64,
    /// Copies of any vbucket that this zone holds at most.
    pub(super) at_most: u64,
    /// Copies per node of this zone.
    pub(super) share: Share,
}

/// The rules for zones of these sizes, none of which is empty.
///
/// With `deep` the smallest number of copies per zone that has room for all, every zone holds `deep - 1` copies of each
/// vbucket (or as many as it has nodes), and some hold one more. With enough zones `deep` is 1: distinct zones.
pub(super) fn zone_rules(sizes: &[u64], vbuckets: u64, replicas: u64) -> Vec<ZoneRule> {
    let room = |deep: u64| -> u64 { sizes.iter().map(|size| deep.min(*size)).sum() };
    let deep = (1..=replicas).find(|deep| room(*deep) >= replicas).unwrap_or(replicas);
    let bounds: Vec<Bounds> = sizes
        .iter()
        .map(|&nodes| Bounds { nodes, at_least: (deep - 1).min(nodes), at_most: deep.min(nodes) })
        .collect();
    let copies = vbuckets * replicas.min(room(replicas));
    let level = Level { bounds: &bounds, vbuckets };
    let states: Vec<State> = bounds.iter().map(|zone| level.state(zone, copies)).collect();
    let fixed: u64 = bounds.iter().zip(&states).map(|(zone, state)| level.fixed(zone, *state)).sum();
    let free = bounds.iter().zip(&states).filter(|(_, state)| **state == State::Free).map(|(zone, _)| zone.nodes).sum();
    let free_share = Share::new(copies.saturating_sub(fixed), free);
    let share = |zone: &Bounds, state| match state {
        State::Free => free_share,
        State::Low | State::Full => Share::new(level.fixed(zone, state), zone.nodes),
    };
    bounds
        .iter()
        .zip(states)
        .map(|(zone, state)| ZoneRule { at_least: zone.at_least, at_most: zone.at_most, share: share(zone, state) })
        .collect()
}

/// One zone's limits per vbucket.
struct Bounds {
    nodes: u64,
    at_least: u64,
    at_most: u64,
}

/// Whether a zone's limits keep its nodes from having what the others have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Low,
    Full,
}

/// All zones' limits, to find the level at which the copies are all shared out.
struct Level<'a> {
    bounds: &'a [Bounds],
    vbuckets: u64,
}

impl Level<'_> {
    /// How this zone stands once `copies` are shared out.
    fn state(&self, zone: &Bounds, copies: u64) -> State {
        if self.held_at(self.vbuckets * zone.at_least, zone.nodes) >= u128::from(copies * zone.nodes) {
            State::Low
        } else if self.held_at(self.vbuckets * zone.at_most, zone.nodes) <= u128::from(copies * zone.nodes) {
            State::Full
        } else {
            State::Free
        }
    }

    /// What all zones hold together when every node has `things / per` where its zone allows, times `per`.
    fn held_at(&self, things: u64, per: u64) -> u128 {
        let held = |zone: &Bounds| {
            let (low, full) = (self.vbuckets * zone.at_least * per, self.vbuckets * zone.at_most * per);
            u128::from((things * zone.nodes).clamp(low, full))
        };
        self.bounds.iter().map(held).sum()
    }

    /// What a zone that is not free holds.
    fn fixed(&self, zone: &Bounds, state: State) -> u64 {
        match state {
            State::Free => 0,
            State::Low => self.vbuckets * zone.at_least,
            State::Full => self.vbuckets * zone.at_most,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(sizes: &[u64], replicas: u64) -> Vec<(u64, u64)> {
        zone_rules(sizes, 1000, replicas).iter().map(|rule| (rule.share.floor(), rule.share.ceil())).collect()
    }

    #[test]
    fn limits_are_five_percent_or_the_next_whole_number() {
        let limits = |things, nodes| (Share::new(things, nodes).least(), Share::new(things, nodes).most());
        assert_eq!(limits(1000, 10), (95, 105));
        assert_eq!(limits(1024, 1000), (1, 2));
        assert_eq!(limits(10, 100), (0, 1));
        assert_eq!(limits(1024, 3), (325, 358));
    }

    #[test]
    fn without_zones_everybody_gets_the_mean() {
        assert_eq!(shares(&[10], 3), [(300, 300)]);
        assert_eq!(shares(&[1; 10], 3), [(300, 300); 10]);
    }

    #[test]
    fn small_zones_take_their_copy_of_everything() {
        assert_eq!(shares(&[1, 1, 8], 3), [(1000, 1000), (1000, 1000), (125, 125)]);
        assert_eq!(shares(&[4, 4, 2], 2), [(200, 200), (200, 200), (200, 200)]);
        assert_eq!(shares(&[8, 1, 1], 2), [(125, 125), (500, 500), (500, 500)]);
    }

    #[test]
    fn fewer_zones_than_copies_hold_the_same_number_give_or_take_one() {
        let rules = zone_rules(&[3, 3], 1000, 3);
        assert!(rules.iter().all(|rule| (rule.at_least, rule.at_most) == (1, 2)));
        let rules = zone_rules(&[1, 5], 1000, 3);
        assert_eq!((rules[0].at_least, rules[0].at_most), (1, 1));
        assert_eq!((rules[1].at_least, rules[1].at_most), (1, 2));
    }

    #[test]
    fn shares_add_up_to_all_copies() {
        for sizes in [vec![1, 2, 3], vec![5, 5, 1, 1], vec![1; 7], vec![40, 1, 1, 1], vec![9]] {
            for replicas in 1..=5.min(sizes.iter().sum()) {
                let rules = zone_rules(&sizes, 1000, replicas);
                let at_most: u64 = rules.iter().zip(&sizes).map(|(rule, size)| rule.share.ceil() * size).sum();
                let at_least: u64 = rules.iter().zip(&sizes).map(|(rule, size)| rule.share.floor() * size).sum();
                assert!((at_least..=at_most).contains(&(1000 * replicas)), "{sizes:?} x{replicas}");
            }
        }
    }
}
