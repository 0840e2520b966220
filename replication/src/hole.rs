//! What a producer has to push again before anything beyond it.
//!
//! Nothing may be stored beyond a message that was refused until that has come again, or is said to be settled. Messages of
//! one vbucket follow one another within a request, and a request is pushed again whole. So of each request it is enough to
//! keep the first and the last that were refused, up to [`MISSING_MAX`] requests: what lies between comes behind the first,
//! and passes because what it follows did. Each other request has to wait for its turn, whatever is left of former streams
//! and is still on its way.
//!
//! The hard case: more requests than that. Of those beyond only the bounds are known, and once the first of them has come
//! again, not what comes next. Then nothing passes but the oldest request that the producer waits for, which says so
//! (`Push::settled_before`). A producer that never tells what is settled is believed to push in ascending order, so that what
//! lies between the bounds is let through in turn.

use broky_proto::id::{ProducerId, Sequence};

/// Requests that are kept one by one.
const MISSING_MAX: usize = 64;

/// A message of a vbucket, as its producer pushed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// Who pushed it.
    pub producer: ProducerId,
    /// Its sequence.
    pub sequence: Sequence,
    /// The one before it in the same request and vbucket: nothing lies between the two.
    pub follows: Option<Sequence>,
    /// Whether the producer tells what is settled.
    pub is_told: bool,
}

impl From<(ProducerId, Sequence)> for Pushed {
    /// The first of a request.
    fn from((producer, sequence): (ProducerId, Sequence)) -> Self {
        Self { producer, sequence, follows: None, is_told: false }
    }
}

/// See the module. Sequences are those of one producer in one vbucket, and need not be contiguous.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hole {
    /// The lowest that were refused, ascending.
    missing: Vec<Refused>,
    /// What was refused beyond those.
    rest: Option<Range>,
}

/// Messages that follow one another in a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The first that was refused and has not come again, or the lowest sequence it can have.
    pub first: Sequence,
    /// The last.
    pub last: Sequence,
}

/// Messages of which not each is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// Nothing below was refused.
    pub first: Sequence,
    /// Whether `first` itself was. Else it has come again or is settled, and what was refused next is not known.
    pub is_first_missing: bool,
    /// The last that was refused.
    pub last: Sequence,
}

impl Hole {
    /// This message was refused.
    #[must_use]
    pub fn new(sequence: Sequence) -> Self {
        Self { missing: vec![Refused { first: sequence, last: sequence }], rest: None }
    }

    /// What [`Hole::parts`] gave; `None` when that is nothing.
    #[must_use]
    pub fn from_parts(missing: impl IntoIterator<Item = Refused>, rest: Option<Range>) -> Option<Self> {
        let mut missing: Vec<Refused> = missing.into_iter().filter(|it| it.first <= it.last).collect();
        missing.sort_unstable_by_key(|it| it.first);
        let mut rest = rest.filter(|rest| rest.first <= rest.last);
        let mut hole = Self { missing: Vec::with_capacity(missing.len().min(MISSING_MAX)), rest: None };
        for next in missing {
            match (hole.missing.last_mut(), &mut rest) {
                (_, Some(rest)) if next.first >= rest.first => rest.last = rest.last.max(next.last),
                (Some(last), _) if next.first <= last.last => last.last = last.last.max(next.last),
                _ => hole.missing.push(next),
            }
        }
        hole.rest = rest;
        hole.bound();
        (!hole.missing.is_empty() || hole.rest.is_some()).then_some(hole)
    }

    /// The messages known request by request, and the rest.
    #[must_use]
    pub fn parts(&self) -> (&[Refused], Option<Range>) {
        (&self.missing, self.rest)
    }

    /// Nothing below this was refused.
    #[must_use]
    pub fn first(&self) -> Option<Sequence> {
        self.missing.first().map(|refused| refused.first).or(self.rest.map(|rest| rest.first))
    }

    /// This one was refused as well.
    pub fn add(&mut self, message: Pushed) {
        let Pushed { sequence, follows, is_told, .. } = message;
        if let Some(rest) = &mut self.rest
            && sequence >= rest.first
        {
            *rest = rest.and(sequence, is_told);
            return;
        }
        let at = self.missing.partition_point(|refused| refused.first <= sequence);
        if let Some(before) = at.checked_sub(1).and_then(|before| self.missing.get_mut(before)) {
            if sequence <= before.last {
                if follows.is_some_and(|follows| follows < before.first) {
                    before.first = sequence;
                }
                return;
            }
            if follows == Some(before.last) {
                before.last = sequence;
                return;
            }
        }
        self.missing.insert(at, Refused { first: sequence, last: sequence });
        self.bound();
    }

    /// Both of two holes.
    #[must_use]
    pub fn joined(self, other: Self) -> Option<Self> {
        let rest = match (self.rest, other.rest) {
            (Some(one), Some(other)) => {
                let (lower, upper) = if one.first <= other.first { (one, other) } else { (other, one) };
                Some(Range { last: lower.last.max(upper.last), ..lower })
            }
            (one, other) => one.or(other),
        };
        Self::from_parts(self.missing.into_iter().chain(other.missing), rest)
    }

    /// Whether a message may be stored now. `is_next`: the one that it follows in its request is stored, or on its way.
    #[inline]
    #[must_use]
    pub fn admits(&self, message: Pushed, is_next: bool) -> bool {
        is_next
            || match self.missing.first() {
                // Who tells nothing may push what is left of a request message by message.
                Some(refused) if !message.is_told => message.sequence <= refused.last,
                Some(refused) => message.sequence <= refused.first,
                None => self.rest.is_none_or(|rest| rest.admits(message)),
            }
    }

    /// What is left of it once nothing below this sequence comes again.
    #[must_use]
    pub fn settled(mut self, below: Sequence) -> Option<Self> {
        self.missing.retain(|refused| refused.last >= below);
        if let Some(first) = self.missing.first_mut() {
            first.first = first.first.max(below);
        }
        self.rest = self.rest.and_then(|rest| rest.settled(below));
        (!self.missing.is_empty() || self.rest.is_some()).then_some(self)
    }

    /// What is left of it once this message is stored, or on its way: those before it are as well, or never will be.
    #[must_use]
    pub fn behind(self, sequence: Sequence) -> Option<Self> {
        self.settled(sequence.plus(1))
    }

    /// Keeps no more than [`MISSING_MAX`] one by one.
    fn bound(&mut self) {
        while self.missing.len() > MISSING_MAX
            && let Some(Refused { first, last }) = self.missing.pop()
        {
            let last = self.rest.map_or(last, |rest| rest.last.max(last));
            self.rest = Some(Range { first, is_first_missing: true, last });
        }
    }
}

impl Range {
    fn and(mut self, sequence: Sequence, is_told: bool) -> Self {
        // What comes again comes in order: nothing that is missing is left between `first` and this one.
        let is_next = !is_told && !self.is_first_missing && sequence <= self.last;
        if sequence <= self.first || is_next {
            self.first = sequence;
            self.is_first_missing = true;
        }
        self.last = self.last.max(sequence);
        self
    }

    fn admits(&self, message: Pushed) -> bool {
        let is_in_turn = !message.is_told && !self.is_first_missing && message.sequence <= self.last;
        message.sequence <= self.first || is_in_turn
    }

    fn settled(self, below: Sequence) -> Option<Self> {
        match below {
            _ if below > self.last => None,
            _ if below > self.first => Some(Self { first: below, is_first_missing: false, ..self }),
            _ => Some(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const P: ProducerId = ProducerId(1);

    /// The first of a request of a producer that tells what is settled.
    fn first(sequence: u64) -> Pushed {
        Pushed { is_told: true, ..(P, Sequence(sequence)).into() }
    }

    fn behind(follows: u64, sequence: u64) -> Pushed {
        Pushed { follows: Some(Sequence(follows)), ..first(sequence) }
    }

    fn hole(sequences: impl IntoIterator<Item = u64>) -> Hole {
        let one = |sequence| Refused { first: Sequence(sequence), last: Sequence(sequence) };
        Hole::from_parts(sequences.into_iter().map(one), None).unwrap()
    }

    #[test]
    fn nothing_goes_before_the_lowest_refused_one() {
        let hole = hole([4, 9, 6]);
        let admits = |hole: &Hole, sequence| hole.admits(first(sequence), false);
        assert!(admits(&hole, 3) && admits(&hole, 4) && !admits(&hole, 6));
        let hole = hole.behind(Sequence(4)).unwrap();
        assert!(admits(&hole, 6) && !admits(&hole, 9));
        assert_eq!(hole.behind(Sequence(9)), None);
    }

    #[test]
    fn what_will_not_come_again_is_no_hole() {
        let left = |below| hole([4, 6, 9]).settled(Sequence(below));
        assert_eq!((left(0), left(4)), (Some(hole([4, 6, 9])), Some(hole([4, 6, 9]))));
        assert_eq!((left(5), left(9), left(10)), (Some(hole([6, 9])), Some(hole([9])), None));
    }

    #[test]
    fn messages_of_a_request_pass_one_behind_the_other_and_no_other_request_before_its_turn() {
        let mut hole = Hole::new(Sequence(10));
        [behind(10, 14), behind(14, 19), first(30), behind(30, 31)].into_iter().for_each(|one| hole.add(one));
        assert_eq!(hole.parts().0.len(), 2);
        let hole = hole.behind(Sequence(10)).unwrap();
        assert!(hole.admits(behind(10, 14), true) && !hole.admits(behind(10, 14), false));
        // Whatever came of the other request in the meantime.
        assert!(!hole.admits(first(30), false));
        let hole = hole.behind(Sequence(14)).unwrap().behind(Sequence(19)).unwrap();
        assert!(hole.admits(first(30), false));
    }

    #[test]
    fn producer_that_tells_nothing_may_divide_a_request() {
        let untold = |sequence| Pushed::from((P, Sequence(sequence)));
        let mut hole = Hole::new(Sequence(10));
        hole.add(Pushed { follows: Some(Sequence(10)), ..untold(14) });
        hole.add(untold(20));
        let hole = hole.behind(Sequence(10)).unwrap();
        assert!(hole.admits(untold(14), false) && !hole.admits(untold(20), false));
    }

    #[test]
    fn what_is_refused_in_the_middle_of_a_request_is_where_it_goes_on() {
        let mut hole = Hole::new(Sequence(10));
        hole.add(behind(10, 14));
        let mut hole = hole.behind(Sequence(10)).unwrap();
        assert!(!hole.admits(first(14), false));
        hole.add(behind(10, 14));
        assert!(hole.admits(first(14), false), "it may come as a request of its own");
    }

    #[test]
    fn beyond_the_limit_the_oldest_request_passes_alone() {
        let mut all = Hole::new(Sequence(2));
        (2..=200).for_each(|request| all.add(first(2 * request)));
        assert_eq!(all.parts().0.len(), MISSING_MAX);
        // The oldest request begins with 301, of another vbucket.
        let left = all.clone().settled(Sequence(301)).unwrap();
        assert!(!left.admits(first(334), false) && !left.admits(first(302), false));
        let left = left.settled(Sequence(302)).unwrap();
        assert!(left.admits(first(302), false) && !left.admits(first(304), false));
        // Of what is stored by way of another nothing follows about what lies behind.
        let left = left.behind(Sequence(320)).unwrap();
        assert!(!left.admits(first(324), false));
        assert_eq!(all.settled(Sequence(401)), None);
    }

    #[test]
    fn beyond_the_limit_a_producer_that_tells_nothing_is_let_through_in_turn() {
        let untold = |sequence| Pushed::from((P, Sequence(sequence)));
        let mut hole = Hole::new(Sequence(200));
        (1..=200).rev().for_each(|sequence| hole.add(untold(sequence)));
        assert_eq!(hole.parts().0.len(), MISSING_MAX);
        for sequence in 1..=200 {
            assert!(hole.admits(untold(sequence), false) && !hole.admits(untold(201), false));
            let Some(left) = hole.behind(Sequence(sequence)) else { return assert_eq!(sequence, 200) };
            hole = left;
        }
        panic!("{hole:?}");
    }

    #[test]
    fn joined_holes_are_as_wide_as_both() {
        let (mut one, mut other) = (Hole::new(Sequence(5)), Hole::new(Sequence(3)));
        one.add(behind(5, 8));
        other.add(first(8));
        (20..120).for_each(|request| other.add(first(request)));
        let joined = one.clone().joined(other.clone()).unwrap();
        assert_eq!(other.joined(one), Some(joined.clone()));
        assert_eq!(joined.first(), Some(Sequence(3)));
        let left = joined.behind(Sequence(3)).unwrap();
        assert!(left.admits(first(5), false) && !left.admits(first(8), false));
        assert_eq!(left.settled(Sequence(119)).unwrap().first(), Some(Sequence(119)));
    }

    /// A request of one vbucket, and what its producer knows when it sends it.
    #[derive(Clone, Debug)]
    struct Request {
        sequences: Vec<u64>,
        below: Sequence,
    }

    /// What a leader keeps of one producer, and a producer that pushes requests until they are stored.
    #[derive(Default)]
    struct World {
        stored: Vec<u64>,
        hole: Option<Hole>,
        unsettled: VecDeque<Vec<u64>>,
        next: u64,
    }

    impl World {
        /// A leader takes a request, and refuses all of it if it is told to. Returns whether all of it is stored.
        fn take(&mut self, request: &Request, is_refused: bool) -> bool {
            let (mut follows, mut is_next, mut is_whole) = (None, false, true);
            for sequence in &request.sequences {
                let message = Pushed { follows, ..first(*sequence) };
                self.hole = self.hole.take().and_then(|hole| hole.settled(request.below));
                let is_known = self.stored.binary_search(sequence).is_ok();
                let is_late = self.stored.last().is_some_and(|last| last >= sequence);
                let is_admitted = self.hole.as_ref().is_none_or(|hole| hole.admits(message, is_next));
                is_next = is_known || is_admitted && !is_late && !is_refused;
                if is_next && !is_known {
                    self.stored.push(*sequence);
                    self.hole = self.hole.take().and_then(|hole| hole.behind(Sequence(*sequence)));
                } else if !is_next && !is_late {
                    self.hole.get_or_insert_with(|| Hole::new(message.sequence)).add(message);
                }
                is_whole &= is_next;
                follows = Some(message.sequence);
            }
            is_whole
        }

        fn request(&self, at: usize) -> Request {
            let sequences = self.unsettled[at].clone();
            let oldest = self.unsettled[0][0];
            Request { below: Sequence(oldest), sequences }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// Streams break, and what was on its way arrives whenever it likes; some requests are refused, some given up.
        #[test]
        fn nothing_overtakes_what_comes_again_and_nothing_waits_for_ever(
            steps in prop::collection::vec((0..10_u8, any::<prop::sample::Index>()), 1..120),
        ) {
            let mut world = World::default();
            let (mut strays, mut settled) = (Vec::<VecDeque<Request>>::new(), Vec::new());
            for (step, index) in steps {
                match step {
                    0..=2 => {
                        // Up to a hundred requests of some messages, others between them.
                        for _ in 0..=index.index(100) {
                            let start = world.next + 1;
                            world.next += 5;
                            world.unsettled.push_back(vec![start, start + 1, start + 3]);
                        }
                    }
                    3..=5 if !world.unsettled.is_empty() => {
                        // A stream, of which the leader takes as much and refuses some; then it breaks.
                        let count = world.unsettled.len();
                        let mut sent: VecDeque<Request> = (0..count).map(|at| world.request(at)).collect();
                        for _ in 0..index.index(count) {
                            let request = sent.pop_front().unwrap();
                            world.take(&request, step == 4 || index.index(7) == 3);
                        }
                        strays.push(sent);
                    }
                    6..=7 if !strays.is_empty() => {
                        let stray = index.get_mut(&mut strays);
                        for _ in 0..=index.index(3) {
                            if let Some(request) = stray.pop_front() {
                                world.take(&request, index.index(5) == 1);
                            }
                        }
                    }
                    8 if !world.unsettled.is_empty() => {
                        let given_up = 1 + index.index(world.unsettled.len().min(3));
                        world.unsettled.drain(..given_up);
                    }
                    _ => {
                        // One that is well: what is refused is probed, and goes again.
                        while !world.unsettled.is_empty() {
                            let probe = world.request(0);
                            prop_assert!(world.take(&probe, false), "{:?}", world.hole);
                            settled.push(world.unsettled.pop_front().unwrap());
                        }
                    }
                }
            }
            prop_assert!(world.stored.is_sorted());
            let is_stored = |sequence| world.stored.binary_search(sequence).is_ok();
            prop_assert!(settled.iter().flatten().all(is_stored));
        }
    }
}
