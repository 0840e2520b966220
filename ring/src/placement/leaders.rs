//! Choosing the leaders: one of each vbucket's copies, so that no node leads more than its share.
//!
//! Moving leadership within a set copies no data. Where the other copies of an overburdened node's vbuckets are with
//! nodes that are full as well, leadership is passed on along a chain.

use broky_proto::id::VBucketId;

use super::chain;
use super::draft::Draft;
use super::field::Seat;

impl Draft<'_> {
    /// Gives every vbucket without a leader the one of its seats that leads least; of equals the first.
    pub(super) fn choose_leaders(&mut self) {
        for vbucket in self.field.vbuckets.iter() {
            if self.leader(vbucket).is_none()
                && let Some(seat) = self.set(vbucket).iter().copied().min_by_key(|seat| self.lead_load(*seat))
            {
                self.lead(vbucket, seat);
            }
        }
    }

    /// Brings every seat's leaders within the limits, as far as its copies allow.
    pub(super) fn level_leaders(&mut self) {
        let share = self.field.lead_share;
        let (least, most) = self.limits(share).into_inner();
        for seat in self.field.seats() {
            if self.field.is_open(seat) && self.lead_load(seat) < least {
                while self.lead_load(seat) < share.floor() && self.pass_leadership(seat, share.floor()) {}
            }
        }
        while self.field.seats().any(|seat| self.lead_load(seat) > most) {
            let mut receivers: Vec<Seat> =
                self.field.seats().filter(|seat| self.lead_load(*seat) < share.ceil()).collect();
            receivers.sort_by_key(|seat| (self.lead_load(*seat), *seat));
            if !receivers.into_iter().any(|seat| self.pass_leadership(seat, most)) {
                break;
            }
        }
    }

    /// Passes leadership of one vbucket on to `to`, along a chain that begins at a seat leading more than `over`. False
    /// when there is no such chain.
    fn pass_leadership(&mut self, to: Seat, over: u64) -> bool {
        let has_spare = |seat: Seat| self.lead_load(seat) > over;
        let givers = |next: Seat| {
            let led = |vbucket: &VBucketId| self.leader(*vbucket).map(|leader| (*vbucket, leader));
            self.held(next).iter().filter_map(led)
        };
        let Some(hops) = chain::shortest(self.field.seats().count(), to, has_spare, givers) else { return false };
        // The hops concern different vbuckets: each has one leader, and a chain meets a leader once.
        hops.iter().for_each(|hop| self.lead(hop.vbucket, hop.to));
        true
    }
}
