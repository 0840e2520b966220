//! Reading stdin, on a thread of its own: a read that waits for a terminal or a pipe must not stop the connection.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::args::Chunk;

/// Bytes read at a time for lines.
const READ_BYTES: usize = 256 << 10;
/// Chunks read ahead.
const READ_AHEAD: usize = 4;

/// Chunks of stdin as they come.
pub(super) struct Input {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    bytes: Option<u64>,
}

impl Input {
    /// # Errors
    /// When stdin cannot be read at all.
    pub(super) fn open(chunk: Chunk, block_size: usize) -> io::Result<Self> {
        // The library's own stdin takes one that is not open for reading for an empty one.
        let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        // To read nothing fails where to read something would: from a folder, or an output.
        let _ = stdin.read(&mut [])?;
        let metadata = stdin.metadata()?;
        let (send, chunks) = mpsc::channel(READ_AHEAD);
        std::thread::Builder::new()
            .name("broky-stdin".to_owned())
            .spawn(move || read(&mut stdin, chunk, block_size, &send))?;
        Ok(Self { chunks, bytes: metadata.is_file().then_some(metadata.len()) })
    }

    /// How much there is to read, when stdin is a file.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    pub(super) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        self.chunks.recv().await
    }
}

fn read(stdin: &mut File, chunk: Chunk, block_size: usize, send: &mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let read = match chunk {
            Chunk::Lines => read_some(stdin),
            Chunk::Raw => read_block(stdin, block_size),
        };
        let is_end = matches!(&read, Ok(bytes) if bytes.is_empty());
        let is_error = read.is_err();
        if is_end || send.blocking_send(read).is_err() || is_error {
            return;
        }
    }
}

/// What is there now: a line typed is pushed at once.
fn read_some(stdin: &mut impl io::Read) -> io::Result<Bytes> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match stdin.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(count) => {
                buffer.truncate(count);
                return Ok(buffer.into());
            }
        }
    }
}

/// A whole block, unless the input ends.
fn read_block(stdin: &mut impl io::Read, block_size: usize) -> io::Result<Bytes> {
    let mut block = Vec::with_capacity(block_size.min(64 << 20));
    stdin.take(block_size as u64).read_to_end(&mut block)?;
    Ok(block.into())
}

/// Cuts chunks into lines, without their ends.
#[derive(Default)]
pub(super) struct Lines {
    chunk: Bytes,
    /// The beginning of a line that spans chunks.
    partial: BytesMut,
}

impl Lines {
    pub(super) fn add(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "the chunk before has been read");
        self.chunk = chunk;
    }

    pub(super) fn next(&mut self) -> Option<Bytes> {
        let Some(end) = self.chunk.iter().position(|byte| *byte == b'\n') else {
            self.partial.extend_from_slice(&std::mem::take(&mut self.chunk));
            return None;
        };
        let line = self.chunk.split_to(end);
        self.chunk.advance(1);
        if self.partial.is_empty() {
            return Some(line);
        }
        self.partial.extend_from_slice(&line);
        Some(self.partial.split().freeze())
    }

    /// The last line, if it had no end.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        (!self.partial.is_empty()).then(|| self.partial.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_gives_the_same_lines() {
        let text = b"one\n\ntwo three\n\xff\nlast";
        for step in 1..=text.len() {
            let mut lines = Lines::default();
            let mut got = Vec::new();
            for chunk in text.chunks(step) {
                lines.add(Bytes::copy_from_slice(chunk));
                while let Some(line) = lines.next() {
                    got.push(line);
                }
            }
            got.extend(lines.rest());
            assert_eq!(got, [&b"one"[..], b"", b"two three", b"\xff", b"last"], "chunks of {step}");
        }
    }
}
