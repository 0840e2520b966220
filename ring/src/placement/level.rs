//! Levelling the copies: nodes below their limit pull, nodes above it push, and nothing else moves.
//!
//! The limits say when something has to move, the mean says how far: a node that is more than 5 % short is filled to
//! the mean, so that a joining node ends with its share and not with 95 % of it. Copies are taken evenly from those who
//! have most, and of a donor's copies first those that were placed just now (moving them costs nothing), then those for
//! which the receiver is the nearest candidate.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use broky_proto::id::VBucketId;

use super::chain;
use super::draft::Draft;
use super::field::Seat;

impl Draft<'_> {
    /// Brings every seat's copies within its limits, as far as zones allow.
    pub(super) fn level(&mut self) {
        // One exchange can make room for another. Each takes a copy from a seat above its mean or limit to one below,
        // so the sum of all deviations falls and the rounds end.
        while self.level_once() {}
    }

    /// One round over all seats. False when nothing moved.
    fn level_once(&mut self) -> bool {
        let mut has_moved = false;
        for seat in self.field.seats() {
            if self.field.is_open(seat) && self.load(seat) < *self.limits(self.field.share(seat)).start() {
                has_moved |= self.pull(seat);
            }
        }
        for seat in self.field.seats() {
            while self.load(seat) > *self.limits(self.field.share(seat)).end() {
                if !self.push_one(seat) && !self.push_along(seat) {
                    break;
                }
                has_moved = true;
            }
        }
        has_moved
    }

    /// Fills `to` up to the mean from those above it. False when nobody had a copy to give.
    fn pull(&mut self, to: Seat) -> bool {
        let before = self.load(to);
        let goal = self.field.share(to).floor();
        let mut exhausted: Vec<Seat> = Vec::new();
        // Each round fills the seat or exhausts a donor.
        while self.load(to) < goal {
            let quotas = self.quotas(to, goal - self.load(to), &exhausted);
            if quotas.is_empty() {
                break;
            }
            for (donor, quota) in quotas {
                if self.take(donor, to, quota, goal) < quota {
                    exhausted.push(donor);
                }
            }
        }
        let floor = |draft: &Self, seat: Seat| draft.field.share(seat).floor();
        while self.load(to) < goal && self.chain_to(to, |draft, seat| draft.load(seat) > floor(draft, seat)) {}
        self.load(to) > before
    }

    /// Gives `to` a copy along a chain of exchanges that begins at a seat that `has_spare`. False when there is none.
    fn chain_to(&mut self, to: Seat, has_spare: impl Fn(&Self, Seat) -> bool) -> bool {
        let seats = self.field.seats().count();
        let Some(hops) = chain::shortest(seats, to, |seat| has_spare(self, seat), |next| self.givers(next)) else {
            return false;
        };
        for (done, hop) in hops.iter().enumerate() {
            if !self.field.can_replace(self.set(hop.vbucket), hop.from, hop.to) {
                // An earlier hop concerned the same vbucket. That is rare enough to give up instead of searching on.
                hops.iter().take(done).rev().for_each(|hop| self.replace(hop.vbucket, hop.to, hop.from));
                return false;
            }
            self.replace(hop.vbucket, hop.from, hop.to);
        }
        true
    }

    /// Who gives how many of the `need` copies: always whoever has most over the mean.
    fn quotas(&self, to: Seat, need: u64, exhausted: &[Seat]) -> Vec<(Seat, u64)> {
        let excess = |seat: Seat| self.load(seat).saturating_sub(self.field.share(seat).floor());
        let mut donors: BinaryHeap<(u64, Reverse<Seat>)> = self
            .field
            .seats()
            .filter(|seat| *seat != to && excess(*seat) > 0 && !exhausted.contains(seat))
            .map(|seat| (excess(seat), Reverse(seat)))
            .collect();
        for _ in 0..need {
            let Some((excess, donor)) = donors.pop() else { break };
            if excess == 0 {
                break;
            }
            donors.push((excess - 1, donor));
        }
        let quota = |(left, Reverse(seat)): (u64, Reverse<Seat>)| (seat, excess(seat) - left);
        let mut quotas: Vec<_> = donors.into_iter().map(quota).filter(|(_, quota)| *quota > 0).collect();
        quotas.sort_unstable();
        quotas
    }

    /// Moves up to `quota` copies from `donor` to `to`, among them as many led ones as `to` still needs in proportion.
    /// Returns how many.
    fn take(&mut self, donor: Seat, to: Seat, quota: u64, goal: u64) -> u64 {
        let lead_mean = self.field.lead_share.floor();
        let lead_need = lead_mean.saturating_sub(self.lead_load(to));
        let lead_spare = self.lead_load(donor).saturating_sub(lead_mean);
        let need = goal.saturating_sub(self.load(to)).max(1);
        let leads = (quota * lead_need).div_ceil(need).min(lead_spare).min(quota);
        let (mut led, mut rest): (Vec<_>, Vec<_>) = self
            .held(donor)
            .iter()
            .filter(|vbucket| self.field.can_replace(self.set(**vbucket), donor, to))
            .map(|vbucket| (self.was_kept(*vbucket, donor), self.field.distance(*vbucket, to), *vbucket))
            .partition(|(_, _, vbucket)| self.leader(*vbucket) == Some(donor));
        led.sort_unstable();
        rest.sort_unstable();
        let leads = usize::try_from(leads).unwrap_or(usize::MAX).min(led.len());
        let (first, last) = led.split_at_checked(leads).unwrap_or((&led, &[]));
        let chosen: Vec<VBucketId> = first
            .iter()
            .chain(&rest)
            .chain(last)
            .map(|(_, _, vbucket)| *vbucket)
            .take(usize::try_from(quota).unwrap_or(usize::MAX))
            .collect();
        for vbucket in &chosen {
            self.replace(*vbucket, donor, to);
        }
        super::field::count(chosen.len())
    }

    /// Which seats could give `to` a copy, and of what.
    fn givers(&self, to: Seat) -> impl Iterator<Item = (VBucketId, Seat)> {
        self.field.vbuckets.iter().flat_map(move |vbucket| {
            let set = self.set(vbucket);
            let can_give = move |from: &&Seat| self.field.can_replace(set, **from, to);
            set.iter().filter(can_give).map(move |from| (vbucket, *from))
        })
    }

    /// Moves one copy from `from` to the emptiest seat that may have it. False when none may.
    fn push_one(&mut self, from: Seat) -> bool {
        let best = |to: Seat| {
            self.held(from)
                .iter()
                .filter(|vbucket| self.field.can_replace(self.set(**vbucket), from, to))
                .map(|vbucket| (self.was_kept(*vbucket, from), self.field.distance(*vbucket, to), *vbucket))
                .min()
        };
        let chosen = self.receivers(from).into_iter().find_map(|to| best(to).map(|(_, _, vbucket)| (to, vbucket)));
        let Some((to, vbucket)) = chosen else { return false };
        self.replace(vbucket, from, to);
        true
    }

    /// As [`Draft::push_one`], over other seats.
    fn push_along(&mut self, from: Seat) -> bool {
        self.receivers(from).into_iter().any(|to| self.chain_to(to, |_, seat| seat == from))
    }

    /// The seats that can take a copy, the emptiest first.
    fn receivers(&self, from: Seat) -> Vec<Seat> {
        let room = |seat: &Seat| self.limits(self.field.share(*seat)).end().saturating_sub(self.load(*seat));
        let can_take = |seat: &Seat| *seat != from && self.field.is_open(*seat) && room(seat) > 0;
        let mut receivers: Vec<Seat> = self.field.seats().filter(can_take).collect();
        receivers.sort_by_key(|seat| (Reverse(room(seat)), *seat));
        receivers
    }
}
