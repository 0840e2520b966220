//! The one reader of protobuf primitives: bounds-checked, without allocation.

use thiserror::Error;

/// Why bytes are not a valid encoded message. Nothing was stored; the same bytes fail again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum WireError {
    /// A field's value reaches beyond the end of its message.
    #[error("truncated: a field reaches beyond the end of its message")]
    Truncated,
    /// A varint has more than ten bytes or more than 64 bits.
    #[error("a varint has more than 64 bits")]
    VarintOverflow,
    /// A field number is zero or above 2^29 - 1.
    #[error("field number {0} is out of range")]
    FieldNumber(u64),
    /// A known field has another wire type than its definition says, or any field is a group.
    #[error("field {field} has wire type {wire_type}")]
    WireType {
        /// The field's number.
        field: u32,
        /// The wire type found.
        wire_type: u8,
    },
    /// A header name is not UTF-8, which protobuf demands of strings.
    #[error("a header name is not UTF-8")]
    HeaderName,
    /// `uid` has neither 0 nor 20 bytes.
    #[error("uid has {0} bytes, not 20")]
    UidLength(usize),
    /// The message is longer than this implementation reads.
    #[error("a message of {0} bytes cannot be scanned")]
    TooLong(usize),
}

pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const LEN: u8 = 2;
pub(super) const FIXED32: u8 = 5;

const FIELD_NUMBER_MAX: u64 = (1 << 29) - 1;

/// A cursor over encoded bytes.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn is_done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, WireError> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            Some(_) => self.varint_long(),
            None => Err(WireError::Truncated),
        }
    }

    fn varint_long(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(WireError::Truncated)?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(WireError::VarintOverflow);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::VarintOverflow)
    }

    /// The next field's number and wire type.
    #[inline]
    pub(super) fn tag(&mut self) -> Result<(u32, u8), WireError> {
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > FIELD_NUMBER_MAX {
            return Err(WireError::FieldNumber(number));
        }
        // Checked to be below 2^29, and three bits.
        #[expect(clippy::cast_possible_truncation, reason = "bounded on the lines above")]
        Ok((number as u32, (tag & 7) as u8))
    }

    #[inline]
    pub(super) fn fixed32(&mut self) -> Result<u32, WireError> {
        let bytes = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<4>()).ok_or(WireError::Truncated)?;
        self.at += 4;
        Ok(u32::from_le_bytes(*bytes))
    }

    #[inline]
    pub(super) fn fixed64(&mut self) -> Result<u64, WireError> {
        let bytes = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<8>()).ok_or(WireError::Truncated)?;
        self.at += 8;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// The bytes of a length-delimited field.
    #[inline]
    pub(super) fn delimited(&mut self) -> Result<&'a [u8], WireError> {
        let len = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
        let end = self.at.checked_add(len).ok_or(WireError::Truncated)?;
        let value = self.bytes.get(self.at..end).ok_or(WireError::Truncated)?;
        self.at = end;
        Ok(value)
    }

    /// Passes over the value of an unknown field.
    pub(super) fn skip(&mut self, field: u32, wire_type: u8) -> Result<(), WireError> {
        match wire_type {
            VARINT => self.varint().map(drop),
            FIXED64 => self.fixed64().map(drop),
            LEN => self.delimited().map(drop),
            FIXED32 => self.fixed32().map(drop),
            _ => Err(WireError::WireType { field, wire_type }),
        }
    }
}

/// Fails unless a known field has the wire type of its definition.
#[inline]
pub(super) fn expect_type(field: u32, wire_type: u8, expected: u8) -> Result<(), WireError> {
    if wire_type == expected { Ok(()) } else { Err(WireError::WireType { field, wire_type }) }
}
