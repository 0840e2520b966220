//! Which of a producer's lanes a message goes to.
//!
//! Pure. A lane is a window; all of them number their messages from one count. Each leads to the node that leads the
//! vbuckets it carries, and carries one group of those: a request is answered as a whole, so what one vbucket waits
//! for, a follower that died or its own move, would hold up whatever else is in it. Which lane is right never matters
//! for correctness, only for the way a message takes: any node takes any message, and forwards what it does not lead.
//!
//! While there is no map, or only one node, everything goes to one lane and nothing is computed per message.
//!
//! **Invariant:** messages of one vbucket that are unsettled at the same time are in one lane ([`routes`]), or
//! those in the one lane are not sent before those in the other are settled ([`changeover`]). So they keep their
//! order, for a window keeps the order of what is in it. And a lane goes on in a higher epoch than the lane that a vbucket
//! comes from.

mod changeover;
mod routes;

use std::sync::Arc;

use broky_proto::id::{ProducerEpoch, ProducerId, Token};
use bytes::Bytes;
use tokio::time::Instant;

use self::changeover::Changeover;
use self::routes::{Pin, PinId, Routes};
use super::answer::FlushSummary;
use super::numbering::Numbering;
use super::options::ProducerOptions;
use super::ticket::Outcomes;
use super::window::Window;
use crate::encode::Encoder;
use crate::topology::Topology;

/// A lane's place. Taken again once the lane is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot(u16);

impl Slot {
    pub(super) const FIRST: Self = Self(0);

    pub(super) fn at(self) -> usize {
        usize::from(self.0)
    }
}

/// Everything pushed up to some moment in one lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    lane: Slot,
    serial: u64,
    mark: u64,
}

#[derive(Debug)]
struct Lane {
    window: Window,
    /// Tells lanes apart that had the same slot.
    serial: u64,
    /// The address it should be connected to. `None`: any.
    target: Option<Arc<str>>,
    /// The group that it carries, where it has a target.
    group: u32,
    /// Where its stream leads.
    connected: Option<Arc<str>>,
    is_live: bool,
    /// The cluster has no such node any more: the lane ends once nothing is unsettled.
    is_leaving: bool,
    /// Its mark when the changeover began.
    divided_at: u64,
    /// What has to be settled before its held batches go.
    waits_for: Vec<Mark>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Router {
    options: ProducerOptions,
    numbering: Numbering,
    /// By slot.
    lanes: Vec<Lane>,
    /// Takes everything while there are no routes.
    home: Slot,
    routes: Option<Routes>,
    /// Bytes of unsettled messages in all lanes.
    charge: usize,
    /// Counts of lanes that are gone.
    settled: FlushSummary,
    lanes_ever: u64,
    /// No lane that is gone had a higher epoch.
    past_epoch: ProducerEpoch,
    /// Lanes that no driver attends to yet.
    unattended: Vec<Slot>,
    is_closing: bool,
    changeover: Changeover,
}

impl Router {
    pub(crate) fn new(options: ProducerOptions, producer: ProducerId) -> Self {
        let mut router = Self {
            options,
            numbering: Numbering::new(producer),
            lanes: Vec::new(),
            home: Slot::FIRST,
            routes: None,
            charge: 0,
            settled: FlushSummary::default(),
            lanes_ever: 0,
            past_epoch: ProducerEpoch(0),
            unattended: Vec::new(),
            is_closing: false,
            changeover: Changeover::default(),
        };
        router.home = router.open_lane(None);
        router
    }

    /// Whether a message of this many bytes may be appended now. One that exceeds the whole window may when it is
    /// alone.
    #[inline]
    pub(crate) fn has_room(&self, field_len: usize) -> bool {
        self.charge == 0 || self.charge + field_len <= self.options.in_flight_bytes_max
    }

    /// Appends a message to the open batch of its lane. Gives the lane, what `handle` makes of the batch's outcomes and
    /// the message's index, and whether a batch was closed because it is full.
    #[inline]
    pub(crate) fn append<T>(
        &mut self,
        message: &Encoder<'_>,
        now: impl FnOnce() -> Instant,
        handle: impl FnOnce(&Arc<Outcomes>, u32) -> T,
    ) -> (Slot, T, bool) {
        let (slot, pin) = if self.routes.is_none() { (self.home, PinId::NONE) } else { self.route(message.token()) };
        self.charge += message.field_len();
        let (handle, is_closed) = self.lane_mut(slot).window.append(message, now, handle);
        if pin != PinId::NONE {
            self.set_pin(pin, slot);
        }
        (slot, handle, is_closed)
    }

    /// The lane a message has to take.
    #[inline(never)]
    fn route(&mut self, token: Token) -> (Slot, PinId) {
        let Some(routes) = &self.routes else { return (self.home, PinId::NONE) };
        let (id, pin) = routes.pin(token);
        let way = routes.way(token);
        match (pin.lane, way.and_then(|way| routes.lane(way))) {
            (Some(lane), Some(right)) if lane == right => (lane, id),
            (_, right) => {
                let lane = self.change_lane(pin, way, right);
                if pin.lane != Some(lane) {
                    self.go_on_from(pin.lane, lane);
                }
                (lane, id)
            }
        }
    }

    /// A vbucket comes to a lane, from another or from one that is gone.
    fn go_on_from(&mut self, former: Option<Slot>, to: Slot) {
        let epoch = former.map_or(self.past_epoch, |former| self.lane(former).window.epoch());
        self.lane_mut(to).window.go_on_from(epoch);
    }

    /// Notes that a message went to this lane.
    fn set_pin(&mut self, pin: PinId, slot: Slot) {
        let mark = self.lane(slot).window.mark();
        if let Some(routes) = &mut self.routes {
            routes.set_pin(pin, Pin { lane: Some(slot), mark });
        }
    }

    /// The lane of a vbucket that is pinned to another than the right one, or to none.
    fn change_lane(&mut self, pin: Pin, way: Option<usize>, right: Option<Slot>) -> Slot {
        let pinned = pin.lane.filter(|lane| !self.lane(*lane).window.is_settled(pin.mark));
        let Some(way) = way else {
            // Without a leader any node may learn first who it is.
            return pinned.or_else(|| self.any_lane()).unwrap_or_else(|| self.open_lane(None));
        };
        let Some(former) = pinned else { return right.unwrap_or_else(|| self.open_way(way)) };
        self.change_over(former, pin, way, right).unwrap_or(former)
    }

    /// Takes a newer cluster map.
    pub(crate) fn handle_map(&mut self, map: &Topology, now: Instant) {
        if self.routes.is_none() {
            if map.addresses().len() <= 1 {
                return;
            }
            let pin = Pin { lane: Some(self.home), mark: self.lane(self.home).window.mark() };
            self.routes = Some(Routes::new(map.vbucket_count(), pin));
        }
        if self.routes.as_ref().is_some_and(|routes| map.vbucket_count().len() < routes.count.len()) {
            for slot in self.live().collect::<Vec<_>>() {
                self.act(slot, |window| window.give_up_all("the cluster was founded anew, with fewer vbuckets"));
                self.past_epoch = self.past_epoch.max(self.lane(slot).window.epoch());
            }
        }
        if let Some(routes) = &mut self.routes {
            let lanes = &self.lanes;
            routes.handle_map(map, |address, group| {
                let leads_there =
                    |lane: &Lane| lane.is_live && lane.group == group && lane.target.as_deref() == Some(address);
                lanes.iter().position(leads_there).and_then(|at| u16::try_from(at).ok()).map(Slot)
            });
            for lane in &mut self.lanes {
                lane.is_leaving = lane.target.as_ref().is_some_and(|target| !routes.has_node(target));
            }
        }
        for slot in self.live().collect::<Vec<_>>() {
            self.adopt(slot);
        }
        self.changeover.postpone(now);
        self.simplify();
    }

    /// A lane has a stream to this address.
    pub(crate) fn handle_connect(&mut self, slot: Slot, address: &Arc<str>) {
        let lane = self.lane_mut(slot);
        lane.connected = Some(Arc::clone(address));
        lane.window.handle_connect();
        self.adopt(slot);
    }

    /// Makes a lane without a target the lane of the node it happens to be connected to, if that needs one.
    fn adopt(&mut self, slot: Slot) {
        let Some(routes) = &mut self.routes else { return };
        let Some(lane) = self.lanes.get_mut(slot.at()).filter(|lane| lane.is_live && lane.target.is_none()) else {
            return;
        };
        let Some(address) = &lane.connected else { return };
        let way = routes.ways.iter_mut().find(|way| way.address == *address && way.lane.is_none());
        if let Some(way) = way {
            way.lane = Some(slot);
            lane.target = Some(Arc::clone(address));
            lane.group = way.group;
        }
    }

    /// Does something to a lane's window.
    pub(crate) fn act<T>(&mut self, slot: Slot, act: impl FnOnce(&mut Window) -> T) -> T {
        let window = &mut self.lane_mut(slot).window;
        let done = act(window);
        self.charge -= self.lane_mut(slot).window.take_released();
        done
    }

    /// The next request to send in a lane, framed.
    pub(crate) fn next_request(&mut self, slot: Slot) -> Option<Bytes> {
        let Self { lanes, numbering, .. } = self;
        lanes.get_mut(slot.at())?.window.next_request(numbering)
    }

    /// A lane's window.
    #[inline]
    pub(crate) fn window(&self, slot: Slot) -> &Window {
        &self.lane(slot).window
    }

    /// The address a lane should be connected to; `None` for any.
    pub(crate) fn target(&self, slot: Slot) -> Option<Arc<str>> {
        self.lane(slot).target.clone().filter(|_| self.routes.is_some())
    }

    /// Where a lane may go whose node was of no use: to one that leads what its oldest batch waits for, by the newest
    /// map. With each `turn` to another of these, should there be several.
    pub(crate) fn way_out(&self, slot: Slot, avoid: &str, turn: usize) -> Option<Arc<str>> {
        let routes = self.routes.as_ref()?;
        let tokens = self.lane(slot).window.oldest_tokens();
        let ways = tokens.into_iter().filter_map(|token| routes.ways.get(routes.way(token)?));
        let mut leaders: Vec<&Arc<str>> = ways.map(|way| &way.address).filter(|address| ***address != *avoid).collect();
        leaders.sort_unstable();
        leaders.dedup();
        let at = turn.checked_rem(leaders.len())?;
        leaders.get(at).map(|address| Arc::clone(address))
    }

    /// Whether the node that a lane's stream leads to leads no vbucket any more, by the newest map.
    pub(crate) fn is_deserted(&self, slot: Slot) -> bool {
        let (Some(routes), Some(connected)) = (&self.routes, &self.lane(slot).connected) else { return false };
        !routes.ways.is_empty() && !routes.ways.iter().any(|way| way.address == *connected)
    }

    /// Lets every open batch go at the next opportunity. Returns the marks at which everything pushed so far is
    /// settled.
    pub(crate) fn hurry(&mut self) -> Vec<Mark> {
        let live: Vec<Slot> = self.live().collect();
        let mark = |slot: Slot| {
            let lane = self.lane_mut(slot);
            Mark { lane: slot, serial: lane.serial, mark: lane.window.hurry() }
        };
        live.into_iter().map(mark).collect()
    }

    /// Whether everything up to a mark has an outcome.
    pub(crate) fn is_settled(&self, mark: &Mark) -> bool {
        let lane = self.lane(mark.lane);
        !lane.is_live || lane.serial != mark.serial || lane.window.is_settled(mark.mark)
    }

    pub(crate) fn summary(&self) -> FlushSummary {
        let mut summary = self.settled;
        self.lanes.iter().filter(|lane| lane.is_live).for_each(|lane| summary.merge(&lane.window.summary()));
        summary
    }

    /// Takes no more messages.
    pub(crate) fn close(&mut self) {
        self.is_closing = true;
    }

    #[inline]
    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// Whether nothing is to be sent in a lane any more.
    #[inline]
    pub(crate) fn is_over(&self, slot: Slot) -> bool {
        let lane = self.lane(slot);
        (self.is_closing || lane.is_leaving) && lane.window.is_empty()
    }

    /// Whether a lane is one of several, so that it can be done without when it is idle.
    pub(crate) fn is_spare(&self, slot: Slot) -> bool {
        self.lane(slot).window.is_empty() && self.live().nth(1).is_some()
    }

    /// Lanes that have no driver yet.
    pub(crate) fn take_unattended(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.unattended)
    }

    pub(crate) fn has_unattended(&self) -> bool {
        !self.unattended.is_empty()
    }

    /// Every lane there is.
    pub(crate) fn live(&self) -> impl Iterator<Item = Slot> {
        (0_u16..).zip(&self.lanes).filter(|(_, lane)| lane.is_live).map(|(at, _)| Slot(at))
    }

    /// Ends a lane.
    ///
    /// # Panics
    /// When something in it is unsettled.
    pub(crate) fn remove(&mut self, slot: Slot) {
        let options = self.options.clone();
        let lane = self.lane_mut(slot);
        assert!(lane.window.is_empty(), "a lane ends empty");
        assert!(lane.is_live, "a lane ends once");
        lane.is_live = false;
        let (summary, epoch) = (lane.window.summary(), lane.window.epoch());
        lane.window = Window::new(options);
        lane.waits_for.clear();
        self.settled.merge(&summary);
        self.past_epoch = self.past_epoch.max(epoch);
        if let Some(routes) = &mut self.routes {
            routes.forget_lane(slot);
        }
        self.simplify();
    }

    /// Goes back to one lane for everything once there is one node and one lane.
    fn simplify(&mut self) {
        let mut live = self.live();
        if let (Some(only), None) = (live.next(), live.next())
            && self.routes.as_ref().is_some_and(Routes::is_trivial)
        {
            drop(live);
            self.home = only;
            self.go_on_from(None, only);
            self.lane_mut(only).target = None;
            self.lane_mut(only).is_leaving = false;
            self.routes = None;
        }
    }

    /// Asserts what holds between calls.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        self.lanes.iter().for_each(|lane| lane.window.check_invariants());
        let charge: usize = self.lanes.iter().map(|lane| lane.window.charge()).sum();
        assert_eq!(self.charge, charge, "bytes of unsettled messages");
        assert!(self.is_closing || self.routes.is_some() || self.lane(self.home).is_live, "there is a lane to push to");
        for pin in self.routes.iter().flat_map(Routes::pins) {
            assert!(pin.lane.is_none_or(|lane| self.lane(lane).is_live), "pinned to a lane that is gone");
        }
    }

    fn any_lane(&self) -> Option<Slot> {
        self.live().find(|slot| !self.lane(*slot).is_leaving)
    }

    fn open_way(&mut self, way: usize) -> Slot {
        let known = self.routes.as_ref().and_then(|routes| routes.ways.get(way));
        let (address, group) = known.map(|way| (Arc::clone(&way.address), way.group)).unzip();
        let slot = self.open_lane(address);
        self.lane_mut(slot).group = group.unwrap_or_default();
        if let Some(way) = self.routes.as_mut().and_then(|routes| routes.ways.get_mut(way)) {
            way.lane = Some(slot);
        }
        slot
    }

    fn open_lane(&mut self, target: Option<Arc<str>>) -> Slot {
        let window = Window::new(self.options.clone());
        self.lanes_ever += 1;
        let lane = Lane {
            divided_at: window.mark(),
            window,
            serial: self.lanes_ever,
            target,
            group: 0,
            connected: None,
            is_live: true,
            is_leaving: false,
            waits_for: Vec::new(),
        };
        let free = self.lanes.iter().position(|lane| !lane.is_live);
        let at = free.unwrap_or(self.lanes.len());
        // There are a few lanes per node, and those are far fewer.
        let slot = Slot(u16::try_from(at).unwrap_or(u16::MAX));
        match self.lanes.get_mut(at) {
            Some(place) => *place = lane,
            None => self.lanes.push(lane),
        }
        self.unattended.push(slot);
        slot
    }

    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "slots are given out for lanes that exist, and lanes are never removed"
    )]
    fn lane(&self, slot: Slot) -> &Lane {
        &self.lanes[slot.at()]
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "as in `lane`")]
    fn lane_mut(&mut self, slot: Slot) -> &mut Lane {
        &mut self.lanes[slot.at()]
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod model;

#[cfg(test)]
mod model_tests;
