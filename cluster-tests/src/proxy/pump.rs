//! Carries one connection: its bytes, how each side ends it, and what the link does to both.
//!
//! Each direction is a pump: it reads as long as there is room, and writes what is due. A sender's end goes behind its
//! bytes: its EOF closes our half towards the receiver, its reset resets the receiver. Whoever cannot be written to is
//! gone, and to the other that is what a reset is. All of it stops while a link is cut, as a cut-off receiver does not
//! hear of a sender's end either.
//!
//! The hard case is a process that has ended. The kernel has ended its connections by then, so all its last bytes and
//! the end are there to be read, and are: only what has no end a moment later is reset.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::dice::ChunkDice;
use super::faults::TcpFaults;
use super::held::{End, Held, Item};
use super::link::Link;
use super::shared::until_true;

/// What one read takes at the most.
const CHUNK_BYTES: usize = 16 << 10;
/// How much of a second's bytes one chunk has at the most, so that a slow link does not come in bursts.
const CHUNKS_PER_SECOND: u64 = 20;
/// How long the last bytes of a process that is gone may take from our socket to us.
const REST_LIMIT: Duration = Duration::from_millis(100);
/// How often it is looked whether somebody who waits for a cut to end still does.
const PATIENCE_PERIOD: Duration = Duration::from_millis(100);

/// A connection that was accepted.
#[derive(Debug)]
pub(super) struct Connection {
    /// Who dialled, and what goes from there.
    pub forth: Arc<Link>,
    /// What comes back.
    pub back: Arc<Link>,
    /// Where it leads.
    pub target: SocketAddr,
    /// The master seed.
    pub seed: u64,
    /// How many were dialled before it.
    pub dial: u64,
    /// Becomes true when the dialling process is gone.
    pub dialler_gone: watch::Receiver<bool>,
    /// Becomes true when the process it leads to is gone.
    pub target_gone: watch::Receiver<bool>,
}

/// How a pump has stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stopped {
    /// The receiver knows that there is nothing more to come.
    Eof,
    /// The receiver has to be reset.
    Reset,
    /// The receiver is gone.
    ReceiverGone,
}

impl Connection {
    /// Carries it to its end.
    pub(super) async fn carry(self, mut dialler: TcpStream) {
        let mut resets = self.forth.resets();
        // Where that fails it is only slower.
        let _ = dialler.set_nodelay(true);
        let target = tokio::select! {
            target = self.dial(&dialler) => target,
            _ = resets.changed() => {
                self.forth.count(|counts| counts.connections_reset += 1);
                return reset(&dialler);
            }
        };
        let mut target = match target {
            Some(Ok(target)) => target,
            Some(Err(_)) => {
                self.forth.count(|counts| counts.connections_refused += 1);
                self.back.until_open().await;
                return reset(&dialler);
            }
            None => return,
        };
        let _ = target.set_nodelay(true);
        let is_clean = tokio::select! {
            is_clean = self.run(&mut dialler, &mut target) => is_clean,
            _ = resets.changed() => {
                self.forth.count(|counts| counts.connections_reset += 1);
                false
            }
        };
        if !is_clean {
            reset(&dialler);
            reset(&target);
        }
    }

    /// Connects to the target. While the link is cut, it never hears of it; `None`: nor does it later, as the dialler
    /// has given up.
    async fn dial(&self, dialler: &TcpStream) -> Option<std::io::Result<TcpStream>> {
        while timeout(PATIENCE_PERIOD, self.forth.until_open()).await.is_err() {
            if dialler.ready(Interest::READABLE).await.is_ok_and(|ready| ready.is_read_closed()) {
                return None;
            }
        }
        Some(TcpStream::connect(self.target).await)
    }

    /// Whether both have ended it in order. If not, both are to be reset.
    async fn run(&self, dialler: &mut TcpStream, target: &mut TcpStream) -> bool {
        let ((from_dialler, to_dialler), (from_target, to_target)) = (dialler.split(), target.split());
        let (dialler_broken, target_broken) = (Notify::new(), Notify::new());
        let chance = |is_back| ChunkDice::new(self.seed, self.forth.from, self.forth.to, self.dial, is_back);
        let forth = Pump {
            link: &self.forth,
            chance: chance(false),
            sender_broken: &dialler_broken,
            receiver_broken: &target_broken,
            sender_gone: self.dialler_gone.clone(),
        };
        let back = Pump {
            link: &self.back,
            chance: chance(true),
            sender_broken: &target_broken,
            receiver_broken: &dialler_broken,
            sender_gone: self.target_gone.clone(),
        };
        let mut forth = std::pin::pin!(forth.run(from_dialler, to_target));
        let mut back = std::pin::pin!(back.run(from_target, to_dialler));
        let (first, second, opposite) = tokio::select! {
            first = &mut forth => (first, back_unless_reset(first, back).await, &self.forth),
            first = &mut back => (first, back_unless_reset(first, forth).await, &self.back),
        };
        if second == Stopped::ReceiverGone {
            // Whoever is gone had sent its end before; that nothing more is taken is news to the other, and travels as
            // such.
            opposite.until_open().await;
        }
        (first, second) == (Stopped::Eof, Stopped::Eof)
    }
}

/// How the other pump stops after the first, if it is still of interest.
async fn back_unless_reset(first: Stopped, other: impl Future<Output = Stopped>) -> Stopped {
    match first {
        Stopped::Reset => Stopped::Reset,
        Stopped::Eof | Stopped::ReceiverGone => other.await,
    }
}

/// Makes a connection's end a reset.
pub(super) fn reset(stream: &TcpStream) {
    // Where that fails it is gone already.
    let _ = stream.set_zero_linger();
}

struct Pump<'a> {
    link: &'a Link,
    chance: ChunkDice,
    /// Told when the sender cannot be written to.
    sender_broken: &'a Notify,
    receiver_broken: &'a Notify,
    sender_gone: watch::Receiver<bool>,
}

enum Sent {
    Bytes(usize),
    End(Stopped),
}

impl Pump<'_> {
    async fn run(mut self, mut sender: ReadHalf<'_>, mut receiver: WriteHalf<'_>) -> Stopped {
        let mut changes = self.link.watch();
        let mut faults = changes.borrow_and_update().tcp;
        let mut held = Held::new(Instant::now());
        let mut buffer = vec![0; CHUNK_BYTES];
        let (mut sender_gone, mut is_gone) = (self.sender_gone.clone(), false);
        loop {
            let room = held.room().min(chunk_bytes_max(&faults));
            let buffer = buffer.get_mut(..room).unwrap_or_default();
            tokio::select! {
                // It does not end while we hold it.
                _ = changes.changed() => {
                    faults = changes.borrow_and_update().tcp;
                    held.retime(Instant::now(), &faults);
                    self.note_held(&mut held, &faults);
                }
                () = self.sender_broken.notified() => held.end(Instant::now(), End::Reset, &faults),
                () = until_true(&mut sender_gone), if !is_gone => is_gone = true,
                read = read(&mut sender, buffer, is_gone), if room > 0 => {
                    let now = Instant::now();
                    match read.map(|len| buffer.get_mut(..len)) {
                        Ok(Some([]) | None) => held.end(now, End::Eof, &faults),
                        Ok(Some(bytes)) => self.take(now, bytes, &mut held, &faults),
                        Err(_) => held.end(now, End::Reset, &faults),
                    }
                    self.note_held(&mut held, &faults);
                }
                sent = send(&mut receiver, held.next()), if !faults.is_cut => match sent {
                    Sent::Bytes(len) => {
                        held.advance(len);
                        self.link.count(|counts| counts.bytes += len as u64);
                    }
                    Sent::End(stopped) => {
                        if stopped == Stopped::ReceiverGone {
                            self.receiver_broken.notify_one();
                        }
                        return stopped;
                    }
                },
            }
        }
    }

    /// Does to a chunk what chance decides.
    fn take(&mut self, now: Instant, bytes: &mut [u8], held: &mut Held, faults: &TcpFaults) {
        let fate = self.chance.draw(faults, bytes.len());
        for (at, mask) in &fate.flips {
            bytes.get_mut(*at).into_iter().for_each(|byte| *byte ^= mask);
        }
        let is_paced = held.push(now, Bytes::copy_from_slice(bytes), &fate, faults);
        if *faults != TcpFaults::default() {
            self.link.count(|counts| {
                counts.bits_flipped += fate.flips.len() as u64;
                counts.chunks_delayed += u64::from(!fate.delay.is_zero());
                counts.chunks_stalled += u64::from(fate.stall.is_some());
                counts.chunks_paced += u64::from(is_paced);
            });
        }
    }

    fn note_held(&self, held: &mut Held, faults: &TcpFaults) {
        if faults.is_cut {
            let held = held.count_held();
            self.link.count(|counts| counts.bytes_held += held);
        }
    }
}

fn chunk_bytes_max(faults: &TcpFaults) -> usize {
    let rate = faults.bytes_per_second.map_or(u64::MAX, |rate| (rate.get() / CHUNKS_PER_SECOND).max(1));
    usize::try_from(rate).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)
}

async fn read(sender: &mut ReadHalf<'_>, buffer: &mut [u8], is_gone: bool) -> std::io::Result<usize> {
    if is_gone {
        return timeout(REST_LIMIT, sender.read(buffer)).await?;
    }
    sender.read(buffer).await
}

/// Sends what is next when it is due. Nothing is lost when it is not waited for.
async fn send(receiver: &mut WriteHalf<'_>, next: Option<(Instant, &Item)>) -> Sent {
    let Some((due, item)) = next else { return std::future::pending().await };
    if due > Instant::now() {
        sleep_until(due).await;
    }
    match item {
        Item::Bytes(bytes) => receiver.write(bytes).await.map_or(Sent::End(Stopped::ReceiverGone), Sent::Bytes),
        Item::End(End::Eof) => {
            let is_told = receiver.shutdown().await.is_ok();
            Sent::End(if is_told { Stopped::Eof } else { Stopped::ReceiverGone })
        }
        Item::End(End::Reset) => Sent::End(Stopped::Reset),
    }
}
