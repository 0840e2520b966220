//! Chains of exchanges: A gives something to B, which gives something else to C.
//!
//! Where a direct exchange is impossible (no vbucket of A may go to C) a chain often is not. The shortest is found by
//! breadth-first search from the receiver: the augmenting path of bipartite matching.

use std::collections::VecDeque;

use broky_proto::id::VBucketId;

use super::field::Seat;

/// One exchange of a chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hop {
    pub(super) vbucket: VBucketId,
    pub(super) from: Seat,
    pub(super) to: Seat,
}

/// The shortest chain that ends at `to` and begins at a seat that `has_spare`, among `seats` seats. `givers` are the
/// seats that could give something to a seat, and what.
pub(super) fn shortest<I: Iterator<Item = (VBucketId, Seat)>>(
    seats: usize,
    to: Seat,
    has_spare: impl Fn(Seat) -> bool,
    givers: impl Fn(Seat) -> I,
) -> Option<Vec<Hop>> {
    // By seat: the exchange with which it would hand the burden on.
    let mut onward: Vec<Option<Hop>> = vec![None; seats];
    let mut queue = VecDeque::from([to]);
    while let Some(next) = queue.pop_front() {
        for (vbucket, from) in givers(next) {
            let Some(slot) = onward.get_mut(from.0) else { continue };
            if from == to || slot.is_some() {
                continue;
            }
            *slot = Some(Hop { vbucket, from, to: next });
            if has_spare(from) {
                return Some(hops(&onward, from));
            }
            queue.push_back(from);
        }
    }
    None
}

/// The hops from `from` to where no seat hands on.
fn hops(onward: &[Option<Hop>], from: Seat) -> Vec<Hop> {
    let next = |seat: Seat| onward.get(seat.0).copied().flatten();
    std::iter::successors(next(from), |hop| next(hop.to)).collect()
}
