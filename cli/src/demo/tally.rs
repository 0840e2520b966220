//! What a subscriber got, judged message by message: lost, duplicated, reordered, or not what was pushed.
//!
//! Each message carries its number in its uid, and what has a number can be looked up in the input. So nothing is asked
//! of the broker to judge it by, not even its offsets.

use super::input::{Input, number_of};
use super::numbers::Numbers;

/// What came of one subscriber's messages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Verdict {
    /// Messages that it should get.
    pub(super) expected: u64,
    /// Messages that it got, each counted once.
    pub(super) delivered: u64,
    /// Acked, asked for, and never delivered.
    pub(super) lost: u64,
    /// Delivered again.
    pub(super) duplicated: u64,
    /// Delivered behind a message of their key_partition that was pushed later.
    pub(super) reordered: u64,
    /// Delivered, and not what was pushed or not what was asked for.
    pub(super) wrong: u64,
}

impl Verdict {
    pub(super) fn is_good(&self) -> bool {
        let Self { expected: _, delivered: _, lost, duplicated, reordered, wrong } = *self;
        lost == 0 && duplicated == 0 && reordered == 0 && wrong == 0
    }

    pub(super) fn add(&mut self, other: Self) {
        let Self { expected, delivered, lost, duplicated, reordered, wrong } = other;
        self.expected += expected;
        self.delivered += delivered;
        self.lost += lost;
        self.duplicated += duplicated;
        self.reordered += reordered;
        self.wrong += wrong;
    }
}

/// What a subscriber got so far.
pub(super) struct Tally {
    wants: fn(&[u8]) -> bool,
    seen: Numbers,
    /// By key_partition: the number that must be passed to be in order.
    next: Vec<u64>,
    delivered: u64,
    duplicated: u64,
    reordered: u64,
    wrong: u64,
}

/// A message as it was delivered.
#[derive(Clone, Copy)]
pub(super) struct Delivered<'a> {
    pub(super) uid: &'a [u8],
    pub(super) partition: &'a [u8],
    pub(super) key: &'a [u8],
    pub(super) payload: &'a [u8],
}

impl Tally {
    pub(super) fn new(input: &Input, wants: fn(&[u8]) -> bool) -> Self {
        Self {
            wants,
            seen: Numbers::new(input.total()),
            next: vec![0; input.partitions()],
            delivered: 0,
            duplicated: 0,
            reordered: 0,
            wrong: 0,
        }
    }

    pub(super) fn add(&mut self, input: &Input, message: Delivered<'_>) {
        let pushed = number_of(message.uid, input.run()).filter(|number| *number < input.total());
        let Some((number, line)) = pushed.map(|number| (number, input.line(number))) else {
            self.wrong += 1;
            return;
        };
        let Delivered { partition, key, payload, .. } = message;
        if (line.partition, line.key, line.payload) != (partition, key, payload) || !(self.wants)(key) {
            self.wrong += 1;
        } else if !self.seen.insert(number) {
            self.duplicated += 1;
        } else {
            self.delivered += 1;
            let next = self.next.get_mut(input.partition_of(number));
            if let Some(next) = next {
                self.reordered += u64::from(number < *next);
                *next = number.max(*next);
            }
        }
    }

    /// The verdict, when those numbers were not acked.
    pub(super) fn judge(&self, input: &Input, unacked: &Numbers) -> Verdict {
        let wanted = || (0..input.total()).filter(|number| (self.wants)(input.line(*number).key));
        let is_lost = |number: &u64| !self.seen.contains(*number) && !unacked.contains(*number);
        Verdict {
            expected: wanted().count() as u64,
            delivered: self.delivered,
            lost: wanted().filter(is_lost).count() as u64,
            duplicated: self.duplicated,
            reordered: self.reordered,
            wrong: self.wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: u64 = 200;

    fn deliver(tally: &mut Tally, input: &Input, number: u64) {
        let line = input.line(number);
        let uid = input.uid(number);
        let message = Delivered { uid: &uid, partition: line.partition, key: line.key, payload: line.payload };
        tally.add(input, message);
    }

    fn verdict_of(numbers: impl IntoIterator<Item = u64>) -> Verdict {
        let input = Input::of_own(TOTAL);
        let mut tally = Tally::new(&input, |_| true);
        numbers.into_iter().for_each(|number| deliver(&mut tally, &input, number));
        tally.judge(&input, &Numbers::new(TOTAL))
    }

    #[test]
    fn everything_once_and_in_order_is_good() {
        let verdict = verdict_of(0..TOTAL);
        assert_eq!(verdict, Verdict { expected: TOTAL, delivered: TOTAL, ..Verdict::default() });
        assert!(verdict.is_good());
    }

    #[test]
    fn order_between_key_partitions_does_not_matter() {
        // Neighbours are of different key_partitions.
        assert!(verdict_of((0..TOTAL).map(|number| number ^ 1)).is_good());
    }

    #[test]
    fn missing_message_is_lost() {
        let verdict = verdict_of((0..TOTAL).filter(|number| *number != 70));
        assert_eq!((verdict.lost, verdict.delivered), (1, TOTAL - 1));
    }

    #[test]
    fn message_that_comes_again_is_duplicated_and_not_reordered() {
        let verdict = verdict_of((0..TOTAL).chain([70]));
        assert_eq!((verdict.duplicated, verdict.reordered, verdict.delivered), (1, 0, TOTAL));
    }

    #[test]
    fn message_behind_a_later_one_of_its_key_partition_is_reordered() {
        let late = 70;
        let verdict = verdict_of((0..TOTAL).filter(|number| *number != late).chain([late]));
        assert_eq!((verdict.reordered, verdict.lost, verdict.duplicated), (1, 0, 0));
    }

    #[test]
    fn message_that_was_not_acked_is_not_lost() {
        let input = Input::of_own(TOTAL);
        let mut tally = Tally::new(&input, |_| true);
        (1..TOTAL).for_each(|number| deliver(&mut tally, &input, number));
        let mut unacked = Numbers::new(TOTAL);
        unacked.insert(0);
        assert_eq!(tally.judge(&input, &unacked).lost, 0);
    }

    #[test]
    fn altered_foreign_or_unwanted_message_is_wrong() {
        let input = Input::of_own(TOTAL);
        let mut tally = Tally::new(&input, |key| key == b"line.short");
        let unwanted = (0..TOTAL).find(|number| input.line(*number).key != b"line.short").unwrap();
        deliver(&mut tally, &input, unwanted);
        let wanted = (0..TOTAL).find(|number| input.line(*number).key == b"line.short").unwrap();
        let line = input.line(wanted);
        let uid = input.uid(wanted);
        let message = Delivered { uid: &uid, partition: line.partition, key: line.key, payload: b"another" };
        tally.add(&input, message);
        tally.add(&input, Delivered { uid: b"", payload: line.payload, ..message });
        assert_eq!(tally.judge(&input, &Numbers::new(TOTAL)).wrong, 3);
    }
}
