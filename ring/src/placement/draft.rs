//! A placement in the making: what is kept of the previous one, and the first choice for what is missing.

use std::ops::RangeInclusive;

use broky_proto::id::VBucketId;

use super::Placement;
use super::field::{Field, Seat};
use super::share::Share;

/// The moving side of one placement. A vbucket's first seat leads it, once leaders are chosen.
pub(super) struct Draft<'a> {
    pub(super) field: &'a Field,
    /// Whether nothing was placed before, so that nothing moves however much is changed.
    is_founding: bool,
    sets: Vec<Vec<Seat>>,
    /// By seat: the vbuckets it holds, in no order that decides anything.
    held: Vec<Vec<VBucketId>>,
    /// By vbucket: whether its first seat is settled as its leader.
    led: Vec<bool>,
    /// By seat: how many vbuckets it leads.
    leads: Vec<u64>,
    /// By vbucket: the leading seats of `sets` that were there before, and whose data need not be copied.
    kept: Vec<Vec<Seat>>,
}

/// How welcome a seat is; the lower the better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Welcome {
    UnderMean,
    AtMean,
    UnderMost,
    Full,
    Closed,
}

impl<'a> Draft<'a> {
    /// What of `previous` is still allowed, in its order.
    pub(super) fn keep(field: &'a Field, previous: &[Placement]) -> Self {
        let seats = field.seats().count();
        let mut draft = Self {
            field,
            is_founding: previous.iter().all(|before| before.0.is_empty()),
            sets: vec![Vec::new(); field.vbuckets.len()],
            held: vec![Vec::new(); seats],
            led: vec![false; field.vbuckets.len()],
            leads: vec![0; seats],
            kept: Vec::new(),
        };
        for (vbucket, before) in field.vbuckets.iter().zip(previous) {
            for seat in before.0.iter().filter_map(|node| field.seat_of(*node)) {
                if field.fits(draft.set(vbucket), seat) {
                    draft.push(vbucket, seat);
                }
            }
            // A leader that stays leads on; one that is gone leaves the choice open.
            if draft.set(vbucket).first().and_then(|seat| field.node(*seat)) == before.leader() {
                draft.settle_leader(vbucket);
            }
        }
        draft.kept = draft.sets.clone();
        draft
    }

    /// Gives every vbucket the copies it lacks: clockwise, at the first node that is below its share.
    pub(super) fn fill(&mut self) {
        for vbucket in self.field.vbuckets.iter() {
            while self.set(vbucket).len() < self.field.replicas {
                let Some(seat) = self.best_for(vbucket) else { break };
                self.push(vbucket, seat);
            }
        }
    }

    /// The placement as drafted.
    pub(super) fn finish(self) -> Vec<Placement> {
        let nodes = |set: &Vec<Seat>| Placement(set.iter().filter_map(|seat| self.field.node(*seat)).collect());
        self.sets.iter().map(nodes).collect()
    }

    /// Who holds the vbucket.
    pub(super) fn set(&self, vbucket: VBucketId) -> &[Seat] {
        self.sets.get(usize::from(vbucket.0)).map_or(&[], Vec::as_slice)
    }

    /// Who leads the vbucket, once that is settled.
    pub(super) fn leader(&self, vbucket: VBucketId) -> Option<Seat> {
        let is_led = self.led.get(usize::from(vbucket.0)).copied().unwrap_or_default();
        self.set(vbucket).first().copied().filter(|_| is_led)
    }

    /// What the seat holds.
    pub(super) fn held(&self, seat: Seat) -> &[VBucketId] {
        self.held.get(seat.0).map_or(&[], Vec::as_slice)
    }

    /// How many vbuckets the seat holds.
    pub(super) fn load(&self, seat: Seat) -> u64 {
        super::field::count(self.held(seat).len())
    }

    /// How many vbuckets the seat leads.
    pub(super) fn lead_load(&self, seat: Seat) -> u64 {
        self.leads.get(seat.0).copied().unwrap_or_default()
    }

    /// Within which bounds a load is left alone: 5 % about the mean, or the mean when nothing moves anyway.
    pub(super) fn limits(&self, share: Share) -> RangeInclusive<u64> {
        if self.is_founding { share.floor()..=share.ceil() } else { share.least()..=share.most() }
    }

    /// Whether the vbucket's copy at this seat was there before.
    pub(super) fn was_kept(&self, vbucket: VBucketId, seat: Seat) -> bool {
        self.kept.get(usize::from(vbucket.0)).is_some_and(|kept| kept.contains(&seat))
    }

    /// Puts `to` in the place, and the rank, of `from`.
    pub(super) fn replace(&mut self, vbucket: VBucketId, from: Seat, to: Seat) {
        let Some(set) = self.sets.get_mut(usize::from(vbucket.0)) else { return };
        let Some(place) = set.iter_mut().find(|seat| **seat == from) else { return };
        *place = to;
        if let Some(held) = self.held.get_mut(from.0)
            && let Some(at) = held.iter().position(|other| *other == vbucket)
        {
            held.swap_remove(at);
        }
        if let Some(held) = self.held.get_mut(to.0) {
            held.push(vbucket);
        }
        if self.leader(vbucket) == Some(to) {
            self.move_lead(from, to);
        }
    }

    /// Lets `to`, which holds the vbucket, lead it.
    pub(super) fn lead(&mut self, vbucket: VBucketId, to: Seat) {
        let before = self.leader(vbucket);
        let Some(set) = self.sets.get_mut(usize::from(vbucket.0)) else { return };
        let Some(rank) = set.iter().position(|seat| *seat == to) else { return };
        set.swap(0, rank);
        match before {
            Some(from) => self.move_lead(from, to),
            None => self.settle_leader(vbucket),
        }
    }

    /// Takes the vbucket's first seat for its leader.
    fn settle_leader(&mut self, vbucket: VBucketId) {
        let Some(first) = self.set(vbucket).first().copied() else { return };
        if let (Some(led), Some(leads)) = (self.led.get_mut(usize::from(vbucket.0)), self.leads.get_mut(first.0)) {
            *led = true;
            *leads += 1;
        }
    }

    fn move_lead(&mut self, from: Seat, to: Seat) {
        if let Some(leads) = self.leads.get_mut(from.0) {
            *leads = leads.saturating_sub(1);
        }
        if let Some(leads) = self.leads.get_mut(to.0) {
            *leads += 1;
        }
    }

    fn push(&mut self, vbucket: VBucketId, seat: Seat) {
        if let Some(set) = self.sets.get_mut(usize::from(vbucket.0)) {
            set.push(seat);
        }
        if let Some(held) = self.held.get_mut(seat.0) {
            held.push(vbucket);
        }
    }

    /// The most welcome seat for one more copy of the vbucket, the nearest clockwise of these.
    fn best_for(&self, vbucket: VBucketId) -> Option<Seat> {
        let mut best: Option<(Welcome, Seat)> = None;
        for seat in self.field.walk(vbucket) {
            let welcome = self.welcome(seat);
            if best.is_some_and(|(other, _)| other <= welcome) || !self.field.fits(self.set(vbucket), seat) {
                continue;
            }
            best = Some((welcome, seat));
            if welcome == Welcome::UnderMean {
                break;
            }
        }
        best.map(|(_, seat)| seat)
    }

    fn welcome(&self, seat: Seat) -> Welcome {
        let (load, share): (u64, Share) = (self.load(seat), self.field.share(seat));
        if !self.field.is_open(seat) {
            Welcome::Closed
        } else if load < share.floor() {
            Welcome::UnderMean
        } else if load < share.ceil() {
            Welcome::AtMean
        } else if load < share.most() {
            Welcome::UnderMost
        } else {
            Welcome::Full
        }
    }
}
