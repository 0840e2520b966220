//! Carries the datagrams that are sent to one node.
//!
//! Who has sent one is told by its port, as nodes send from where they listen. It goes on from the sender's address as
//! others know it, where answers come back to. What is under way is ordered by when it is due; more than a bound is
//! dropped, as a switch would.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::dice::DatagramFate;
use super::faults::Party;
use super::link::Link;

/// More than any datagram.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;
/// How many may be under way to one node.
const UNDER_WAY_MAX: usize = 4_096;

struct UnderWay {
    due: Instant,
    /// As they came in: the earlier of two that are due at once is first.
    number: u64,
    from: usize,
    link: Arc<Link>,
    bytes: Vec<u8>,
}

impl PartialEq for UnderWay {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for UnderWay {}

impl PartialOrd for UnderWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for UnderWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// Carries what arrives at a node's address.
pub(super) struct Carrier {
    shared: Arc<Shared>,
    to: usize,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    number: u64,
}

impl Carrier {
    pub(super) fn new(shared: Arc<Shared>, to: usize) -> Self {
        Self { shared, to, under_way: BinaryHeap::new(), number: 0 }
    }

    /// Does not end.
    pub(super) async fn run(mut self, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let due = self.under_way.peek().map(|Reverse(next)| next.due);
            let next = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                received = socket.recv_from(&mut buffer) => {
                    // An error tells of a datagram that was sent, and did not arrive.
                    let Ok((len, source)) = received else { continue };
                    let Some(from) = self.shared.node_at(source) else {
                        self.shared.count(|strangers| strangers.datagrams += 1);
                        continue;
                    };
                    self.take(from, buffer.get(..len).unwrap_or_default());
                }
                () = next => {}
            }
            self.send_due().await;
        }
    }

    /// Does to a datagram what chance decides.
    fn take(&mut self, from: usize, bytes: &[u8]) {
        let link = self.shared.link(Party::Node(from), Party::Node(self.to));
        let faults = link.faults().udp;
        if faults.is_cut {
            return link.count(|counts| counts.datagrams_cut += 1);
        }
        let fate = link.dice().draw(&faults, bytes.len());
        let DatagramFate::Passes { delay, behind, copy, flip } = fate else {
            return link.count(|counts| counts.datagrams_lost += 1);
        };
        link.count(|counts| {
            counts.datagrams_doubled += u64::from(copy.is_some());
            counts.datagrams_reordered += u64::from(behind.is_some());
            counts.datagrams_delayed += u64::from(!delay.is_zero());
            counts.datagrams_flipped += u64::from(flip.is_some());
        });
        let mut bytes = bytes.to_vec();
        if let Some((at, mask)) = flip {
            bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= mask);
        }
        let now = Instant::now();
        if let Some(copy) = copy {
            self.put(now + copy, from, &link, bytes.clone());
        }
        self.put(now + delay + behind.unwrap_or_default(), from, &link, bytes);
    }

    fn put(&mut self, due: Instant, from: usize, link: &Arc<Link>, bytes: Vec<u8>) {
        if self.under_way.len() >= UNDER_WAY_MAX {
            return link.count(|counts| counts.datagrams_dropped += 1);
        }
        self.number += 1;
        let (number, link) = (self.number, link.clone());
        self.under_way.push(Reverse(UnderWay { due, number, from, link, bytes }));
    }

    async fn send_due(&mut self) {
        let now = Instant::now();
        while self.under_way.peek().is_some_and(|Reverse(next)| next.due <= now) {
            let Some(Reverse(next)) = self.under_way.pop() else { return };
            if next.link.faults().udp.is_cut {
                next.link.count(|counts| counts.datagrams_cut += 1);
                continue;
            }
            let is_sent = match self.shared.gossip_path(next.from, self.to) {
                Some((socket, target)) => socket.send_to(&next.bytes, target).await.is_ok(),
                None => false,
            };
            next.link.count(|counts| {
                counts.datagrams += u64::from(is_sent);
                counts.datagrams_dropped += u64::from(!is_sent);
            });
        }
    }
}
