//! How vbuckets under constant load change lanes.
//!
//! Such a vbucket is never without an unsettled message, and would never leave a lane that became the wrong one. So
//! when messages still go astray a while after a map change, a changeover begins: all lanes close their open batches.
//! From then on the next message of a vbucket that is elsewhere than it should be goes to the right lane at once; there
//! its batch, and all behind it, wait until the former lane has settled what it had of that vbucket.
//!
//! **Invariant:** batches from after a changeover's beginning wait for batches from before it only, and the next does
//! not begin before those are settled. So no two batches wait for each other.
//!
//! It begins only while all lanes are well, for what is held waits for the slowest of them: a round trip, then.

use std::time::Duration;

use tokio::time::Instant;

use super::routes::Pin;
use super::{Lane, Mark, Router, Slot};

/// How long vbuckets are left to change lanes by themselves, and the least time between two changeovers.
const WAIT: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Default, Debug)]
pub(super) struct Changeover {
    /// Messages that did not go to their leader's lane since the last look.
    strays: u64,
    /// The earliest next look; `None` before the first map.
    due: Option<Instant>,
    is_running: bool,
}

impl Changeover {
    /// The map changed: vbuckets are given time.
    pub(super) fn postpone(&mut self, now: Instant) {
        self.due = Some(now + WAIT);
    }
}

impl Router {
    /// Begins a changeover, if messages go astray and every lane is well. Batches that were open may go then.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.changeover.is_running || self.changeover.due.is_none_or(|due| due > now) {
            return;
        }
        self.changeover.postpone(now);
        let has_strays = std::mem::take(&mut self.changeover.strays) > 0;
        if !has_strays || self.lanes.iter().any(|lane| lane.is_live && !lane.window.is_flowing()) {
            return;
        }
        self.changeover.is_running = true;
        for lane in &mut self.lanes {
            lane.divided_at = lane.window.divide();
        }
    }

    /// The right lane for the next message of a vbucket that is unsettled in another, if it may go there now.
    pub(super) fn change_over(&mut self, former: Slot, pin: Pin, way: usize, right: Option<Slot>) -> Option<Slot> {
        self.changeover.strays += 1;
        let source = self.lane(former);
        let is_before = pin.mark <= source.divided_at;
        if !self.changeover.is_running || !is_before || !source.window.is_flowing() {
            return None;
        }
        let wait = Mark { lane: former, serial: source.serial, mark: pin.mark };
        let slot = right.unwrap_or_else(|| self.open_way(way));
        let lane = self.lane_mut(slot);
        match lane.waits_for.iter_mut().find(|known| known.lane == former && known.serial == wait.serial) {
            Some(known) => known.mark = known.mark.max(wait.mark),
            None => lane.waits_for.push(wait),
        }
        lane.window.hold_open();
        Some(slot)
    }

    /// Lets held batches go whose wait is over. Returns whether some may have become ready.
    pub(crate) fn settle_changeover(&mut self) -> bool {
        if !self.changeover.is_running {
            return false;
        }
        let mut is_released = false;
        for slot in self.live().collect::<Vec<_>>() {
            let waits_for = std::mem::take(&mut self.lane_mut(slot).waits_for);
            let was_waiting = !waits_for.is_empty();
            let (over, waits_for): (Vec<Mark>, Vec<Mark>) =
                waits_for.into_iter().partition(|wait| self.is_settled(wait));
            for wait in over {
                // It may have gone back since.
                let is_live = self.lane(wait.lane).is_live && self.lane(wait.lane).serial == wait.serial;
                self.go_on_from(is_live.then_some(wait.lane), slot);
            }
            let lane = self.lane_mut(slot);
            if was_waiting && waits_for.is_empty() {
                lane.window.release();
                is_released = true;
            }
            lane.waits_for = waits_for;
        }
        let is_under_way = |lane: &Lane| !lane.waits_for.is_empty() || !lane.window.is_settled(lane.divided_at);
        self.changeover.is_running = self.lanes.iter().any(|lane| lane.is_live && is_under_way(lane));
        is_released
    }

    #[cfg(test)]
    pub(super) fn is_changing_over(&self) -> bool {
        self.changeover.is_running
    }
}
