//! Protobuf by hand, for what no encoder would write.

/// Wire type of numbers of variable length.
pub const VARINT: u32 = 0;
/// Wire type of eight bytes.
pub const FIXED64: u32 = 1;
/// Wire type of a length and as many bytes.
pub const LEN: u32 = 2;
/// Wire type that begins a group.
pub const GROUP: u32 = 3;
/// Wire type of four bytes.
pub const FIXED32: u32 = 5;

/// Bytes that are put together field by field.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Wire(pub Vec<u8>);

impl Wire {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A field's tag.
    #[must_use]
    pub fn tag(self, field: u32, wire_type: u32) -> Self {
        self.number(u64::from(field << 3 | wire_type))
    }

    /// A number of variable length, without a tag.
    #[must_use]
    pub fn number(mut self, mut number: u64) -> Self {
        loop {
            // Seven bits, so it fits.
            let low = u8::try_from(number & 0x7f).unwrap();
            number >>= 7;
            self.0.push(if number == 0 { low } else { low | 0x80 });
            if number == 0 {
                return self;
            }
        }
    }

    /// A field that is a number of variable length.
    #[must_use]
    pub fn varint(self, field: u32, number: u64) -> Self {
        self.tag(field, VARINT).number(number)
    }

    /// A field of eight bytes.
    #[must_use]
    pub fn fixed64(self, field: u32, number: u64) -> Self {
        self.tag(field, FIXED64).raw(&number.to_le_bytes())
    }

    /// A field of four bytes.
    #[must_use]
    pub fn fixed32(self, field: u32, number: u32) -> Self {
        self.tag(field, FIXED32).raw(&number.to_le_bytes())
    }

    /// A field of bytes, or an embedded message.
    #[must_use]
    pub fn bytes(self, field: u32, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.tag(field, LEN).number(bytes.len() as u64).raw(bytes)
    }

    /// Bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

impl AsRef<[u8]> for Wire {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A gRPC message: flags, the true length, the bytes.
///
/// # Panics
/// Beyond 4 GiB.
#[must_use]
pub fn framed(flags: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&claimed(flags, u32::try_from(bytes.len()).unwrap())[..], bytes].concat()
}

/// The beginning of a gRPC message that claims to be as long as this.
#[must_use]
pub fn claimed(flags: u8, len: u32) -> Vec<u8> {
    [&[flags][..], &len.to_be_bytes()].concat()
}
