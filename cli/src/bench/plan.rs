//! What one run does: the flags, checked, with every default decided.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::args::{BenchArgs, Mode, Pacing, ReadFrom};
use super::check::STAMP_BYTES;
use super::units::{narrow, wide};

/// Undelivered payload a broker may have to hold for all subscribers together. Brokers that copy per subscriber then
/// stay far below the 64 MiB per connection at which nats-server drops it, and the machine within its memory.
const UNDELIVERED_BYTES: usize = 128 << 20;
/// Enough that publisher and subscriber never wait for one another's turn; more only falls out of the cache.
const WINDOW_BYTES_MAX: usize = 1 << 20;
/// With very many subscribers: below this, writes to each become too small to be worth a system call.
const WINDOW_BYTES_MIN: usize = 64 << 10;
/// Expected-sequence entries over all subscribers; 4 bytes each.
const SEQUENCES_MAX: u64 = 512 << 20;

/// The broker under test.
#[derive(Clone, Debug)]
pub(crate) enum Broker {
    /// The nodes of a cluster, or the only one.
    Broky(Vec<String>),
    /// NATS core: nothing is stored or replicated.
    Nats(String),
    /// JetStream: stored in memory, on all of these.
    JetStream(Vec<String>),
}

impl Broker {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Broky(_) => "broky",
            Self::Nats(_) => "nats",
            Self::JetStream(_) => "jetstream",
        }
    }

    pub(crate) fn address(&self) -> String {
        match self {
            Self::Nats(address) => address.clone(),
            Self::Broky(addresses) | Self::JetStream(addresses) => addresses.join(","),
        }
    }
}

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    Time(Duration),
    /// Messages delivered to every subscriber after the warm-up.
    Messages(u64),
}

/// One run, decided.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) pacing: Pacing,
    pub(crate) broker: Broker,
    pub(crate) read_from: ReadFrom,
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    pub(crate) subscribers_per_connection: usize,
    pub(crate) size: usize,
    pub(crate) keys: usize,
    pub(crate) length: Length,
    pub(crate) warmup: Duration,
    pub(crate) stall: Duration,
    /// Messages per second, all publishers together. Used by the open loop only.
    pub(crate) rate: u64,
    /// Bytes a publisher gathers before it looks at window and clock again.
    pub(crate) batch_bytes: usize,
    /// The same, if it was asked for; otherwise the client decides what it sends at once.
    pub(crate) asked_batch_bytes: Option<usize>,
    /// Most messages a publisher sends before it looks at window and clock again.
    pub(crate) run_messages: u64,
    /// Messages the publishers may be ahead of the slowest subscriber.
    pub(crate) window_messages: u64,
    /// Messages that are published before the publisher waits until JetStream has answered all of them.
    pub(crate) burst_messages: Option<u64>,
    pub(crate) threads: usize,
}

impl Plan {
    /// # Errors
    /// Flags that contradict one another or ask for more than the generator holds in memory.
    pub(crate) fn new(args: &BenchArgs) -> Result<Self> {
        let subscribers = narrow(args.subscribers.into());
        let publishers = usize::from(args.publishers);
        let stamped = args.size >= STAMP_BYTES;
        ensure!(stamped || args.mode == Mode::Throughput, "latency needs --size of at least {STAMP_BYTES} bytes");
        ensure!(args.size <= 64 << 20, "--size is limited to 64 MiB");
        let sequences = u64::from(args.publishers) * u64::from(args.keys) * u64::from(args.subscribers);
        ensure!(sequences <= SEQUENCES_MAX, "publishers x keys x subscribers is limited to {SEQUENCES_MAX}");

        let batch_bytes = args.batch.unwrap_or(64 << 10).max(1);
        let window_bytes =
            args.window.unwrap_or_else(|| (UNDELIVERED_BYTES / subscribers).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX));
        let (run_messages, window_messages) = match args.mode {
            Mode::OneInFlight => (1, wide(publishers)),
            Mode::Throughput | Mode::OpenLoop => {
                let window = wide(window_bytes / args.size.max(1)).max(16);
                (wide(batch_bytes / args.size.max(1)).clamp(1, window / 4), window)
            }
        };
        let broker = match (&args.nats, &args.jetstream) {
            (Some(address), _) => Broker::Nats(address.clone()),
            (None, Some(addresses)) => Broker::JetStream(addresses.clone()),
            (None, None) => Broker::Broky(args.server.clone()),
        };
        Ok(Self {
            mode: args.mode,
            pacing: args.pacing,
            broker,
            read_from: args.read_from,
            publishers,
            subscribers,
            subscribers_per_connection: narrow(args.subscribers_per_connection.into()),
            size: args.size,
            keys: usize::from(args.keys),
            length: args.messages.map_or(Length::Time(args.seconds), Length::Messages),
            warmup: args.warmup,
            stall: args.stall,
            rate: args.rate,
            batch_bytes,
            asked_batch_bytes: args.batch,
            run_messages,
            window_messages,
            burst_messages: args.burst,
            threads: args.threads.map_or(1, usize::from),
        })
    }

    /// Whether payloads carry number and time.
    pub(crate) fn is_stamped(&self) -> bool {
        self.size >= STAMP_BYTES
    }

    /// Whether delivery times are worth recording. Under full load they only measure the window.
    pub(crate) fn records_latency(&self) -> bool {
        self.mode != Mode::Throughput
    }
}
