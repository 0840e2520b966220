//! gRPC's length-prefixed framing: one byte of flags, four bytes of length, the message.
//!
//! [`Deframer`] joins the chunks of an HTTP/2 body into messages. A message that arrives in one chunk is handed on as a
//! slice of it, without a copy; only one that was split is put together. The claimed length is checked against a limit
//! before anything is kept, and memory grows with what has arrived, never with what was claimed.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// Bytes in front of each message.
pub const PREFIX_LEN: usize = 5;

/// Why a body is not a sequence of gRPC messages. The stream cannot be read further.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    /// The flag byte asks for compression, or is neither 0 nor 1.
    #[error("compression flag {0}: messages must not be compressed")]
    Compressed(u8),
    /// The claimed length exceeds the limit.
    #[error("a message of {len} bytes was announced; the limit is {max}")]
    TooLarge {
        /// The claimed length, in bytes.
        len: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// The body ended inside a message.
    #[error("the stream ended inside a message: {0} bytes of it had arrived")]
    Truncated(usize),
}

/// The prefix of a message of `len` bytes.
///
/// # Panics
/// When `len` exceeds 4 GiB: nothing here builds such a message.
#[must_use]
pub fn prefix(len: usize) -> [u8; PREFIX_LEN] {
    #[expect(clippy::expect_used, reason = "a message of 4 GiB is a bug of ours")]
    let len = u32::try_from(len).expect("a message is below 4 GiB");
    let [a, b, c, d] = len.to_be_bytes();
    [0, a, b, c, d]
}

/// `message` encoded behind its prefix.
#[must_use]
pub fn encode(message: &impl prost::Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX_LEN + len);
    out.put_slice(&prefix(len));
    // Only a buffer without room makes it fail, and this one has it.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// What goes in front of the last field of a message, when that is sent behind as it stands in memory: the prefix, the
/// outer message with `meta` as its field `outer`, and the tag and length of `meta`'s field `inner` of `len` bytes.
/// Tags are of one byte and length-delimited fields.
#[must_use]
pub fn encode_head(outer: u8, meta: &impl prost::Message, inner: u8, len: usize) -> Bytes {
    let meta_len = meta.encoded_len();
    let inner_len = meta_len + 1 + prost::length_delimiter_len(len) + len;
    let outer_len = 1 + prost::length_delimiter_len(inner_len) + inner_len;
    let mut out = BytesMut::with_capacity(PREFIX_LEN + outer_len - len);
    out.put_slice(&prefix(outer_len));
    out.put_u8(outer);
    // Only a buffer without room makes these fail, and this one has it.
    let _ = prost::encode_length_delimiter(inner_len, &mut out);
    let _ = meta.encode(&mut out);
    out.put_u8(inner);
    let _ = prost::encode_length_delimiter(len, &mut out);
    out.freeze()
}

/// Puts messages together from chunks.
#[derive(Debug)]
pub struct Deframer {
    message_bytes_max: usize,
    /// What has arrived and not been handed out; contiguous.
    chunk: Bytes,
    /// The beginning of a message that spans chunks, prefix included; `chunk` is empty while this is not.
    partial: BytesMut,
}

impl Deframer {
    /// A deframer that refuses messages of more than `message_bytes_max` bytes.
    #[must_use]
    pub fn new(message_bytes_max: usize) -> Self {
        Self { message_bytes_max, chunk: Bytes::new(), partial: BytesMut::new() }
    }

    /// Takes the next chunk of the body. Call [`Deframer::next_message`] until it returns `None` before the next one.
    pub fn push(&mut self, chunk: Bytes) {
        if self.partial.is_empty() && self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            self.spill();
            self.partial.extend_from_slice(&chunk);
        }
    }

    /// The next whole message, or `None` when more must arrive first.
    ///
    /// # Errors
    /// See [`FrameError`]. The deframer is of no further use.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, FrameError> {
        if self.partial.is_empty() {
            return self.next_in_chunk();
        }
        let Some(len) = self.message_len(&self.partial)? else { return Ok(None) };
        let whole = PREFIX_LEN + len;
        if self.partial.len() < whole {
            return Ok(None);
        }
        let mut joined = self.partial.split().freeze();
        self.chunk = joined.split_off(whole);
        joined.advance(PREFIX_LEN);
        Ok(Some(joined))
    }

    fn next_in_chunk(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(len) = self.message_len(&self.chunk)? else {
            self.spill();
            return Ok(None);
        };
        if self.chunk.len() < PREFIX_LEN + len {
            self.spill();
            return Ok(None);
        }
        self.chunk.advance(PREFIX_LEN);
        Ok(Some(self.chunk.split_to(len)))
    }

    /// Whether the body ended between messages.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] when it ended inside one.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.buffered() {
            0 => Ok(()),
            left => Err(FrameError::Truncated(left)),
        }
    }

    /// Bytes kept for a message that has not wholly arrived.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.partial.len() + self.chunk.len()
    }

    fn spill(&mut self) {
        let chunk = std::mem::take(&mut self.chunk);
        self.partial.extend_from_slice(&chunk);
    }

    fn message_len(&self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        let Some(&[flag, a, b, c, d]) = bytes.first_chunk::<PREFIX_LEN>() else { return Ok(None) };
        if flag != 0 {
            return Err(FrameError::Compressed(flag));
        }
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len > self.message_bytes_max {
            return Err(FrameError::TooLarge { len, max: self.message_bytes_max });
        }
        Ok(Some(len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(messages: &[&[u8]]) -> Vec<u8> {
        messages.iter().flat_map(|message| [&prefix(message.len())[..], message].concat()).collect()
    }

    #[test]
    fn any_split_gives_the_same_messages() {
        let messages: [&[u8]; 4] = [b"", b"a", b"hello world", b""];
        let body = framed(&messages);
        for step in 1..=body.len() {
            let mut deframer = Deframer::new(64);
            let mut got = Vec::new();
            for chunk in body.chunks(step) {
                deframer.push(Bytes::copy_from_slice(chunk));
                while let Some(message) = deframer.next_message().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, messages, "chunks of {step}");
            deframer.finish().unwrap();
        }
    }

    #[test]
    fn whole_message_is_not_copied() {
        let chunk = Bytes::from(framed(&[b"hello"]));
        let mut deframer = Deframer::new(64);
        deframer.push(chunk.clone());
        let message = deframer.next_message().unwrap().unwrap();
        assert_eq!(message.as_ptr(), chunk[PREFIX_LEN..].as_ptr());
    }

    #[test]
    fn announced_length_over_the_limit_is_refused_before_it_arrives() {
        let mut deframer = Deframer::new(4);
        deframer.push(Bytes::copy_from_slice(&prefix(5)));
        assert_eq!(deframer.next_message(), Err(FrameError::TooLarge { len: 5, max: 4 }));
    }

    #[test]
    fn compression_is_refused() {
        for flag in [1, 2, 255] {
            let mut deframer = Deframer::new(4);
            deframer.push(Bytes::copy_from_slice(&[flag, 0, 0, 0, 0]));
            assert_eq!(deframer.next_message(), Err(FrameError::Compressed(flag)));
        }
    }

    #[test]
    fn end_inside_a_message_is_an_error() {
        let mut deframer = Deframer::new(4);
        deframer.push(Bytes::copy_from_slice(&prefix(3)));
        assert_eq!(deframer.next_message(), Ok(None));
        assert_eq!(deframer.finish(), Err(FrameError::Truncated(PREFIX_LEN)));
    }
}
