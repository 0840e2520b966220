//! The deframer: the chunks of a body must not matter.

#![no_main]

use broky_proto::frame::{Deframer, FrameError, PREFIX_LEN};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const MESSAGE_BYTES_MAX: usize = 300;

fuzz_target!(|data: &[u8]| {
    // The first byte says how many of the next are lengths of chunks; the rest is the body.
    let Some((count, rest)) = data.split_first() else { return };
    let Some((lens, body)) = rest.split_at_checked(usize::from(*count)) else { return };
    let cut = read(chunks(body, lens));
    let whole = read([body].into_iter());
    assert_eq!(cut, whole);
});

fn chunks<'a>(mut body: &'a [u8], lens: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut lens = lens.iter();
    std::iter::from_fn(move || {
        let len = lens.next().map_or(body.len(), |len| usize::from(*len).min(body.len()));
        let (chunk, rest) = body.split_at(len);
        let is_over = body.is_empty() && lens.len() == 0;
        body = rest;
        (!is_over).then_some(chunk)
    })
}

fn read<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Bytes>, Result<(), FrameError>) {
    let mut deframer = Deframer::new(MESSAGE_BYTES_MAX);
    let mut messages = Vec::new();
    for chunk in chunks {
        deframer.push(Bytes::copy_from_slice(chunk));
        loop {
            match deframer.next_message() {
                Ok(Some(message)) => {
                    assert!(message.len() <= MESSAGE_BYTES_MAX);
                    messages.push(message);
                }
                Ok(None) => break,
                Err(error) => return (messages, Err(error)),
            }
        }
        assert!(deframer.buffered() < PREFIX_LEN + MESSAGE_BYTES_MAX);
    }
    (messages, deframer.finish())
}
