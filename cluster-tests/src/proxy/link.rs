//! One direction between two parties: what is wrong with it, and what that has done so far.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::dice::DatagramDice;
use super::faults::{Faults, Party};

/// What has passed on a link in one direction, and what its faults have done. A connection counts for the direction in
/// which it was dialled; its bytes count for the direction in which they go.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Connections dialled.
    pub connections: u64,
    /// Those that are open now.
    pub connections_open: u64,
    /// Those that were reset at once, as nobody listened, or as there were too many.
    pub connections_refused: u64,
    /// Those that [`super::Proxy::reset`] has reset.
    pub connections_reset: u64,
    /// Bytes that came out of it.
    pub bytes: u64,
    /// Chunks that were delayed.
    pub chunks_delayed: u64,
    /// Chunks that were held as if they had to be sent again.
    pub chunks_stalled: u64,
    /// Chunks that had to wait as the rate was reached.
    pub chunks_paced: u64,
    /// Bytes that were held as the link was cut. Those that wait in the sender's kernel are not among them.
    pub bytes_held: u64,
    /// Bits flipped, in connections.
    pub bits_flipped: u64,
    /// Datagrams that came out of it, copies among them.
    pub datagrams: u64,
    /// Datagrams lost by chance.
    pub datagrams_lost: u64,
    /// Datagrams lost as the link was cut.
    pub datagrams_cut: u64,
    /// Datagrams that came twice.
    pub datagrams_doubled: u64,
    /// Datagrams that were put behind others.
    pub datagrams_reordered: u64,
    /// Datagrams that were delayed.
    pub datagrams_delayed: u64,
    /// Datagrams in which a bit was flipped.
    pub datagrams_flipped: u64,
    /// Datagrams dropped as too many were under way, or as they could not be sent.
    pub datagrams_dropped: u64,
}

/// A link in one direction.
#[derive(Debug)]
pub(super) struct Link {
    /// Who sends.
    pub from: Party,
    /// Who receives.
    pub to: Party,
    faults: watch::Sender<Faults>,
    resets: watch::Sender<()>,
    dice: Mutex<DatagramDice>,
    counts: Mutex<Counts>,
}

impl Link {
    pub(super) fn new(seed: u64, from: Party, to: Party) -> Self {
        let dice = Mutex::new(DatagramDice::new(seed, from, to));
        let (faults, resets) = (watch::Sender::default(), watch::Sender::default());
        Self { from, to, faults, resets, dice, counts: Mutex::default() }
    }

    /// Changes what is wrong with it.
    pub(super) fn set(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }

    /// What is wrong with it now.
    pub(super) fn faults(&self) -> Faults {
        *self.faults.borrow()
    }

    /// Tells of changes.
    pub(super) fn watch(&self) -> watch::Receiver<Faults> {
        self.faults.subscribe()
    }

    /// Waits while it is cut.
    pub(super) async fn until_open(&self) {
        // It does not end while we hold it.
        let _ = self.watch().wait_for(|faults| !faults.tcp.is_cut).await;
    }

    /// Resets the connections that were dialled on it.
    pub(super) fn reset(&self) {
        self.resets.send_replace(());
    }

    /// Tells of resets from now on.
    pub(super) fn resets(&self) -> watch::Receiver<()> {
        self.resets.subscribe()
    }

    /// What decides for its datagrams.
    pub(super) fn dice(&self) -> MutexGuard<'_, DatagramDice> {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts something.
    pub(super) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What was counted.
    pub(super) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
