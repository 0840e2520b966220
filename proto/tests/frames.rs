//! Joining the chunks of a body, against the definition of the framing.

#![expect(clippy::indexing_slicing, reason = "a test may fail")]

use broky_proto::frame::{Deframer, FrameError, PREFIX_LEN, prefix};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

const MESSAGE_BYTES_MAX: usize = 64;

/// What a body means, read at once.
fn reference(mut body: &[u8]) -> (Vec<&[u8]>, Result<(), FrameError>) {
    let mut messages = Vec::new();
    while let Some((head, rest)) = body.split_at_checked(PREFIX_LEN) {
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if head[0] != 0 {
            return (messages, Err(FrameError::Compressed(head[0])));
        }
        if len > MESSAGE_BYTES_MAX {
            return (messages, Err(FrameError::TooLarge { len, max: MESSAGE_BYTES_MAX }));
        }
        let Some((message, rest)) = rest.split_at_checked(len) else { break };
        messages.push(message);
        body = rest;
    }
    (messages, if body.is_empty() { Ok(()) } else { Err(FrameError::Truncated(body.len())) })
}

/// What a deframer makes of a body that comes in chunks of these lengths, over and over.
fn deframe(body: &[u8], chunks: &[usize]) -> (Vec<Bytes>, Result<(), FrameError>) {
    let mut deframer = Deframer::new(MESSAGE_BYTES_MAX);
    let mut messages = Vec::new();
    let mut rest = body;
    for len in chunks.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, behind) = rest.split_at((*len).min(rest.len()));
        rest = behind;
        deframer.push(Bytes::copy_from_slice(chunk));
        loop {
            match deframer.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Err(error)),
            }
        }
        assert!(deframer.buffered() < PREFIX_LEN + MESSAGE_BYTES_MAX, "{} bytes are kept", deframer.buffered());
    }
    (messages, deframer.finish())
}

fn chunks() -> impl Strategy<Value = Vec<usize>> {
    vec(1..40_usize, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn messages_arrive_whole_however_the_body_is_cut(
        messages in vec(vec(any::<u8>(), 0..=MESSAGE_BYTES_MAX), 0..12),
        chunks in chunks(),
    ) {
        let body: Vec<u8> = messages.iter().flat_map(|message| [&prefix(message.len())[..], message].concat()).collect();
        let (got, end) = deframe(&body, &chunks);
        prop_assert_eq!(got, messages);
        prop_assert_eq!(end, Ok(()));
    }

    #[test]
    fn any_body_is_read_as_defined(
        parts in vec((prop_oneof![9 => Just(0_u8), 1 => any::<u8>()], 0..70_u32, vec(any::<u8>(), 0..70)), 0..6),
        chunks in chunks(),
    ) {
        let part = |(flag, len, bytes): (u8, u32, Vec<u8>)| [&[flag], &len.to_be_bytes()[..], &bytes].concat();
        let body: Vec<u8> = parts.into_iter().flat_map(part).collect();
        let (got, end) = deframe(&body, &chunks);
        let (expected, expected_end) = reference(&body);
        prop_assert_eq!(got, expected);
        prop_assert_eq!(end, expected_end);
    }
}
