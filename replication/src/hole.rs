//! What a producer has to push again before anything beyond it.
//!
//! Nothing may be stored beyond a message that was refused until that has come again, or is said to be settled. The
//! refused ones are kept by their sequences, up to [`MISSING_MAX`]; of those beyond, only where they begin and end:
//! they come again in ascending order, so that what lies between is let through in turn, and what lies behind is
//! refused.
//!
//! The bounds alone would not do for all of them. After a break a producer pushes everything again on another stream,
//! and what is left of the former one is refused at the same time: it says nothing about how far the new stream has
//! come.
//!
//! The hard case: something within the bounds is settled. Which of those behind it comes next is not known then, and
//! whichever does could be the wrong one. So nothing is let through until everything before some message is settled:
//! before the vbucket's first one in the oldest request that its producer waits for, at the latest.

use broky_proto::id::Sequence;

/// Refused messages that are kept one by one.
const MISSING_MAX: usize = 64;

/// See the module. Sequences are those of one producer in one vbucket, and need not be contiguous.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hole {
    /// The lowest that were refused, ascending.
    missing: Vec<Sequence>,
    /// What was refused beyond those.
    rest: Option<Range>,
}

/// Messages of which not each is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// Nothing below was refused.
    pub first: Sequence,
    /// Whether `first` itself was. Else it has come again, and what was refused next is not known.
    pub is_first_missing: bool,
    /// The last that was refused.
    pub last: Sequence,
}

impl Hole {
    /// This message was refused.
    #[must_use]
    pub fn new(sequence: Sequence) -> Self {
        Self { missing: vec![sequence], rest: None }
    }

    /// What [`Hole::parts`] gave; `None` when that is nothing.
    #[must_use]
    pub fn from_parts(missing: impl IntoIterator<Item = Sequence>, rest: Option<Range>) -> Option<Self> {
        let mut hole = Self { missing: Vec::new(), rest: rest.filter(|rest| rest.first <= rest.last) };
        missing.into_iter().for_each(|sequence| hole.add(sequence));
        (!hole.missing.is_empty() || hole.rest.is_some()).then_some(hole)
    }

    /// The messages known one by one, and the rest.
    #[must_use]
    pub fn parts(&self) -> (&[Sequence], Option<Range>) {
        (&self.missing, self.rest)
    }

    /// Nothing below this was refused.
    #[must_use]
    pub fn first(&self) -> Option<Sequence> {
        self.missing.first().copied().or(self.rest.map(|rest| rest.first))
    }

    /// This one was refused as well.
    pub fn add(&mut self, sequence: Sequence) {
        if let Some(rest) = &mut self.rest
            && sequence >= rest.first
        {
            *rest = rest.and(sequence);
            return;
        }
        let Err(at) = self.missing.binary_search(&sequence) else { return };
        self.missing.insert(at, sequence);
        if self.missing.len() > MISSING_MAX
            && let Some(last) = self.missing.pop()
        {
            self.rest = Some(self.rest.map_or(Range::new(last), |rest| rest.and(last)));
        }
    }

    /// Both of two holes.
    #[must_use]
    pub fn joined(mut self, other: &Self) -> Self {
        other.missing.iter().for_each(|sequence| self.add(*sequence));
        if let Some(rest) = other.rest {
            [rest.is_first_missing.then_some(rest.first), Some(rest.last)]
                .into_iter()
                .flatten()
                .for_each(|one| self.add(one));
        }
        self
    }

    /// Whether it was refused, and has not come again.
    #[must_use]
    pub fn is_missing(&self, sequence: Sequence) -> bool {
        let is_first = |rest: Range| rest.is_first_missing && rest.first == sequence;
        self.missing.binary_search(&sequence).is_ok() || self.rest.is_some_and(is_first)
    }

    /// Whether a message may be stored now.
    #[inline]
    #[must_use]
    pub fn admits(&self, sequence: Sequence) -> bool {
        match self.missing.first() {
            Some(first) => sequence <= *first,
            None => self.rest.is_none_or(|rest| rest.admits(sequence)),
        }
    }

    /// What is left of it once nothing below this sequence comes again.
    #[must_use]
    pub fn settled(mut self, below: Sequence) -> Option<Self> {
        let settled = self.missing.partition_point(|missing| *missing < below);
        self.missing.drain(..settled);
        self.rest = self.rest.and_then(|rest| rest.settled(below));
        (!self.missing.is_empty() || self.rest.is_some()).then_some(self)
    }

    /// What is left of it once this message is stored, or on its way: those before it are as well, or never will be.
    #[must_use]
    pub fn behind(mut self, sequence: Sequence) -> Option<Self> {
        let stored = self.missing.partition_point(|missing| *missing <= sequence);
        self.missing.drain(..stored);
        self.rest = self.rest.and_then(|rest| rest.behind(sequence));
        (!self.missing.is_empty() || self.rest.is_some()).then_some(self)
    }
}

impl Range {
    fn new(sequence: Sequence) -> Self {
        Self { first: sequence, is_first_missing: true, last: sequence }
    }

    fn and(mut self, sequence: Sequence) -> Self {
        // What comes again comes in order: nothing that is missing is left between `first` and this one.
        let is_next = !self.is_first_missing && sequence <= self.last;
        if sequence <= self.first || is_next {
            self.first = sequence;
            self.is_first_missing = true;
        }
        self.last = self.last.max(sequence);
        self
    }

    fn admits(&self, sequence: Sequence) -> bool {
        sequence <= self.first || (!self.is_first_missing && sequence <= self.last)
    }

    fn settled(self, below: Sequence) -> Option<Self> {
        match below {
            _ if below > self.last => None,
            _ if below > self.first => Some(Self { first: below, is_first_missing: true, ..self }),
            _ => Some(self),
        }
    }

    fn behind(mut self, sequence: Sequence) -> Option<Self> {
        if sequence >= self.last {
            return None;
        }
        if sequence >= self.first {
            self.first = sequence.plus(1);
            self.is_first_missing = false;
        }
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn hole(sequences: impl IntoIterator<Item = u64>) -> Hole {
        Hole::from_parts(sequences.into_iter().map(Sequence), None).unwrap()
    }

    #[test]
    fn nothing_goes_before_the_lowest_refused_one() {
        let hole = hole([4, 9, 6]);
        assert!(hole.admits(Sequence(3)) && hole.admits(Sequence(4)) && !hole.admits(Sequence(6)));
        let hole = hole.behind(Sequence(4)).unwrap();
        assert!(hole.admits(Sequence(6)) && !hole.admits(Sequence(9)));
        assert_eq!(hole.behind(Sequence(9)), None);
    }

    #[test]
    fn what_will_not_come_again_is_no_hole() {
        let left = |below| hole([4, 6, 9]).settled(Sequence(below));
        assert_eq!((left(0), left(4)), (Some(hole([4, 6, 9])), Some(hole([4, 6, 9]))));
        assert_eq!((left(5), left(9), left(10)), (Some(hole([6, 9])), Some(hole([9])), None));
    }

    #[test]
    fn what_is_behind_something_settled_within_the_bounds_waits_for_the_oldest_request() {
        let hole = hole((1..=200).map(|n| 2 * n));
        // The oldest request begins with 301, of another vbucket.
        let left = hole.clone().settled(Sequence(301)).unwrap();
        assert!(!left.admits(Sequence(334)) && !left.admits(Sequence(302)));
        let left = left.settled(Sequence(302)).unwrap();
        assert!(left.admits(Sequence(302)) && !left.admits(Sequence(304)));
        let left = left.behind(Sequence(302)).unwrap();
        assert!(left.admits(Sequence(304)) && !left.admits(Sequence(402)));
        assert_eq!(hole.settled(Sequence(401)), None);
    }

    #[test]
    fn beyond_the_limit_the_bounds_are_known() {
        let mut hole = hole((1..=200).rev());
        assert_eq!(hole.parts().0.len(), MISSING_MAX);
        for sequence in (1..=200).map(Sequence) {
            assert!(hole.admits(sequence) && !hole.admits(Sequence(201)));
            let Some(left) = hole.behind(sequence) else { return assert_eq!(sequence, Sequence(200)) };
            hole = left;
        }
        panic!("{hole:?}");
    }

    proptest! {
        #[test]
        fn producer_that_keeps_the_rule_loses_no_order(refuse in prop::collection::vec(any::<bool>(), 1..200)) {
            let (mut hole, mut stored): (Option<Hole>, Vec<u64>) = (None, Vec::new());
            let (mut again, mut next, mut refuse) = (BTreeSet::new(), 0_u64, refuse.into_iter());
            // What was refused comes again in order, mixed with what the producer sent before it knew.
            while next < 400 || !again.is_empty() {
                let is_new = next < 300 && next % 3 == 0 || again.is_empty();
                let first = if is_new { None } else { again.pop_first() };
                let sequence = Sequence(first.unwrap_or_else(|| { next += 1; next }));
                if hole.as_ref().is_some_and(|hole| !hole.admits(sequence)) || refuse.next() == Some(true) {
                    hole.get_or_insert_with(|| Hole::new(sequence)).add(sequence);
                    again.insert(sequence.0);
                } else {
                    hole = hole.and_then(|hole| hole.behind(sequence));
                    stored.push(sequence.0);
                }
            }
            prop_assert!(stored.is_sorted() && stored.len() >= 400);
            prop_assert_eq!(hole, None);
        }
    }
}
