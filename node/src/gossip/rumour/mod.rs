//! Rumours: what a node says of itself, and others pass on.
//!
//! A node's say is cut into a [`Head`] (map version, load, zone) and [`Chunk`]s, each with what it leads among 64
//! neighbouring vbuckets. So one move changes one chunk of some forty bytes, and no chunk, whatever the epochs, exceeds
//! a datagram. Each part has a [`Stamp`] that rises within the incarnation: of two versions of a part the newer wins,
//! whichever way they came. The head is stamped anew with every change and carries a [`Digest`] of all chunks, by which
//! a receiver knows that it missed one and asks for it.
//!
//! ```text
//! part u8 (0 head, 1 chunk), node u32, incarnation u64, stamp u64, then
//! head:  map version u64, load u32, chunks u16, their checksum u32, zone (u8 length, UTF-8)
//! chunk: index u16, bitmap of what is led u64 (vbucket 64 * index + i is bit i); unless that is zero:
//!        n - 1 u8, n distinct epochs ascending (varint, then varint gaps); if n > 1, per led vbucket which one (u8)
//! ```

pub(super) mod board;
pub(super) mod own;

use std::collections::BTreeSet;

use broky_proto::id::{Epoch, MapVersion, Member, VBucketCount, VBucketId};
use broky_ring::member::Zone;
use bytes::BufMut;

use super::wire::{Reader, WireError, put_member, put_varint};

/// Vbuckets in a chunk.
const CHUNK_VBUCKETS: u16 = 64;
/// The longest zone that is spread; the control plane takes none that is longer.
const ZONE_BYTES_MAX: usize = 255;
/// The longest encoded rumour: a chunk of 64 vbuckets, each in an epoch of ten bytes.
#[cfg(test)]
pub(super) const RUMOUR_BYTES_MAX: usize = 21 + 2 + 8 + 1 + 64 * (10 + 1);

const HEAD: u8 = 0;
const CHUNK: u8 = 1;

/// Version of one part of what one incarnation says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(super) struct Stamp(pub(super) u64);

/// Which chunk: the vbuckets from 64 times this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ChunkId(pub(super) u16);

impl ChunkId {
    pub(super) fn of(vbucket: VBucketId) -> Self {
        Self(vbucket.0 / CHUNK_VBUCKETS)
    }
}

/// A node's load in thousandths of what it can take; above 1000 when it takes too much.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) struct Load(pub(crate) u32);

/// What a node's chunks add up to: equal digests, equal chunks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Digest {
    pub(super) chunks: u16,
    pub(super) checksum: u32,
}

impl Digest {
    /// Of these chunks, ascending.
    pub(super) fn of<'a>(chunks: impl Iterator<Item = &'a Chunk>) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        let mut count: u16 = 0;
        for chunk in chunks {
            count = count.saturating_add(1);
            hasher.update(&chunk.id.0.to_be_bytes());
            hasher.update(&chunk.stamp.0.to_be_bytes());
        }
        Self { chunks: count, checksum: hasher.finalize() }
    }
}

/// What a node says of itself as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) member: Member,
    pub(super) stamp: Stamp,
    pub(super) map_version: MapVersion,
    pub(super) load: Load,
    pub(super) zone: Zone,
    pub(super) digest: Digest,
}

/// What a node leads among neighbouring vbuckets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Chunk {
    pub(super) member: Member,
    pub(super) stamp: Stamp,
    pub(super) id: ChunkId,
    /// Ascending by vbucket, all within the chunk.
    pub(super) led: Vec<(VBucketId, Epoch)>,
}

/// One part of what a node says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Rumour {
    Head(Head),
    Chunk(Chunk),
}

/// Which part of whose say a rumour is: the newer of two with the same key takes the place of the older.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    pub(super) member: Member,
    /// `None` for the head.
    pub(super) chunk: Option<ChunkId>,
}

impl Rumour {
    pub(super) fn member(&self) -> Member {
        match self {
            Self::Head(head) => head.member,
            Self::Chunk(chunk) => chunk.member,
        }
    }

    /// Reads a rumour.
    ///
    /// # Errors
    /// It is not one, or names vbuckets that do not exist.
    pub(super) fn decode(bytes: &[u8], vbuckets: VBucketCount) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let part = reader.u8()?;
        let member = reader.member()?;
        let stamp = Stamp(reader.u64()?);
        let rumour = match part {
            HEAD => {
                let map_version = MapVersion(reader.u64()?);
                let load = Load(reader.u32()?);
                let digest = Digest { chunks: reader.u16()?, checksum: reader.u32()? };
                let len = reader.u8()?;
                let zone = str::from_utf8(reader.bytes(usize::from(len))?).map_err(|_| WireError::Value("zone"))?;
                Self::Head(Head { member, stamp, map_version, load, zone: Zone(zone.to_owned()), digest })
            }
            CHUNK => {
                let id = ChunkId(reader.u16()?);
                let led = decode_led(&mut reader, id, vbuckets)?;
                Self::Chunk(Chunk { member, stamp, id, led })
            }
            _ => return Err(WireError::Value("part")),
        };
        reader.finish()?;
        Ok(rumour)
    }

    /// The key of an encoded rumour.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn key(bytes: &[u8]) -> Result<Key, WireError> {
        let mut reader = Reader::new(bytes);
        let part = reader.u8()?;
        let member = reader.member()?;
        reader.u64()?;
        let chunk = if part == CHUNK { Some(ChunkId(reader.u16()?)) } else { None };
        Ok(Key { member, chunk })
    }
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = prefix(HEAD, self.member, self.stamp);
        out.put_u64(self.map_version.0);
        out.put_u32(self.load.0);
        out.put_u16(self.digest.chunks);
        out.put_u32(self.digest.checksum);
        let zone = &self.zone.0;
        let zone = zone.get(..zone.floor_char_boundary(ZONE_BYTES_MAX)).unwrap_or_default();
        // It is not longer than ZONE_BYTES_MAX.
        out.put_u8(u8::try_from(zone.len()).unwrap_or_default());
        out.put_slice(zone.as_bytes());
        out
    }
}

impl Chunk {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = prefix(CHUNK, self.member, self.stamp);
        out.put_u16(self.id.0);
        let slot = |vbucket: VBucketId| vbucket.0 % CHUNK_VBUCKETS;
        out.put_u64(self.led.iter().fold(0, |bitmap, (vbucket, _)| bitmap | 1 << slot(*vbucket)));
        let epochs: Vec<Epoch> =
            self.led.iter().map(|(_, epoch)| *epoch).collect::<BTreeSet<_>>().into_iter().collect();
        let [first, others @ ..] = epochs.as_slice() else { return out };
        // There are 64 at the most.
        out.put_u8(u8::try_from(others.len()).unwrap_or_default());
        put_varint(&mut out, first.0);
        for (before, epoch) in epochs.iter().zip(others) {
            put_varint(&mut out, epoch.0 - before.0);
        }
        if !others.is_empty() {
            for (_, epoch) in &self.led {
                let at = epochs.binary_search(epoch).unwrap_or_default();
                out.put_u8(u8::try_from(at).unwrap_or_default());
            }
        }
        out
    }
}

fn prefix(part: u8, member: Member, stamp: Stamp) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.put_u8(part);
    put_member(&mut out, member);
    out.put_u64(stamp.0);
    out
}

fn decode_led(
    reader: &mut Reader<'_>,
    id: ChunkId,
    vbuckets: VBucketCount,
) -> Result<Vec<(VBucketId, Epoch)>, WireError> {
    let bitmap = reader.u64()?;
    let first = id.0.checked_mul(CHUNK_VBUCKETS).filter(|first| *first < vbuckets.get());
    let first = first.ok_or(WireError::Value("chunk index"))?;
    let led: Vec<VBucketId> = (0..CHUNK_VBUCKETS)
        .filter(|slot| bitmap >> slot & 1 == 1)
        // `first` is below 32,768.
        .map(|slot| VBucketId(first + slot))
        .collect();
    if led.last().is_some_and(|last| last.0 >= vbuckets.get()) {
        return Err(WireError::Value("vbucket"));
    }
    if led.is_empty() {
        return Ok(Vec::new());
    }
    let others = usize::from(reader.u8()?);
    if others >= led.len() {
        return Err(WireError::Value("number of epochs"));
    }
    let mut epochs = vec![Epoch(reader.varint()?)];
    for _ in 0..others {
        let before = epochs.last().copied().unwrap_or_default();
        let epoch = before.0.checked_add(reader.varint()?).filter(|epoch| *epoch > before.0);
        epochs.push(Epoch(epoch.ok_or(WireError::Value("epoch"))?));
    }
    let mut with_epochs = Vec::with_capacity(led.len());
    for vbucket in led {
        let at = if others == 0 { 0 } else { usize::from(reader.u8()?) };
        let epoch = epochs.get(at).ok_or(WireError::Value("epoch index"))?;
        with_epochs.push((vbucket, *epoch));
    }
    Ok(with_epochs)
}
