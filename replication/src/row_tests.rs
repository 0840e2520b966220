//! What is let through behind what was refused.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const E: ProducerEpoch = ProducerEpoch(3);

fn broken_at(sequences: &[u64]) -> Row {
    let mut row = Row::default();
    sequences.iter().for_each(|sequence| row.refuse(E, Sequence(*sequence)));
    row
}

#[test]
fn nothing_goes_before_the_first_refused_one() {
    let mut row = broken_at(&[4, 9, 6]);
    assert!(row.admits(E, Sequence(3)) && row.admits(E, Sequence(4)) && !row.admits(E, Sequence(6)));
    row.pass(E, Sequence(4));
    assert!(row.admits(E, Sequence(6)) && row.admits(E, Sequence(9)) && !row.admits(E, Sequence(10)));
    row.pass(E, Sequence(9));
    assert!(row.is_whole(E));
}

#[test]
fn higher_epoch_waits_for_nothing_and_ends_the_lower_one() {
    let (mut row, next) = (broken_at(&[4, 6]), ProducerEpoch(4));
    assert!(row.admits(next, Sequence(9)) && !row.is_whole(next));
    row.pass(next, Sequence(9));
    assert!(row.is_whole(next) && !row.admits(E, Sequence(10)));
    row.refuse(E, Sequence(10));
    assert!(row.is_whole(next), "what is refused of a row that is over breaks no other");
    row.refuse(next, Sequence(11));
    assert!(!row.admits(next, Sequence(12)));
}

#[test]
fn refused_first_message_of_an_epoch_breaks_it() {
    let mut row = broken_at(&[4]);
    row.refuse(ProducerEpoch(4), Sequence(2));
    assert!(row.admits(ProducerEpoch(4), Sequence(2)) && !row.admits(ProducerEpoch(4), Sequence(4)));
    assert!(!row.admits(E, Sequence(2)));
}

#[test]
fn what_another_let_through_is_not_waited_for() {
    let mut row = broken_at(&[4, 6]);
    row.pass_unseen(Sequence(3));
    assert!(!row.admits(E, Sequence(5)));
    row.pass_unseen(Sequence(4));
    assert!(row.admits(E, Sequence(5)) && !row.admits(E, Sequence(7)));
    row.pass_unseen(Sequence(8));
    assert!(row.is_whole(E));
}

/// A stream of requests, each of some messages of one vbucket.
type Stream = VecDeque<(ProducerEpoch, Vec<u64>)>;

/// A leader, and a producer that pushes requests until they are stored.
#[derive(Default)]
struct World {
    stored: Vec<u64>,
    row: Row,
    epoch: u32,
    /// Ascending.
    unsettled: VecDeque<u64>,
    next: u64,
}

impl World {
    /// What a producer sends that goes back, in requests of so many messages.
    fn go_back(&mut self, len: usize) -> Stream {
        self.epoch += 1;
        let epoch = ProducerEpoch(self.epoch);
        self.unsettled.make_contiguous().chunks(len).map(|messages| (epoch, messages.to_vec())).collect()
    }

    /// A leader takes a request; what `is_refused` says of it and is new, it refuses. Returns whether all is stored.
    fn take(&mut self, epoch: ProducerEpoch, messages: &[u64], mut is_refused: impl FnMut() -> bool) -> bool {
        let mut is_whole = true;
        for sequence in messages {
            if self.stored.last().is_some_and(|last| sequence <= last) {
                is_whole &= self.stored.binary_search(sequence).is_ok();
            } else if self.row.admits(epoch, Sequence(*sequence)) && !is_refused() {
                self.stored.push(*sequence);
                self.row.pass(epoch, Sequence(*sequence));
            } else {
                self.row.refuse(epoch, Sequence(*sequence));
                is_whole = false;
            }
        }
        is_whole
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Streams break, and what was on its way arrives whenever it likes; the producer divides its messages anew each time
    /// that it goes back; some are refused, some are given up.
    #[test]
    fn nothing_overtakes_what_comes_again_and_nothing_waits_for_ever(
        steps in prop::collection::vec((0..10_u8, any::<prop::sample::Index>(), any::<u64>()), 1..120),
    ) {
        let mut world = World::default();
        let mut strays = Vec::<Stream>::new();
        for (step, index, mut mask) in steps {
            let mut is_refused = || { mask = mask.rotate_left(1); mask & 0b111 == 0 };
            match step {
                0..=2 => for _ in 0..=index.index(150) {
                    world.next += 1 + world.next % 3;
                    world.unsettled.push_back(world.next);
                },
                3..=5 if !world.unsettled.is_empty() => {
                    // A stream, of which the leader takes some; then it breaks.
                    let mut sent = world.go_back(1 + index.index(7));
                    for _ in 0..index.index(sent.len()) {
                        let (epoch, request) = sent.pop_front().unwrap();
                        world.take(epoch, &request, &mut is_refused);
                    }
                    strays.push(sent);
                }
                6..=7 if !strays.is_empty() => {
                    let stray = index.get_mut(&mut strays);
                    for _ in 0..=index.index(5) {
                        if let Some((epoch, request)) = stray.pop_front() {
                            world.take(epoch, &request, &mut is_refused);
                        }
                    }
                }
                8 if !world.unsettled.is_empty() => {
                    let given_up = 1 + index.index(world.unsettled.len().min(9));
                    world.unsettled.drain(..given_up);
                }
                _ => {
                    // One that is well.
                    for (epoch, request) in world.go_back(1 + index.index(7)) {
                        prop_assert!(world.take(epoch, &request, || false), "{:?}", world.row);
                    }
                    world.unsettled.clear();
                }
            }
        }
        // What was passed over would never be taken.
        for (epoch, request) in world.go_back(1) {
            prop_assert!(world.take(epoch, &request, || false), "{:?}", world.row);
        }
    }

    /// Without epochs, on one stream: what was refused comes again in order, mixed with what was sent before that was known.
    #[test]
    fn producer_without_epochs_loses_no_order_on_one_stream(refuse in prop::collection::vec(any::<bool>(), 1..200)) {
        let (mut row, mut stored): (Row, Vec<u64>) = (Row::default(), Vec::new());
        let (mut again, mut next, mut refuse) = (std::collections::BTreeSet::new(), 0_u64, refuse.into_iter());
        let epoch = ProducerEpoch::default();
        while next < 400 || !again.is_empty() {
            let is_new = next < 300 && next % 3 == 0 || again.is_empty();
            let first = if is_new { None } else { again.pop_first() };
            let sequence = first.unwrap_or_else(|| { next += 1; next });
            if !row.admits(epoch, Sequence(sequence)) || refuse.next() == Some(true) {
                row.refuse(epoch, Sequence(sequence));
                again.insert(sequence);
            } else {
                row.pass(epoch, Sequence(sequence));
                stored.push(sequence);
            }
        }
        prop_assert!(stored.is_sorted() && stored.len() >= 400);
        prop_assert!(row.is_whole(epoch));
    }
}
