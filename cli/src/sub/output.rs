//! Writing to stdout, on a thread of its own: a pipe that nobody reads stops whoever writes to it, and a signal must
//! not wait for that.
//!
//! Messages are gathered in one buffer while the thread writes another, so that there are two at the most. Each goes
//! with the position behind its last message, which comes back once all of it was written: what is kept of the position
//! never lies ahead of what was written.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use broky_client::ResumeToken;
use tokio::sync::mpsc;

/// Bytes gathered until the thread has written what it has. A message that goes beyond is the last.
const CHUNK_BYTES: usize = 256 << 10;

/// Messages on their way to stdout.
pub(super) struct Output {
    gathered: Vec<u8>,
    is_writing: bool,
    to_write: mpsc::Sender<Chunk>,
    written: mpsc::Receiver<io::Result<Chunk>>,
    /// An empty buffer, used before.
    spare: Vec<u8>,
}

struct Chunk {
    bytes: Vec<u8>,
    position: Option<ResumeToken>,
}

impl Output {
    /// # Errors
    /// When there is no stdout or no thread.
    pub(super) fn start() -> io::Result<Self> {
        // The library's own stdout would look for line ends and hold bytes back.
        let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let (to_write, mut chunks) = mpsc::channel::<Chunk>(1);
        let (tell, written) = mpsc::channel(1);
        let write = move || {
            while let Some(chunk) = chunks.blocking_recv() {
                let outcome = stdout.write_all(&chunk.bytes).map(|()| chunk);
                if tell.blocking_send(outcome).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("broky-output".to_owned()).spawn(write)?;
        Ok(Self { gathered: Vec::new(), is_writing: false, to_write, written, spare: Vec::new() })
    }

    /// Where to write the next message. Call [`Output::send`] when there is none for now.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.gathered
    }

    /// Whether messages have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.gathered.len() >= CHUNK_BYTES
    }

    /// Whether the thread is writing.
    pub(super) fn is_writing(&self) -> bool {
        self.is_writing
    }

    /// Whether everything was written.
    pub(super) fn is_drained(&self) -> bool {
        !self.is_writing && self.gathered.is_empty()
    }

    /// Hands what was gathered to the thread, unless that is writing. `position` is asked for the position behind it.
    pub(super) fn send(&mut self, position: impl FnOnce() -> Option<ResumeToken>) {
        if self.is_writing || self.gathered.is_empty() {
            return;
        }
        let bytes = std::mem::replace(&mut self.gathered, std::mem::take(&mut self.spare));
        // The thread has nothing to do, so there is room; it ends with us.
        self.is_writing = self.to_write.try_send(Chunk { bytes, position: position() }).is_ok();
    }

    /// Waits until the thread has written what it has, and gives the position behind it. Cancelling it loses nothing.
    ///
    /// # Errors
    /// When writing failed. How much was written is not known then.
    pub(super) async fn written(&mut self) -> io::Result<Option<ResumeToken>> {
        let ended = || Err(io::Error::other("the thread that writes has ended"));
        let Chunk { mut bytes, position } = self.written.recv().await.unwrap_or_else(ended)?;
        self.is_writing = false;
        bytes.clear();
        // A buffer that grew for one large message is not kept.
        if bytes.capacity() <= 2 * CHUNK_BYTES {
            self.spare = bytes;
        }
        Ok(position)
    }
}
