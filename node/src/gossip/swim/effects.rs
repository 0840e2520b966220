//! What the SWIM library asks of its surroundings: timers, packets to send, items to pass on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use foca::{BroadcastHandler, Invalidates, Notification, Runtime, Timer};

use super::Packets;
use super::identity::Identity;
use crate::gossip::rumour::{Key, Rumour};
use crate::gossip::wire::WireError;

/// Timers by when they are due; those due together in the order they were set.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeMap<(Instant, u64), Timer<Identity>>,
    set: u64,
}

impl Timers {
    fn set(&mut self, at: Instant, timer: Timer<Identity>) {
        self.set += 1;
        self.due.insert((at, self.set), timer);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer<Identity>> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

/// Takes the effects of one call.
pub(super) struct Effects<'a> {
    pub(super) now: Instant,
    pub(super) timers: &'a mut Timers,
    pub(super) packets: &'a mut Packets,
    /// Set when the library thinks that this process was declared dead.
    pub(super) is_defunct: &'a mut bool,
}

impl Runtime<Identity> for Effects<'_> {
    /// Nothing but the one is of interest: who is suspected is not notified, it is looked up.
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        if notification == Notification::Defunct {
            *self.is_defunct = true;
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.packets.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, timer: Timer<Identity>, after: Duration) {
        match timer {
            // A suspect stays one until it is heard or the map drops it: gossip declares nobody dead. So whoever was
            // cut off for however long is still probed, and found again.
            Timer::ChangeSuspectToDown { .. } => {}
            // The dropped are removed at once.
            Timer::RemoveDown(_) => {}
            Timer::ProbeRandomMember(_)
            | Timer::SendIndirectProbe { .. }
            | Timer::PeriodicAnnounce(_)
            | Timer::PeriodicAnnounceDown(_)
            | Timer::PeriodicGossip(_) => self.timers.set(self.now + after, timer),
        }
    }
}

/// Tells the library which rumours replace which. Whether they are news was decided before it gets them.
#[derive(Debug)]
pub(super) struct Keys;

impl BroadcastHandler<Identity> for Keys {
    type Key = Key;
    type Error = WireError;

    fn receive_item(&mut self, data: &[u8], _: Option<&Identity>) -> Result<Option<Key>, WireError> {
        Rumour::key(data).map(Some)
    }
}

impl Invalidates for Key {
    fn invalidates(&self, other: &Self) -> bool {
        self.member.node == other.member.node
            && (self.member.incarnation > other.member.incarnation || self.chunk == other.chunk)
    }
}
