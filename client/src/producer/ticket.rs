//! Outcomes of pushed messages, and the futures that wait for them.
//!
//! All messages of a batch share one [`Outcomes`]; a [`Ticket`] is a handle to it and an index, so that it costs a
//! reference count and no allocation. In the ordinary case a batch has one outcome for all its messages, which is kept
//! once; only a batch whose messages fare differently gets a table.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use broky_proto::id::{Epoch, Lineage, Offset, VBucketId};
use broky_proto::v1;

use super::error::PushError;

/// Where a message was stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Position {
    /// The vbucket.
    pub vbucket: VBucketId,
    /// The vbucket's history the offset belongs to.
    pub lineage: Lineage,
    /// The leader epoch it was stored under.
    pub epoch: Epoch,
    /// The offset in the vbucket's log.
    pub offset: Offset,
}

/// Proof that a message was stored as the producer's `acks` ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Where it is, if the producer asked for positions and the broker told.
    pub position: Option<Position>,
    /// Whether an earlier attempt of this producer had stored it already. It is stored once in any case.
    pub duplicate: bool,
}

/// What became of one message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Settled {
    Committed { duplicate: bool },
    Failed(PushError),
}

/// What became of the messages of one batch.
#[derive(Default, Debug)]
pub(crate) struct Outcomes(Mutex<Inner>);

#[derive(Default, Debug)]
struct Inner {
    /// The outcome of every message that has none in `each`.
    all: Option<Settled>,
    /// Outcomes by index; empty, or as long as the batch.
    each: Vec<Option<Settled>>,
    /// Positions by attempt, each ascending.
    positions: Vec<Vec<v1::Position>>,
    /// Tickets that wait. Cleared at each wake-up.
    wakers: Vec<Waker>,
    /// Counts wake-ups, so that a ticket knows whether its place in `wakers` is still its own.
    wakes: u32,
}

impl Outcomes {
    /// Settles every message that has no outcome yet.
    pub(crate) fn settle_rest(&self, outcome: Settled) {
        self.lock().all = Some(outcome);
    }

    /// Settles those of `count` messages from `first` on that have no outcome, of a batch of `messages`. Returns how
    /// many those were.
    pub(crate) fn settle(&self, first: u32, count: u32, messages: u32, outcome: &Settled) -> u32 {
        let mut inner = self.lock();
        if inner.all.is_some() {
            return 0;
        }
        if inner.each.is_empty() {
            inner.each.resize(messages as usize, None);
        }
        let run = inner.each.iter_mut().skip(first as usize).take(count as usize);
        let mut settled = 0;
        for place in run.filter(|place| place.is_none()) {
            *place = Some(outcome.clone());
            settled += 1;
        }
        settled
    }

    /// Whether a message has its outcome.
    pub(crate) fn is_settled(&self, index: u32) -> bool {
        let inner = self.lock();
        inner.all.is_some() || inner.each.get(index as usize).is_some_and(Option::is_some)
    }

    /// Adds the positions of one attempt. Of two for one message the first stands.
    pub(crate) fn add_positions(&self, mut positions: Vec<v1::Position>) {
        if !positions.is_empty() {
            positions.sort_unstable_by_key(|run| run.first);
            self.lock().positions.push(positions);
        }
    }

    /// Wakes every ticket that waits.
    pub(crate) fn wake(&self) {
        let wakers = {
            let mut inner = self.lock();
            inner.wakes = inner.wakes.wrapping_add(1);
            std::mem::take(&mut inner.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn outcome(&self, index: u32) -> Option<Result<Receipt, PushError>> {
        let own = self.each.get(index as usize).and_then(Option::as_ref);
        Some(match own.or(self.all.as_ref())? {
            Settled::Committed { duplicate } => Ok(Receipt { position: self.position(index), duplicate: *duplicate }),
            Settled::Failed(error) => Err(error.clone()),
        })
    }

    fn position(&self, index: u32) -> Option<Position> {
        let run = self.positions.iter().find_map(|attempt| {
            let after = attempt.partition_point(|run| run.first <= index);
            attempt.get(after.checked_sub(1)?).filter(|run| index - run.first < run.count)
        })?;
        Some(Position {
            vbucket: VBucketId(u16::try_from(run.vbucket).ok()?),
            lineage: Lineage(run.lineage),
            epoch: Epoch(run.epoch),
            offset: Offset(run.offset.checked_add(u64::from(index - run.first))?),
        })
    }
}

/// A pushed message's outcome, to be awaited. Dropping it is fine: the message is sent all the same.
#[must_use = "without awaiting the ticket the message's outcome stays unseen; drop it explicitly if that is meant"]
#[derive(Debug)]
pub struct Ticket {
    outcomes: Arc<Outcomes>,
    index: u32,
    /// Where in `wakers` our waker is, and at which count of wake-ups it was put there.
    waiting_at: u32,
    waiting_since: u32,
}

impl Ticket {
    pub(crate) fn new(outcomes: &Arc<Outcomes>, index: u32) -> Self {
        // The last count, at which there is no place of ours yet.
        Self { outcomes: Arc::clone(outcomes), index, waiting_at: u32::MAX, waiting_since: u32::MAX }
    }

    /// The outcome, if it is settled.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<Receipt, PushError>> {
        self.outcomes.lock().outcome(self.index)
    }
}

impl Future for Ticket {
    type Output = Result<Receipt, PushError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut inner = this.outcomes.lock();
        if let Some(outcome) = inner.outcome(this.index) {
            return Poll::Ready(outcome);
        }
        let is_registered = this.waiting_since == inner.wakes;
        match inner.wakers.get_mut(this.waiting_at as usize).filter(|_| is_registered) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                this.waiting_since = inner.wakes;
                // There are at most as many as messages in the batch.
                this.waiting_at = u32::try_from(inner.wakers.len()).unwrap_or(u32::MAX);
                inner.wakers.push(cx.waker().clone());
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(ticket: &mut Ticket) -> Poll<Result<Receipt, PushError>> {
        Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn own_outcome_goes_before_that_of_the_rest() {
        let outcomes = Arc::new(Outcomes::default());
        let rejected = Settled::Failed(PushError::Closed);
        assert_eq!(outcomes.settle(1, 1, 3, &rejected), 1);
        assert_eq!(outcomes.settle(1, 1, 3, &Settled::Committed { duplicate: true }), 0);
        assert_eq!(Ticket::new(&outcomes, 0).outcome(), None);
        outcomes.settle_rest(Settled::Committed { duplicate: false });
        assert_eq!(Ticket::new(&outcomes, 1).outcome(), Some(Err(PushError::Closed)));
        assert_eq!(Ticket::new(&outcomes, 2).outcome(), Some(Ok(Receipt { position: None, duplicate: false })));
    }

    #[test]
    fn position_counts_within_its_run() {
        let outcomes = Arc::new(Outcomes::default());
        outcomes.add_positions(vec![
            v1::Position { first: 0, count: 2, vbucket: 1, lineage: 1, epoch: 1, offset: 10 },
            v1::Position { first: 2, count: 2, vbucket: 2, lineage: 1, epoch: 1, offset: 70 },
        ]);
        outcomes.settle_rest(Settled::Committed { duplicate: false });
        let receipt = Ticket::new(&outcomes, 3).outcome().unwrap().unwrap();
        assert_eq!(receipt.position.unwrap().offset, Offset(71));
    }

    #[test]
    fn ticket_polled_again_takes_one_place() {
        let outcomes = Arc::new(Outcomes::default());
        let mut ticket = Ticket::new(&outcomes, 0);
        for _ in 0..10 {
            assert!(poll(&mut ticket).is_pending());
        }
        assert_eq!(outcomes.lock().wakers.len(), 1);
        outcomes.wake();
        assert!(poll(&mut ticket).is_pending());
        assert_eq!(outcomes.lock().wakers.len(), 1);
    }
}
