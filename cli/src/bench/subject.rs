//! The keys of a run: one, or a fixed width of digits behind a prefix.

/// What every key begins with, and what the only key is.
const SUBJECT: &str = "b";
/// Digits of the key behind the subject.
const KEY_DIGITS: usize = 4;

/// Makes keys without allocating.
pub(crate) struct Subject {
    bytes: Vec<u8>,
    /// Position of the digits, when there are several keys.
    key_at: Option<usize>,
}

impl Subject {
    pub(crate) fn new(keys: usize) -> Self {
        match keys {
            1 => Self { bytes: SUBJECT.into(), key_at: None },
            _ => Self { bytes: format!("{SUBJECT}.{:0KEY_DIGITS$}", 0).into(), key_at: Some(SUBJECT.len() + 1) },
        }
    }

    /// What a subscriber of all keys asks for: literal when there is one.
    pub(crate) fn pattern(keys: usize) -> String {
        if keys == 1 { SUBJECT.to_owned() } else { format!("{SUBJECT}.*") }
    }

    /// The bytes of this key.
    #[inline]
    pub(crate) fn of(&mut self, key: u16) -> &[u8] {
        if let Some(place) = self.key_at.and_then(|at| self.bytes.get_mut(at..at + KEY_DIGITS)) {
            place.copy_from_slice(&digits(key));
        }
        &self.bytes
    }
}

/// A key's digits; keys are below 10,000.
#[inline]
pub(crate) fn digits(key: u16) -> [u8; KEY_DIGITS] {
    [1000, 100, 10, 1].map(|divisor: u16| b'0' + u8::try_from(key / divisor % 10).unwrap_or_default())
}
