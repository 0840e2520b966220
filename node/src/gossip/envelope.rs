//! The outside of every datagram: whose it is, what is in it, and whether it arrived whole.
//!
//! ```text
//!  0  magic        "brkg"
//!  4  version      1
//!  5  kind         see [`Kind`]
//!  6  cluster id   16 bytes
//! 22  sender       node (u32), incarnation (u64)
//! 34  map version  the sender's (u64)
//! 42  checksum     CRC-32 (IEEE) of all other bytes
//! 46  body
//! ```
//!
//! The sender's map version is in each of them, so that any exchange at all tells a node that it is behind. The
//! checksum is against accidents; it does not authenticate, and an attacker who can read one datagram can forge others.

use broky_proto::id::{ClusterId, MapVersion, Member};
use bytes::BufMut;

use super::stats::Dropped;
use super::wire::{Reader, WireError, put_member};

/// The longest datagram sent or taken: it passes any network unfragmented that carries IPv6 in Ethernet, also
/// tunnelled.
pub(super) const DATAGRAM_BYTES_MAX: usize = 1400;
/// Bytes before the body.
pub(super) const ENVELOPE_BYTES: usize = 46;
/// The longest body.
pub(super) const BODY_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - ENVELOPE_BYTES;

const MAGIC: [u8; 4] = *b"brkg";
const VERSION: u8 = 1;
const CHECKSUM_AT: usize = 42;

/// What a datagram's body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A SWIM packet, with rumours in the room it leaves.
    Swim,
    /// Rumours alone.
    Rumours,
    /// A member whose rumours the sender wants.
    Ask,
    /// Empty: the sender wants to be heard, and to hear from the receiver.
    Hello,
    /// Empty: the receiver is not, or no longer, whom it takes itself for.
    Notice,
}

impl Kind {
    /// Every kind.
    pub(super) const ALL: [Self; 5] = [Self::Swim, Self::Rumours, Self::Ask, Self::Hello, Self::Notice];

    fn number(self) -> u8 {
        match self {
            Self::Swim => 1,
            Self::Rumours => 2,
            Self::Ask => 3,
            Self::Hello => 4,
            Self::Notice => 5,
        }
    }
}

/// What the outside of a datagram says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Envelope {
    pub(super) kind: Kind,
    pub(super) cluster: ClusterId,
    pub(super) sender: Member,
    pub(super) map_version: MapVersion,
}

impl Envelope {
    /// The datagram with this body.
    pub(super) fn seal(&self, body: &[u8]) -> Vec<u8> {
        debug_assert!(body.len() <= BODY_BYTES_MAX, "a body of {} bytes", body.len());
        let mut out = Vec::with_capacity(ENVELOPE_BYTES + body.len());
        out.put_slice(&MAGIC);
        out.put_u8(VERSION);
        out.put_u8(self.kind.number());
        out.put_slice(&self.cluster.0);
        put_member(&mut out, self.sender);
        out.put_u64(self.map_version.0);
        let checksum = checksum(&out, body);
        out.put_u32(checksum);
        out.put_slice(body);
        out
    }

    /// Takes a datagram apart.
    ///
    /// # Errors
    /// Why it is to be dropped. Nothing in it is to be believed.
    pub(super) fn open(datagram: &[u8], cluster: ClusterId) -> Result<(Self, &[u8]), Dropped> {
        if datagram.len() > DATAGRAM_BYTES_MAX {
            return Err(Dropped::TooLarge);
        }
        Self::parse(datagram, cluster).unwrap_or(Err(Dropped::Truncated))
    }

    fn parse(datagram: &[u8], cluster: ClusterId) -> Result<Result<(Self, &[u8]), Dropped>, WireError> {
        let mut reader = Reader::new(datagram);
        if reader.array()? != MAGIC {
            return Ok(Err(Dropped::Magic));
        }
        if reader.u8()? != VERSION {
            return Ok(Err(Dropped::Version));
        }
        let kind = reader.u8()?;
        let theirs = ClusterId(reader.array()?);
        let sender = reader.member()?;
        let map_version = MapVersion(reader.u64()?);
        let expected = reader.u32()?;
        let body = reader.rest();
        if checksum(datagram.get(..CHECKSUM_AT).unwrap_or_default(), body) != expected {
            return Ok(Err(Dropped::Checksum));
        }
        if theirs != cluster {
            return Ok(Err(Dropped::OtherCluster));
        }
        let Some(kind) = Kind::ALL.into_iter().find(|known| known.number() == kind) else {
            return Ok(Err(Dropped::Malformed));
        };
        Ok(Ok((Self { kind, cluster, sender, map_version }, body)))
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}
