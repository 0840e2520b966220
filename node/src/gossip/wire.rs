//! Primitives of the wire format: big-endian integers, LEB128 varints, identities' addresses.
//!
//! Everything that is read comes from a datagram of bounded size, and nothing is allocated by a length that is claimed:
//! lengths are only ever compared with what is there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use broky_proto::id::{Incarnation, Member, NodeId};
use bytes::BufMut;
use thiserror::Error;

/// Why bytes are not what they should be. The same bytes fail again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(super) enum WireError {
    /// They end too early.
    #[error("truncated")]
    Truncated,
    /// They go on after the end.
    #[error("trailing bytes")]
    Trailing,
    /// A value is out of range.
    #[error("{0} out of range")]
    Value(&'static str),
    /// What was to be written does not fit. Nothing was written.
    #[error("no room")]
    NoRoom,
}

/// A cursor over received bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What was not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(super) fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    /// Fails unless everything was read.
    pub(super) fn finish(&self) -> Result<(), WireError> {
        if self.is_done() { Ok(()) } else { Err(WireError::Trailing) }
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(*array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Value("varint"))
    }

    /// Bytes behind a `u16` with their length, not empty.
    pub(super) fn item(&mut self) -> Result<&'a [u8], WireError> {
        match self.u16()? {
            0 => Err(WireError::Value("item length")),
            len => self.bytes(usize::from(len)),
        }
    }

    pub(super) fn member(&mut self) -> Result<Member, WireError> {
        Ok(Member { node: NodeId(self.u32()?), incarnation: Incarnation(self.u64()?) })
    }

    pub(super) fn address(&mut self) -> Result<SocketAddr, WireError> {
        let ip: IpAddr = match self.u8()? {
            4 => Ipv4Addr::from(self.array::<4>()?).into(),
            6 => Ipv6Addr::from(self.array::<16>()?).into(),
            _ => return Err(WireError::Value("address family")),
        };
        Ok(SocketAddr::new(ip, self.u16()?))
    }
}

/// Most bytes [`put_address`] writes.
pub(super) const ADDRESS_BYTES_MAX: usize = 1 + 16 + 2;
/// Bytes [`put_member`] writes.
pub(super) const MEMBER_BYTES: usize = 4 + 8;

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return out.put_u8(low & 0x7f);
        }
        out.put_u8(low | 0x80);
    }
}

pub(super) fn put_member(out: &mut Vec<u8>, member: Member) {
    out.put_u32(member.node.0);
    out.put_u64(member.incarnation.0);
}

pub(super) fn put_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(4);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(6);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16(address.port());
}

/// Writes bytes behind a `u16` with their length, if all of it fits below `bytes_max`. Whether it did.
pub(super) fn put_item(out: &mut Vec<u8>, item: &[u8], bytes_max: usize) -> bool {
    let Ok(len) = u16::try_from(item.len()) else { return false };
    let fits = out.len() + size_of::<u16>() + item.len() <= bytes_max;
    if fits {
        out.put_u16(len);
        out.put_slice(item);
    }
    fits
}
