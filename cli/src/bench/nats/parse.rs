//! Receiving: takes `MSG` frames apart where they lie.

use anyhow::{Result, bail};

/// Longest line other than `MSG` that the server sends: its `INFO`.
const LINE_BYTES_MAX: usize = 16 << 10;

/// What a read brought, besides messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    Messages,
    /// The server wants to know whether we are there.
    Ping,
}

/// Parses what the server sends to subscribers of subjects of one length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parser {
    subject_len: usize,
    has_reply: bool,
}

/// Header of a delivery.
struct Header {
    sid: usize,
    size: usize,
    /// Bytes of the header, its line end included.
    len: usize,
}

impl Parser {
    pub(super) fn new(subject_len: usize) -> Self {
        Self { subject_len, has_reply: false }
    }

    /// For messages that all say where to reply, as those of JetStream's consumers do.
    pub(super) fn with_reply(self) -> Self {
        Self { has_reply: true, ..self }
    }

    /// Hands subscription and payload of every complete message to `each`. Returns what is left: the beginning of an
    /// incomplete one.
    ///
    /// # Errors
    /// The server reports an error, or says something that is not the protocol.
    pub(super) fn parse<'a>(
        &self,
        mut bytes: &'a [u8],
        mut each: impl FnMut(usize, &[u8]),
    ) -> Result<(Event, &'a [u8])> {
        let mut event = Event::Messages;
        while !bytes.is_empty() {
            if bytes.starts_with(b"MSG ") {
                let Some(header) = self.header(bytes) else { break };
                let Some((frame, rest)) = bytes.split_at_checked(header.len + header.size + 2) else { break };
                each(header.sid, frame.get(header.len..header.len + header.size).unwrap_or_default());
                bytes = rest;
                continue;
            }
            let Some(end) = bytes.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\n') else {
                if bytes.len() >= LINE_BYTES_MAX {
                    bail!("the server does not speak the NATS protocol");
                }
                break;
            };
            let (line, rest) = bytes.split_at(end + 1);
            match line {
                b"PING\r\n" => event = Event::Ping,
                b"PONG\r\n" | b"+OK\r\n" => {}
                _ if line.starts_with(b"INFO ") => {}
                _ => bail!("the server says {}", String::from_utf8_lossy(line).trim_end()),
            }
            bytes = rest;
        }
        Ok((event, bytes))
    }

    /// `MSG <subject> <sid> [reply] <size>\r\n`. `None`: not complete, or not of this shape.
    #[inline]
    fn header(&self, bytes: &[u8]) -> Option<Header> {
        let sid_at = "MSG ".len() + self.subject_len + 1;
        let (sid, size_at) = number(bytes, sid_at, b' ')?;
        let size_at = if self.has_reply { size_at + word_len(bytes, size_at)? + 1 } else { size_at };
        // JetStream's answers have two blanks here: one in front of a reply subject that is empty, one behind.
        let size_at = if bytes.get(size_at) == Some(&b' ') { size_at + 1 } else { size_at };
        let (size, end) = number(bytes, size_at, b'\r')?;
        // The line feed is taken for granted.
        Some(Header { sid, size, len: end + 1 })
    }
}

/// Length of the word at `at`, without the blank behind it.
#[inline]
fn word_len(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b' ')
}

/// Decimal number at `at`; also the position behind the byte that ends it.
#[inline]
fn number(bytes: &[u8], at: usize, end: u8) -> Option<(usize, usize)> {
    let mut value = 0_usize;
    for (length, &byte) in bytes.get(at..)?.iter().enumerate().take(10) {
        if byte == end {
            return Some((value, at + length + 1));
        }
        value = value * 10 + usize::from(byte.wrapping_sub(b'0'));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_once_it_is_complete() {
        let parser = Parser::new(1);
        let header = parser.header(b"MSG b 17 128\r\n").unwrap();
        assert_eq!((header.sid, header.size, header.len), (17, 128, 14));
        for end in 0.."MSG b 17 128".len() {
            assert!(parser.header(&b"MSG b 17 128\r\n"[..end]).is_none());
        }
    }

    #[test]
    fn a_header_with_a_reply_subject_is_read_once_it_is_complete() {
        let parser = Parser::new(1).with_reply();
        let line = b"MSG b 1 $JS.ACK.B.X47e50rt.1.25.25.1795265976017723488.2 128\r\n";
        let header = parser.header(line).unwrap();
        assert_eq!((header.sid, header.size, header.len), (1, 128, line.len()));
        for end in 0..line.len() - 2 {
            assert!(parser.header(&line[..end]).is_none());
        }
    }

    #[test]
    fn an_empty_reply_subject_is_no_reply_subject() {
        let header = Parser::new(1).header(b"MSG b 1  33\r\n").unwrap();
        assert_eq!((header.sid, header.size, header.len), (1, 33, 13));
    }

    #[test]
    fn messages_are_handed_over_and_the_incomplete_end_is_left() {
        let mut seen = Vec::new();
        let bytes = b"MSG b 3 2\r\nxy\r\nPING\r\nMSG b 4 0\r\n\r\nMSG b 5 2\r\nx";
        let (event, rest) = Parser::new(1).parse(bytes, |sid, payload| seen.push((sid, payload.to_vec()))).unwrap();
        assert_eq!(seen, [(3, b"xy".to_vec()), (4, Vec::new())]);
        assert_eq!((event, rest), (Event::Ping, b"MSG b 5 2\r\nx".as_slice()));
    }

    #[test]
    fn an_error_of_the_server_ends_it() {
        let error = Parser::new(1).parse(b"-ERR 'Slow Consumer'\r\n", |_, _| {}).unwrap_err();
        assert_eq!(error.to_string(), "the server says -ERR 'Slow Consumer'");
    }
}
