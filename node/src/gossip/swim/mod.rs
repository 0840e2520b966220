//! The failure detector and spreader: SWIM, by the foca crate, which is named nowhere else.
//!
//! Each period one peer is probed, directly, then through three others; who answers neither is suspected, and refutes
//! that by itself when it hears of it. News ride on these packets, and on rounds of gossip to three random peers.
//!
//! Who takes part comes from the cluster map, by [`Swim::add`] and [`Swim::remove`]; SWIM's own verdict of death, and
//! the new identity that would have to follow it, are not used (see [`sieve`]). What remains of them is suspicion,
//! which ends in one of two ways: by refutation, or here by hearing the suspect, since a suspicion that no longer
//! spreads never reaches the one who could refute it.
//!
//! Sources: Das, Gupta, Motivala, "SWIM" (2002); foca 1.0 (a sans-I/O implementation).

mod codec;
mod effects;
mod identity;
mod sieve;

use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::{Duration, Instant};

use broky_proto::id::Member;
use foca::{Config, Foca, Member as Update, State, Timer};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use thiserror::Error;

pub(super) use self::identity::Identity;

use self::codec::Wire;
use self::effects::{Effects, Keys, Timers};
use self::sieve::sift;
use super::envelope::BODY_BYTES_MAX;
use super::wire::WireError;

/// How often one peer is probed.
pub(super) const PROBE_PERIOD: Duration = Duration::from_millis(500);
/// Time for a direct answer; what is left of the period is for indirect ones.
const PROBE_RTT: Duration = Duration::from_millis(200);
/// How many peers probe indirectly, and how many get news in a round.
const FANOUT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(2);
/// Packets of rumours alone that may follow in a round.
const EXTRA_PER_ROUND: usize = 16;
/// Rumours that are left to packets to come: they fit in one.
const EXTRA_ABOVE: usize = 24;

/// Packets to send, and to whom.
pub(super) type Packets = Vec<(Identity, Vec<u8>)>;

/// Why a packet was not taken.
#[derive(Debug, Error)]
pub(super) enum SwimError {
    /// It is malformed. Nothing changed.
    #[error(transparent)]
    Malformed(#[from] WireError),
    /// The library refuses it, as out of place.
    #[error("refused: {0}")]
    Refused(foca::Error),
}

/// What a packet brought besides what SWIM itself is interested in.
pub(super) struct Received<'a> {
    /// Where the sender says it takes datagrams.
    pub(super) address: SocketAddr,
    /// Where the sender says others do.
    pub(super) others: Vec<Identity>,
    /// Encoded rumours.
    pub(super) rumours: Vec<&'a [u8]>,
    /// Claims about processes that the map does not show.
    pub(super) foreign: usize,
}

/// Failure detection and spreading among the members of the cluster map.
pub(super) struct Swim {
    foca: Foca<Identity, Wire, SmallRng, Keys>,
    config: Config,
    timers: Timers,
    faults: usize,
}

impl Swim {
    pub(super) fn new(me: Identity, seed: u64) -> Self {
        let config = Config {
            probe_period: PROBE_PERIOD,
            probe_rtt: PROBE_RTT,
            num_indirect_probes: FANOUT,
            max_transmissions: transmissions(1),
            max_packet_size: NonZeroUsize::new(BODY_BYTES_MAX).unwrap_or(NonZeroUsize::MIN),
            // The others are about deaths and joins, which are the map's, or done by the engine.
            notify_down_members: false,
            periodic_announce: None,
            periodic_announce_to_down_members: None,
            periodic_gossip: None,
            ..Config::simple()
        };
        let rng = SmallRng::seed_from_u64(seed);
        let foca = Foca::with_custom_broadcast(me, config.clone(), rng, Wire, Keys);
        Self { foca, config, timers: Timers::default(), faults: 0 }
    }

    /// Takes a packet of a member that `is_current`.
    ///
    /// # Errors
    /// See [`SwimError`].
    pub(super) fn handle_packet<'a>(
        &mut self,
        now: Instant,
        sender: Member,
        packet: &'a [u8],
        is_current: impl Fn(Member) -> bool,
        out: &mut Packets,
    ) -> Result<Received<'a>, SwimError> {
        let sifted = sift(packet, sender, is_current)?;
        if let Some(packet) = sifted.packet {
            self.call(now, out, |foca, effects| foca.handle_data(&packet, effects)).map_err(SwimError::Refused)?;
        }
        Ok(Received {
            address: sifted.header.src.address,
            others: sifted.updates.iter().map(|update| *update.id()).collect(),
            rumours: sifted.rumours,
            foreign: sifted.foreign,
        })
    }

    /// Ends the suspicion of somebody who is heard, though that does not refute it: the suspect has not heard of it.
    ///
    /// Suspicions that still spread may come back; those their subject hears of too.
    pub(super) fn handle_sign_of_life(&mut self, now: Instant, sender: Member, out: &mut Packets) {
        let suspicion = self
            .foca
            .iter_members()
            .find(|update| update.id().member == sender && update.state() == State::Suspect)
            .map(|update| Update::new(*update.id(), update.incarnation(), State::Alive));
        if let Some(alive) = suspicion {
            self.remove(now, sender, out);
            self.attempt(now, out, |foca, effects| foca.apply_many(std::iter::once(alive), false, effects));
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Packets) {
        // A timer that is due sets others for later than now, so this ends.
        while let Some(timer) = self.timers.pop(now) {
            self.attempt(now, out, |foca, effects| foca.handle_timer(timer, effects));
        }
    }

    /// Adds a member of the map; it takes the place of older processes of its node.
    pub(super) fn add(&mut self, now: Instant, peer: Identity, out: &mut Packets) {
        if peer.member.node == self.foca.identity().member.node || self.knows(peer.member) {
            return;
        }
        let alive = Update::alive(peer);
        self.attempt(now, out, |foca, effects| foca.apply_many(std::iter::once(alive), false, effects));
    }

    /// Forgets a process.
    pub(super) fn remove(&mut self, now: Instant, member: Member, out: &mut Packets) {
        let Some(peer) = self.foca.iter_membership_state().find(|update| update.id().member == member) else {
            return;
        };
        let peer = *peer.id();
        let down = Update::new(peer, 0, State::Down);
        self.attempt(now, out, |foca, effects| foca.apply_many(std::iter::once(down), false, effects));
        self.attempt(now, out, |foca, effects| foca.handle_timer(Timer::RemoveDown(peer), effects));
    }

    /// Adjusts to a cluster of `nodes`: the more, the more often news are passed on by each.
    pub(super) fn handle_size(&mut self, nodes: usize) {
        self.config.max_transmissions = transmissions(nodes);
        if self.foca.set_config(self.config.clone()).is_err() {
            self.faults += 1;
        }
    }

    /// Passes a rumour on with the packets to come.
    pub(super) fn spread(&mut self, rumour: &[u8]) {
        if self.foca.add_broadcast(rumour).is_err() {
            self.faults += 1;
        }
    }

    /// Sends news to a few random peers.
    pub(super) fn gossip(&mut self, now: Instant, out: &mut Packets) {
        self.attempt(now, out, |foca, effects| foca.gossip(effects));
        for _ in 0..EXTRA_PER_ROUND {
            if self.foca.custom_broadcast_backlog() <= EXTRA_ABOVE {
                break;
            }
            self.attempt(now, out, |foca, effects| foca.broadcast(effects));
        }
    }

    /// Whether there are news to send and peers to send them to.
    pub(super) fn has_news(&self) -> bool {
        self.foca.num_members() > 0 && self.foca.updates_backlog() + self.foca.custom_broadcast_backlog() > 0
    }

    /// Every peer, and whether it is suspected.
    pub(super) fn peers(&self) -> impl Iterator<Item = (Member, bool)> {
        self.foca.iter_members().map(|update| (update.id().member, update.state() == State::Suspect))
    }

    /// Packets and timers that the library refused, since this was last asked.
    pub(super) fn take_faults(&mut self) -> usize {
        std::mem::take(&mut self.faults)
    }

    fn knows(&self, member: Member) -> bool {
        self.foca.iter_members().any(|update| update.id().member == member)
    }

    fn attempt(
        &mut self,
        now: Instant,
        out: &mut Packets,
        step: impl FnOnce(&mut Foca<Identity, Wire, SmallRng, Keys>, &mut Effects<'_>) -> Result<(), foca::Error>,
    ) {
        if let Err(error) = self.call(now, out, step) {
            // After a pause of the whole process a probe may not have run its course; it starts anew.
            tracing::debug!(%error, "the failure detector is out of step");
            self.faults += 1;
        }
    }

    fn call(
        &mut self,
        now: Instant,
        out: &mut Packets,
        step: impl FnOnce(&mut Foca<Identity, Wire, SmallRng, Keys>, &mut Effects<'_>) -> Result<(), foca::Error>,
    ) -> Result<(), foca::Error> {
        let mut is_defunct = false;
        let mut effects = Effects { now, timers: &mut self.timers, packets: out, is_defunct: &mut is_defunct };
        let result = step(&mut self.foca, &mut effects);
        if is_defunct {
            // Nobody can declare this process dead here, and if the library thinks so, it goes on as the same.
            self.faults += 1;
            let mut effects = Effects { now, timers: &mut self.timers, packets: out, is_defunct: &mut is_defunct };
            self.foca.reuse_down_identity()?;
            self.foca.apply_many(std::iter::empty(), false, &mut effects)?;
        }
        result
    }
}

/// How often each node passes on what is new to it: enough that with a fifth of all packets lost, a node that misses it
/// is one in thousands.
fn transmissions(nodes: usize) -> NonZeroU8 {
    let doublings = nodes.max(1).next_power_of_two().trailing_zeros();
    u8::try_from(4 + 2 * doublings).ok().and_then(NonZeroU8::new).unwrap_or(NonZeroU8::MAX)
}
