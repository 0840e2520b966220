//! The shell of gossip: one task with the socket, the clock and the channels around the engine.
//!
//! It wakes for a datagram, a timer or an input, and sleeps otherwise. Datagrams that have arrived are taken before
//! timers that are due, so that a process that was paused does not suspect others whose answers wait in its socket; and
//! in bounded batches, so that a flood of them cannot hold the timers up.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broky_ring::map::ClusterMap;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use super::engine::{Engine, Outbox};
use super::envelope::DATAGRAM_BYTES_MAX;
use super::resolve::{RESOLVE_INTERVAL, Resolver};
use super::stats::GossipStats;
use super::{GossipEvent, Local, PeerReport};

/// Datagrams taken before timers and other tasks have their turn.
const BATCH_MAX: usize = 32;
/// Time to sleep when nothing at all is to be done.
const IDLE: Duration = Duration::from_secs(60);
/// Time to wait after the socket failed.
const FAULT_PAUSE: Duration = Duration::from_millis(50);

/// Running gossip.
pub(super) struct Task {
    pub(super) socket: UdpSocket,
    pub(super) engine: Engine,
    pub(super) stats: Arc<GossipStats>,
    pub(super) map: watch::Receiver<Arc<ClusterMap>>,
    pub(super) local: watch::Receiver<Local>,
    pub(super) events: mpsc::Sender<GossipEvent>,
    pub(super) reports: watch::Sender<Vec<PeerReport>>,
}

/// Why the task woke.
enum Wake {
    Map,
    Local,
    Resolved(String, SocketAddr),
    Datagrams,
    SocketFault(io::Error),
    /// A timer, or a suggestion was taken.
    Other,
    /// The inputs are gone.
    End,
}

impl Task {
    /// Gossips until the inputs are closed.
    pub(super) async fn run(mut self) {
        let mut out = Outbox::new();
        // One byte more than is taken, so that what is too long is seen to be.
        let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
        let mut resolver = Resolver::new();
        let mut resolve_at = Instant::now();
        loop {
            let now = Instant::now();
            if resolve_at <= now {
                resolver.start(self.engine.names());
                resolve_at = now + RESOLVE_INTERVAL;
            }
            if self.engine.next_timeout().is_some_and(|at| at <= now) {
                self.engine.handle_timeout(now, &mut out);
            }
            self.hand_out(&mut out);
            match self.wake(&mut resolver, resolve_at).await {
                Wake::Map => {
                    let map = self.map.borrow_and_update().clone();
                    if map.version() > self.engine.map_version() {
                        self.engine.handle_map(Instant::now(), map, &mut out);
                        resolve_at = now;
                    }
                }
                Wake::Local => {
                    let Local { leads, load } = self.local.borrow_and_update().clone();
                    self.engine.handle_local(Instant::now(), &leads, load, &mut out);
                }
                Wake::Resolved(name, address) => {
                    self.engine.handle_resolved(Instant::now(), &name, address, &mut out);
                }
                Wake::Datagrams => self.receive(&mut buffer, &mut out),
                Wake::SocketFault(error) => {
                    tracing::warn!(%error, "the gossip socket fails");
                    tokio::time::sleep(FAULT_PAUSE).await;
                }
                Wake::Other => {}
                Wake::End => return,
            }
        }
    }

    /// Waits for something to do.
    async fn wake(&mut self, resolver: &mut Resolver, resolve_at: Instant) -> Wake {
        let now = Instant::now();
        let timeout = self.engine.next_timeout().unwrap_or(now + IDLE).min(resolve_at);
        let has_events = self.engine.has_events();
        tokio::select! {
            biased;
            changed = self.map.changed() => changed.map_or(Wake::End, |()| Wake::Map),
            changed = self.local.changed() => changed.map_or(Wake::End, |()| Wake::Local),
            (name, address) = resolver.next() => Wake::Resolved(name, address),
            room = self.events.reserve(), if has_events => {
                let Ok(room) = room else { return Wake::End };
                if let Some(event) = self.engine.pop_event() {
                    room.send(event);
                }
                Wake::Other
            }
            readable = self.socket.readable() => readable.map_or_else(Wake::SocketFault, |()| Wake::Datagrams),
            () = sleep_until(timeout.into()) => Wake::Other,
        }
    }

    /// Takes what has arrived.
    fn receive(&mut self, buffer: &mut [u8], out: &mut Outbox) {
        for _ in 0..BATCH_MAX {
            let (len, from) = match self.socket.try_recv_from(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return tracing::debug!(%error, "cannot receive gossip"),
            };
            let datagram = buffer.get(..len).unwrap_or_default();
            self.engine.handle_datagram(Instant::now(), from, datagram, out);
        }
    }

    /// Hands out what the engine made: datagrams, suggestions, reports.
    fn hand_out(&mut self, out: &mut Outbox) {
        for (to, datagram) in out.drain(..) {
            match self.socket.try_send_to(&datagram, to) {
                Ok(_) => self.stats.sent.add(1),
                // What the system does not take is lost like what the network loses.
                Err(error) => {
                    tracing::debug!(%error, peer = %to, "cannot send gossip");
                    self.stats.unsent.add(1);
                }
            }
        }
        if let Some(reports) = self.engine.take_reports() {
            self.reports.send_replace(reports);
        }
    }
}
