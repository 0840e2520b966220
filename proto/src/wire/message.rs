//! The fields of one encoded `Message`, found in place.

use super::reader::{FIXED32, FIXED64, LEN, Reader, VARINT, WireError, expect_type};
use crate::limits::UID_BYTES;

/// A run of bytes inside a message: start and length, both in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Span {
    /// Distance from the message's first byte.
    pub start: u32,
    /// Length.
    pub len: u32,
}

impl Span {
    /// The bytes of `message` this span stands for; empty when it lies outside of `message`.
    #[inline]
    #[must_use]
    pub fn of(self, message: &[u8]) -> &[u8] {
        let start = self.start as usize;
        message.get(start..start + self.len as usize).unwrap_or_default()
    }
}

/// What a scan finds in one encoded `Message`. Absent fields have their default.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Fields {
    /// Field 1.
    pub key_partition: Span,
    /// Field 2.
    pub key: Span,
    /// Field 3.
    pub payload: Span,
    /// Field 4, Unix nanoseconds.
    pub ts_producer: i64,
    /// Field 5: empty or 20 bytes.
    pub uid: Span,
    /// Number of entries in field 6; read them with a full decode.
    pub headers: u32,
    /// Field 7.
    pub retain: bool,
    /// Field 8, milliseconds.
    pub ttl_ms: u32,
    /// Field 11.
    pub crc32: u32,
    /// Field 12, Unix nanoseconds.
    pub ts_broker: i64,
    /// Field 13.
    pub epoch: u64,
    /// Field 14.
    pub vbucket: u32,
    /// Field 15.
    pub offset: u64,
}

impl Fields {
    /// Finds and validates every field of an encoded `Message`. As in protobuf, the last value of a field wins.
    ///
    /// # Errors
    /// The first violation found; see [`WireError`].
    #[inline]
    pub fn scan(message: &[u8]) -> Result<Self, WireError> {
        if u32::try_from(message.len()).is_err() {
            return Err(WireError::TooLong(message.len()));
        }
        let mut fields = Self::default();
        let mut reader = Reader::new(message);
        while !reader.is_done() {
            let (field, wire_type) = reader.tag()?;
            fields.read(field, wire_type, &mut reader)?;
        }
        match fields.uid.len as usize {
            0 | UID_BYTES => Ok(fields),
            other => Err(WireError::UidLength(other)),
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "protobuf defines a uint32 as the low half of its varint")]
    fn read(&mut self, field: u32, wire_type: u8, reader: &mut Reader<'_>) -> Result<(), WireError> {
        match field {
            1 => self.key_partition = span(field, wire_type, reader)?,
            2 => self.key = span(field, wire_type, reader)?,
            3 => self.payload = span(field, wire_type, reader)?,
            4 => self.ts_producer = fixed64(field, wire_type, reader)?.cast_signed(),
            5 => self.uid = span(field, wire_type, reader)?,
            6 => {
                expect_type(field, wire_type, LEN)?;
                check_header(reader.delimited()?)?;
                self.headers += 1;
            }
            7 => self.retain = varint(field, wire_type, reader)? != 0,
            8 => self.ttl_ms = varint(field, wire_type, reader)? as u32,
            11 => {
                expect_type(field, wire_type, FIXED32)?;
                self.crc32 = reader.fixed32()?;
            }
            12 => self.ts_broker = fixed64(field, wire_type, reader)?.cast_signed(),
            13 => self.epoch = varint(field, wire_type, reader)?,
            14 => self.vbucket = varint(field, wire_type, reader)? as u32,
            15 => self.offset = fixed64(field, wire_type, reader)?,
            _ => reader.skip(field, wire_type)?,
        }
        Ok(())
    }

    /// The CRC-32 the broker assigns: over key_partition, key and payload of `message`, one behind the other.
    #[inline]
    #[must_use]
    pub fn checksum(&self, message: &[u8]) -> u32 {
        self.token_and_checksum(message).1
    }

    /// The message's token and its checksum. The token is a prefix of the same calculation.
    #[inline]
    #[must_use]
    pub fn token_and_checksum(&self, message: &[u8]) -> (u32, u32) {
        let (first, second) =
            if self.key_partition.len > 0 { (self.key_partition, self.key) } else { (self.key, Span::default()) };
        let token = crc32fast::hash(first.of(message));
        let mut crc = crc32fast::Hasher::new_with_initial(token);
        crc.update(second.of(message));
        crc.update(self.payload.of(message));
        (token, crc.finalize())
    }
}

#[inline]
fn span(field: u32, wire_type: u8, reader: &mut Reader<'_>) -> Result<Span, WireError> {
    expect_type(field, wire_type, LEN)?;
    let len = reader.delimited()?.len();
    // `scan` bounds the message, so both fit.
    #[expect(clippy::cast_possible_truncation, reason = "positions inside a message of at most u32::MAX bytes")]
    Ok(Span { start: (reader.position() - len) as u32, len: len as u32 })
}

#[inline]
fn fixed64(field: u32, wire_type: u8, reader: &mut Reader<'_>) -> Result<u64, WireError> {
    expect_type(field, wire_type, FIXED64)?;
    reader.fixed64()
}

#[inline]
fn varint(field: u32, wire_type: u8, reader: &mut Reader<'_>) -> Result<u64, WireError> {
    expect_type(field, wire_type, VARINT)?;
    reader.varint()
}

/// A `map<string, bytes>` entry: 1 is the name, 2 the value.
fn check_header(entry: &[u8]) -> Result<(), WireError> {
    let mut reader = Reader::new(entry);
    while !reader.is_done() {
        let (field, wire_type) = reader.tag()?;
        match field {
            1 => {
                expect_type(field, wire_type, LEN)?;
                std::str::from_utf8(reader.delimited()?).map_err(|_| WireError::HeaderName)?;
            }
            2 => {
                expect_type(field, wire_type, LEN)?;
                reader.delimited()?;
            }
            _ => reader.skip(field, wire_type)?,
        }
    }
    Ok(())
}
