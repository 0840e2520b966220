//! What chance decides: one stream of numbers per concern, so that one fault more changes nothing for another.
//!
//! Datagrams draw from the streams of their link. Each connection has streams of its own, made from the master seed,
//! the link and how many were dialled before it, as the kernel decides which of two connections is read first. So the
//! same seed gives the same decisions for the same sequence of chunks; where chunks end depends on when they are read.
//! Whoever draws for a fault that is not installed draws nothing: healthy traffic, of which there is never the same
//! amount, moves nothing.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::faults::{Party, TcpFaults, UdpFaults};

/// What a chunk that has to be sent again takes longer: from the least retransmission timeout of Linux to a few of
/// them.
const STALL_MS: RangeInclusive<u64> = 200..=1_000;
/// By how much a datagram is put behind others.
const REORDER_MS: RangeInclusive<u64> = 1..=50;
/// How many bytes a probability of flipping is about.
const KIB: usize = 1_024;

/// A stream of random numbers.
#[derive(Debug)]
struct Stream(SmallRng);

impl Stream {
    /// The stream of what these words name.
    fn new(seed: u64, words: &[u64]) -> Self {
        // SplitMix64, by Sebastiano Vigna: neighbouring words begin far from one another.
        let mix = |state: u64, word: &u64| {
            let mut mixed = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        Self(SmallRng::seed_from_u64(words.iter().fold(seed, mix)))
    }

    fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.0.random_bool(probability.min(1.0))
    }

    fn millis(&mut self, of: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.0.random_range(of))
    }

    /// A time around `mean`.
    fn around(&mut self, mean: Duration, jitter: Duration) -> Duration {
        if jitter.is_zero() {
            return mean;
        }
        (mean + self.0.random_range(Duration::ZERO..=jitter * 2)).saturating_sub(jitter)
    }

    /// A bit of so many bytes: in which of them, and as a mask.
    fn bit(&mut self, bytes: usize) -> (usize, u8) {
        (self.0.random_range(0..bytes.max(1)), 1 << self.0.random_range(0..8))
    }
}

/// What becomes of a chunk.
#[derive(Clone, PartialEq, Default, Debug)]
pub(super) struct ChunkFate {
    /// How long it is under way.
    pub delay: Duration,
    /// By how much longer it, and all behind it, is held.
    pub stall: Option<Duration>,
    /// Bits to flip: which byte, which of its bits.
    pub flips: Vec<(usize, u8)>,
}

/// Decides for the chunks of one connection in one direction.
#[derive(Debug)]
pub(super) struct ChunkDice {
    jitter: Stream,
    stall: Stream,
    flip: Stream,
}

impl ChunkDice {
    /// For the connection before which so many were dialled. `is_back`: for what comes back on it.
    pub(super) fn new(seed: u64, from: Party, to: Party, dial: u64, is_back: bool) -> Self {
        let stream = |concern| Stream::new(seed, &[word(from), word(to), dial, u64::from(is_back), concern]);
        Self { jitter: stream(1), stall: stream(2), flip: stream(3) }
    }

    /// What becomes of a chunk of `len` bytes.
    pub(super) fn draw(&mut self, faults: &TcpFaults, len: usize) -> ChunkFate {
        let delay = self.jitter.around(faults.delay, faults.jitter);
        let stall = self.stall.happens(faults.stall).then(|| self.stall.millis(STALL_MS));
        let mut flips = Vec::new();
        if faults.flip > 0.0 {
            for first in (0..len).step_by(KIB) {
                let part = KIB.min(len - first);
                if self.flip.happens(faults.flip * part as f64 / KIB as f64) {
                    let (at, mask) = self.flip.bit(part);
                    flips.push((first + at, mask));
                }
            }
        }
        ChunkFate { delay, stall, flips }
    }
}

/// What becomes of a datagram.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum DatagramFate {
    /// It is lost.
    Lost,
    /// It arrives.
    Passes {
        /// How long it is under way.
        delay: Duration,
        /// By how much longer it is held, alone.
        behind: Option<Duration>,
        /// How long its copy is under way.
        copy: Option<Duration>,
        /// A bit to flip: which byte, which of its bits.
        flip: Option<(usize, u8)>,
    },
}

/// Decides for the datagrams of a link in one direction.
#[derive(Debug)]
pub(super) struct DatagramDice {
    jitter: Stream,
    loss: Stream,
    copy: Stream,
    reorder: Stream,
    flip: Stream,
}

impl DatagramDice {
    /// For what goes from one to the other.
    pub(super) fn new(seed: u64, from: Party, to: Party) -> Self {
        let stream = |concern| Stream::new(seed, &[word(from), word(to), concern]);
        Self { jitter: stream(1), loss: stream(2), copy: stream(3), reorder: stream(4), flip: stream(5) }
    }

    /// What becomes of a datagram of `len` bytes.
    pub(super) fn draw(&mut self, faults: &UdpFaults, len: usize) -> DatagramFate {
        if self.loss.happens(faults.loss) {
            return DatagramFate::Lost;
        }
        let delay = self.jitter.around(faults.delay, faults.jitter);
        let copy = self.copy.happens(faults.duplication).then(|| self.copy.around(faults.delay, faults.jitter));
        let behind = self.reorder.happens(faults.reorder).then(|| self.reorder.millis(REORDER_MS));
        let flip = (len > 0 && self.flip.happens(faults.flip)).then(|| self.flip.bit(len));
        DatagramFate::Passes { delay, behind, copy, flip }
    }
}

fn word(party: Party) -> u64 {
    match party {
        Party::Clients => 0,
        Party::Node(at) => at as u64 + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: (Party, Party) = (Party::Node(0), Party::Node(1));

    fn bad() -> TcpFaults {
        let (delay, jitter) = (Duration::from_millis(50), Duration::from_millis(20));
        TcpFaults { delay, jitter, stall: 0.2, flip: 0.3, ..TcpFaults::default() }
    }

    fn chunks(seed: u64, dial: u64, faults: &TcpFaults) -> Vec<ChunkFate> {
        let mut dice = ChunkDice::new(seed, LINK.0, LINK.1, dial, false);
        (1..100).map(|at| dice.draw(faults, at * 70)).collect()
    }

    fn datagrams(seed: u64, link: (Party, Party)) -> Vec<DatagramFate> {
        let jitter = Duration::from_millis(3);
        let faults = UdpFaults { jitter, loss: 0.3, duplication: 0.3, reorder: 0.3, flip: 0.3, ..UdpFaults::default() };
        let mut dice = DatagramDice::new(seed, link.0, link.1);
        (1..100).map(|len| dice.draw(&faults, len)).collect()
    }

    #[test]
    fn same_seed_gives_the_same_decisions() {
        assert_eq!(chunks(7, 0, &bad()), chunks(7, 0, &bad()));
        assert_eq!(datagrams(7, LINK), datagrams(7, LINK));
    }

    #[test]
    fn seeds_links_and_connections_differ() {
        assert_ne!(chunks(7, 0, &bad()), chunks(8, 0, &bad()));
        assert_ne!(chunks(7, 0, &bad()), chunks(7, 1, &bad()));
        assert_ne!(datagrams(7, LINK), datagrams(7, (LINK.1, LINK.0)));
    }

    #[test]
    fn one_fault_more_changes_nothing_for_another() {
        let without = TcpFaults { stall: 0.0, jitter: Duration::ZERO, ..bad() };
        let flips = |fates: Vec<ChunkFate>| fates.into_iter().map(|fate| fate.flips).collect::<Vec<_>>();
        assert_eq!(flips(chunks(7, 0, &bad())), flips(chunks(7, 0, &without)));
    }

    #[test]
    fn faults_are_as_frequent_and_as_long_as_was_said() {
        let faults = bad();
        let mut dice = ChunkDice::new(3, LINK.0, LINK.1, 0, false);
        let fates: Vec<_> = (0..4_000).map(|_| dice.draw(&faults, KIB)).collect();
        let (least, most) = (faults.delay - faults.jitter, faults.delay + faults.jitter);
        assert!(fates.iter().all(|fate| (least..=most).contains(&fate.delay)));
        let stalls: Vec<_> = fates.iter().filter_map(|fate| fate.stall).collect();
        assert!((700..900).contains(&stalls.len()), "{}", stalls.len());
        assert!(stalls.iter().all(|stall| (200..=1_000).contains(&stall.as_millis())));
        let flips: usize = fates.iter().map(|fate| fate.flips.len()).sum();
        assert!((1_100..1_300).contains(&flips), "{flips}");
    }

    #[test]
    fn healthy_link_decides_nothing() {
        assert!(chunks(7, 0, &TcpFaults::default()).iter().all(|fate| *fate == ChunkFate::default()));
        // No number is no probability.
        assert!(chunks(7, 0, &TcpFaults { stall: f64::NAN, flip: f64::NAN, ..TcpFaults::default() }).len() == 99);
    }
}
