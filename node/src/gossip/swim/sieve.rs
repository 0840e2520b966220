//! What of a received packet the SWIM library gets to see.
//!
//! SWIM decides by gossip who is dead and who took whose place. Here raft does, so a packet is taken apart and put
//! together again without
//!
//! - claims about processes that the cluster map does not show, be they older or newer than those it does;
//! - verdicts of death: they become suspicions, which their subject can refute for ever;
//! - suspicions at the end of the number space, where no refutation could follow.
//!
//! The rumours at its end are split off.

use bytes::BufMut;
use foca::{Header, Member as Update, Message, State};

use broky_proto::id::Member;

use super::codec;
use super::identity::Identity;
use crate::gossip::wire::{Reader, WireError};

/// A packet taken apart.
pub(super) struct Sifted<'a> {
    pub(super) header: Header<Identity>,
    /// What the library is to see; `None` when the packet is about somebody the map does not show.
    pub(super) packet: Option<Vec<u8>>,
    /// The updates that are left.
    pub(super) updates: Vec<Update<Identity>>,
    pub(super) rumours: Vec<&'a [u8]>,
    /// Claims left out.
    pub(super) foreign: usize,
}

/// Takes a packet apart that came from `sender`.
///
/// # Errors
/// It is none, or was not made by the sender.
pub(super) fn sift(
    packet: &[u8],
    sender: Member,
    is_current: impl Fn(Member) -> bool,
) -> Result<Sifted<'_>, WireError> {
    let mut reader = Reader::new(packet);
    let header = codec::decode_header(&mut reader)?;
    if header.src.member != sender {
        return Err(WireError::Value("source"));
    }
    // It would tell this node that it is dead, which nobody here says.
    if header.message == Message::TurnUndead {
        return Err(WireError::Value("message"));
    }
    let mut sifted = Sifted { header, packet: None, updates: Vec::new(), rumours: Vec::new(), foreign: 0 };
    let is_broadcast = sifted.header.message == Message::Broadcast;
    if !is_broadcast && !reader.is_done() {
        for _ in 0..reader.u16()? {
            let update = codec::decode_update(&mut reader)?;
            if is_current(update.id().member) {
                sifted.updates.push(believable(update));
            } else {
                sifted.foreign += 1;
            }
        }
    }
    while !reader.is_done() {
        sifted.rumours.push(reader.item()?);
    }
    if third_party(&sifted.header.message).is_some_and(|third| !is_current(third.member)) {
        sifted.foreign += 1;
        return Ok(sifted);
    }
    let mut clean = Vec::with_capacity(packet.len());
    codec::encode_header(&sifted.header, &mut clean);
    if !is_broadcast && !sifted.updates.is_empty() {
        // There are not more of them than there were.
        clean.put_u16(u16::try_from(sifted.updates.len()).unwrap_or(u16::MAX));
        sifted.updates.iter().for_each(|update| codec::encode_update(update, &mut clean));
    }
    sifted.packet = Some(clean);
    Ok(sifted)
}

fn believable(update: Update<Identity>) -> Update<Identity> {
    let refutations = update.incarnation();
    let state = match update.state() {
        State::Suspect | State::Down if refutations == foca::Incarnation::MAX => State::Alive,
        State::Suspect | State::Down => State::Suspect,
        State::Alive => State::Alive,
    };
    Update::new(*update.id(), refutations, state)
}

fn third_party(message: &Message<Identity>) -> Option<&Identity> {
    match message {
        Message::PingReq { target: third, .. }
        | Message::IndirectPing { origin: third, .. }
        | Message::IndirectAck { target: third, .. }
        | Message::ForwardedAck { origin: third, .. } => Some(third),
        Message::Ping(_)
        | Message::Ack(_)
        | Message::Announce
        | Message::Feed
        | Message::Gossip
        | Message::Broadcast
        | Message::TurnUndead => None,
    }
}
