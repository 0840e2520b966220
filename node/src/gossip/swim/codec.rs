//! SWIM packets as bytes.
//!
//! ```text
//! packet:   source, its refutations u16, destination, message; unless it ends here: n u16, n updates, then items
//!           (a rumour behind its u16 length) to the end. A broadcast has items alone.
//! identity: node u32, incarnation u64, address family u8 (4, 6), IP, port u16
//! message:  u8 as in `encode_message`; for all up to 6 a probe number u8; for 3 to 6 an identity
//! update:   identity, refutations u16, state u8 (0 alive, 1 suspect, 2 down)
//! ```

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, Message, State};

use super::identity::Identity;
use crate::gossip::wire::{ADDRESS_BYTES_MAX, MEMBER_BYTES, Reader, WireError, put_address, put_member};

/// More than any header or update takes.
const SCRATCH_BYTES: usize = 4 * (MEMBER_BYTES + ADDRESS_BYTES_MAX);

/// The codec; it has no state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire;

impl Codec<Identity> for Wire {
    type Error = WireError;

    fn encode_header(&mut self, header: &Header<Identity>, buf: impl BufMut) -> Result<(), WireError> {
        let mut out = Vec::with_capacity(SCRATCH_BYTES);
        encode_header(header, &mut out);
        put_whole(&out, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Identity>, WireError> {
        read(buf, decode_header)
    }

    fn encode_member(&mut self, member: &Member<Identity>, buf: impl BufMut) -> Result<(), WireError> {
        let mut out = Vec::with_capacity(SCRATCH_BYTES);
        encode_update(member, &mut out);
        put_whole(&out, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Identity>, WireError> {
        read(buf, decode_update)
    }
}

fn put_whole(bytes: &[u8], mut buf: impl BufMut) -> Result<(), WireError> {
    if buf.remaining_mut() < bytes.len() {
        return Err(WireError::NoRoom);
    }
    buf.put_slice(bytes);
    Ok(())
}

/// The library promises that the bytes are contiguous.
fn read<T>(mut buf: impl Buf, decode: impl Fn(&mut Reader<'_>) -> Result<T, WireError>) -> Result<T, WireError> {
    let mut reader = Reader::new(buf.chunk());
    let value = decode(&mut reader)?;
    let left = reader.rest().len();
    buf.advance(buf.chunk().len().saturating_sub(left));
    Ok(value)
}

pub(super) fn encode_header(header: &Header<Identity>, out: &mut Vec<u8>) {
    put_identity(out, &header.src);
    out.put_u16(header.src_incarnation);
    put_identity(out, &header.dst);
    encode_message(&header.message, out);
}

pub(super) fn decode_header(reader: &mut Reader<'_>) -> Result<Header<Identity>, WireError> {
    Ok(Header {
        src: identity(reader)?,
        src_incarnation: reader.u16()?,
        dst: identity(reader)?,
        message: decode_message(reader)?,
    })
}

pub(super) fn encode_update(update: &Member<Identity>, out: &mut Vec<u8>) {
    put_identity(out, update.id());
    out.put_u16(update.incarnation());
    out.put_u8(match update.state() {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    });
}

pub(super) fn decode_update(reader: &mut Reader<'_>) -> Result<Member<Identity>, WireError> {
    let id = identity(reader)?;
    let refutations = reader.u16()?;
    let state = match reader.u8()? {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        _ => return Err(WireError::Value("state")),
    };
    Ok(Member::new(id, refutations, state))
}

fn encode_message(message: &Message<Identity>, out: &mut Vec<u8>) {
    let (number, probe, third) = match message {
        Message::Ping(probe) => (1, Some(*probe), None),
        Message::Ack(probe) => (2, Some(*probe), None),
        Message::PingReq { target, probe_number } => (3, Some(*probe_number), Some(target)),
        Message::IndirectPing { origin, probe_number } => (4, Some(*probe_number), Some(origin)),
        Message::IndirectAck { target, probe_number } => (5, Some(*probe_number), Some(target)),
        Message::ForwardedAck { origin, probe_number } => (6, Some(*probe_number), Some(origin)),
        Message::Announce => (7, None, None),
        Message::Feed => (8, None, None),
        Message::Gossip => (9, None, None),
        Message::Broadcast => (10, None, None),
        Message::TurnUndead => (11, None, None),
    };
    out.put_u8(number);
    if let Some(probe) = probe {
        out.put_u8(probe);
    }
    if let Some(third) = third {
        put_identity(out, third);
    }
}

fn decode_message(reader: &mut Reader<'_>) -> Result<Message<Identity>, WireError> {
    let message = match reader.u8()? {
        1 => Message::Ping(reader.u8()?),
        2 => Message::Ack(reader.u8()?),
        3 => Message::PingReq { probe_number: reader.u8()?, target: identity(reader)? },
        4 => Message::IndirectPing { probe_number: reader.u8()?, origin: identity(reader)? },
        5 => Message::IndirectAck { probe_number: reader.u8()?, target: identity(reader)? },
        6 => Message::ForwardedAck { probe_number: reader.u8()?, origin: identity(reader)? },
        7 => Message::Announce,
        8 => Message::Feed,
        9 => Message::Gossip,
        10 => Message::Broadcast,
        11 => Message::TurnUndead,
        _ => return Err(WireError::Value("message")),
    };
    Ok(message)
}

fn put_identity(out: &mut Vec<u8>, identity: &Identity) {
    put_member(out, identity.member);
    put_address(out, identity.address);
}

fn identity(reader: &mut Reader<'_>) -> Result<Identity, WireError> {
    Ok(Identity { member: reader.member()?, address: reader.address()? })
}
