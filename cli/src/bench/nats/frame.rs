//! Publishing: a `PUB` frame is built once and only its numbers change.

use super::super::check::{STAMP_BYTES, Stamp};

/// Subjects have a fixed width, so that a frame can be patched and a delivery parsed without looking for their end.
const SUBJECT: &str = "b";
/// Digits of the key behind the subject.
const KEY_DIGITS: usize = 4;

/// What a subscriber asks for. A literal subject when there is one key only: the server's fastest case.
pub(super) fn subscription(keys: usize) -> String {
    if keys == 1 { SUBJECT.to_owned() } else { format!("{SUBJECT}.*") }
}

/// Length of the subjects that messages carry.
pub(super) fn subject_len(keys: usize) -> usize {
    if keys == 1 { SUBJECT.len() } else { SUBJECT.len() + 1 + KEY_DIGITS }
}

/// One message as it goes over the wire.
pub(super) struct Frame {
    bytes: Vec<u8>,
    stamp_at: usize,
    stamp_len: usize,
    /// Position of the key's digits, when there are several keys.
    key_at: Option<usize>,
}

impl Frame {
    /// `reply`: subject that an answer to each message is to be sent to.
    pub(super) fn new(size: usize, keys: usize, reply: Option<&str>) -> Self {
        let (subject, key_at) = match keys {
            1 => (SUBJECT.to_owned(), None),
            _ => (format!("{SUBJECT}.{:0width$}", 0, width = KEY_DIGITS), Some("PUB ".len() + SUBJECT.len() + 1)),
        };
        let mut bytes = match reply {
            Some(reply) => format!("PUB {subject} {reply} {size}\r\n").into_bytes(),
            None => format!("PUB {subject} {size}\r\n").into_bytes(),
        };
        let stamp_at = bytes.len();
        bytes.resize(stamp_at + size, b'.');
        bytes.extend_from_slice(b"\r\n");
        Self { bytes, stamp_at, stamp_len: size.min(STAMP_BYTES), key_at }
    }

    /// Appends the frame of this message.
    #[inline]
    pub(super) fn append(&mut self, stamp: Stamp, buffer: &mut Vec<u8>) {
        let encoded = stamp.encode();
        let place = self.bytes.get_mut(self.stamp_at..self.stamp_at + self.stamp_len);
        if let (Some(place), Some(encoded)) = (place, encoded.get(..self.stamp_len)) {
            place.copy_from_slice(encoded);
        }
        if let Some(at) = self.key_at {
            self.patch_key(at, stamp.key);
        }
        buffer.extend_from_slice(&self.bytes);
    }

    fn patch_key(&mut self, at: usize, key: u16) {
        let digit = |divisor: u16| b'0' + u8::try_from(key / divisor % 10).unwrap_or_default();
        if let Some(place) = self.bytes.get_mut(at..at + KEY_DIGITS) {
            place.copy_from_slice(&[digit(1000), digit(100), digit(10), digit(1)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_carries_key_and_stamp() {
        let stamp = Stamp { publisher: 0, key: 427, sequence: 5, intended_ns: 6 };
        let mut buffer = Vec::new();
        Frame::new(18, 1000, None).append(stamp, &mut buffer);
        let expected = [b"PUB b.0427 18\r\n".as_slice(), &stamp.encode(), b"..\r\n"].concat();
        assert_eq!(buffer, expected);
    }

    #[test]
    fn a_frame_says_where_to_reply() {
        let stamp = Stamp { publisher: 0, key: 427, sequence: 5, intended_ns: 6 };
        let mut buffer = Vec::new();
        Frame::new(16, 1000, Some("_INBOX.7")).append(stamp, &mut buffer);
        let expected = [b"PUB b.0427 _INBOX.7 16\r\n".as_slice(), &stamp.encode(), b"\r\n"].concat();
        assert_eq!(buffer, expected);
    }

    #[test]
    fn a_payload_too_short_for_a_stamp_holds_its_beginning() {
        let stamp = Stamp { publisher: 0x4141, key: 0, sequence: 5, intended_ns: 6 };
        let mut buffer = Vec::new();
        Frame::new(2, 1, None).append(stamp, &mut buffer);
        assert_eq!(buffer, b"PUB b 2\r\nAA\r\n");
    }
}
