//! The flags of `broky bench`, as clap reads them. [`Plan`](super::plan::Plan) turns them into checked values.

use std::fmt;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::units::{parse_bytes, parse_seconds};

/// Measure a broker: throughput, or latency with one message in flight, or latency at a fixed rate.
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    /// What to measure.
    #[arg(long, value_enum, default_value_t = Mode::Throughput)]
    pub(crate) mode: Mode,

    /// Nodes to connect to: one, or those of a cluster.
    #[arg(long, value_name = "ADDR,..", default_value = "127.0.0.1:7400", value_delimiter = ',')]
    pub(crate) server: Vec<String>,

    /// Measure this nats-server instead, with the same work.
    #[arg(long, value_name = "ADDR", conflicts_with = "server")]
    pub(crate) nats: Option<String>,

    /// Measure JetStream on these nats-servers instead: a stream in memory, with a replica on each.
    #[arg(long, value_name = "ADDR,..", conflicts_with_all = ["server", "nats"], value_delimiter = ',')]
    pub(crate) jetstream: Option<Vec<String>>,

    /// Node of a cluster that subscribers read from, as seen from the key they read.
    #[arg(long, value_enum, default_value_t = ReadFrom::Any, conflicts_with = "nats")]
    pub(crate) read_from: ReadFrom,

    /// Publishers, each with its own connection.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) publishers: u16,

    /// Subscribers; every one gets every message.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) subscribers: u32,

    /// Subscribers that share one connection.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) subscribers_per_connection: u32,

    /// Payload bytes. Below 16 there is no room for numbers and times: messages are only counted.
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = parse_bytes)]
    pub(crate) size: usize,

    /// Number of key_partitions (for NATS: subjects), used in turn.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) keys: u16,

    /// Measure for this long.
    #[arg(long, value_name = "S", default_value = "5", value_parser = parse_seconds)]
    pub(crate) seconds: Duration,

    /// Measure until every subscriber got this many messages, instead of for a time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) messages: Option<u64>,

    /// Run this long before measuring.
    #[arg(long, value_name = "S", default_value = "1", value_parser = parse_seconds)]
    pub(crate) warmup: Duration,

    /// Messages per second of all publishers together, for the open loop.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) rate: u64,

    /// How the open loop waits for the next message to be due.
    #[arg(long, value_enum, default_value_t = Pacing::Spin)]
    pub(crate) pacing: Pacing,

    /// Bytes a publisher gathers before it writes. Unset: what is best for the broker.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) batch: Option<usize>,

    /// Payload bytes a publisher may be ahead of the slowest subscriber. Unset: fitted to the number of subscribers.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) window: Option<usize>,

    /// JetStream: publish so many messages, wait for all their answers, and so on. Unset: never wait for all.
    #[arg(long, value_name = "N", requires = "jetstream", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) burst: Option<u64>,

    /// Threads of the load generator. Unset: one, which serves two cores best.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,

    /// Give up when nothing arrives for this long.
    #[arg(long, value_name = "S", default_value = "10", value_parser = parse_seconds)]
    pub(crate) stall: Duration,

    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `broky bench` measures.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Delivered messages per second, sent as fast as the slowest subscriber allows.
    Throughput,
    /// Latency with one message in flight per publisher.
    OneInFlight,
    /// Latency at a fixed rate, from the intended send time.
    OpenLoop,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Throughput => "throughput",
            Self::OneInFlight => "one-in-flight",
            Self::OpenLoop => "open-loop",
        })
    }
}

/// How the open loop waits.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pacing {
    /// Look at the clock all the time: exact, and costs a core.
    Spin,
    /// Sleep until the next tick of the runtime's timer, one millisecond: frees the core, and sends in bursts.
    Sleep,
}

/// Node of a cluster that subscribers read from.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadFrom {
    /// Whichever the client or the broker picks: what a program gets that does not care.
    Any,
    /// The one that publishers write to. With several keys: the one of the first.
    Leader,
    /// One that has the messages by replication.
    Follower,
}

impl fmt::Display for ReadFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::Leader => "leader",
            Self::Follower => "follower",
        })
    }
}
