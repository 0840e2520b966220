//! The command line, parsed in one place.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::bench::BenchArgs;
use crate::units::{parse_bytes, parse_host_port, parse_seconds};

/// A clustered, in-memory push/subscribe broker: replicated before anyone sees it, and never lost in silence.
#[derive(Debug, Parser)]
#[command(name = "broky", version, max_term_width = 110)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See it work: three nodes, real lines pushed and read, one node killed in the middle, and a verdict.
    Demo(DemoArgs),
    /// Run a node.
    Serve(ServeArgs),
    /// Push stdin as messages.
    Push(PushArgs),
    /// Subscribe, and write messages to stdout.
    Sub(SubArgs),
    /// Show a node and its cluster: who lives, leads and holds what, is behind, is being moved.
    Status(StatusArgs),
    /// Empty a node, and wait until it is: its copies move elsewhere, one at a time, and nothing is lost.
    Drain(DrainArgs),
    /// Remove a node that is empty or dead. What only a dead node held is lost.
    Forget(ForgetArgs),
    /// Measure a broker.
    Bench(BenchArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// A file whose lines are pushed. Default: broky's own Cargo.lock.
    pub(crate) file: Option<PathBuf>,
    /// How many lines to push, over and over if the file has fewer.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) lines: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// The node's name. Default: the host's name.
    #[arg(long, env = "BROKY_NAME")]
    pub(crate) name: Option<String>,
    /// Where clients connect.
    #[arg(long, env = "BROKY_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:7400")]
    pub(crate) listen: SocketAddr,
    /// Where other nodes connect.
    #[arg(long, env = "BROKY_PEER_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:7401")]
    pub(crate) peer_listen: SocketAddr,
    /// Where /metrics, /healthz, /readyz and /status are served over HTTP.
    #[arg(long, env = "BROKY_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:7402")]
    pub(crate) admin_listen: SocketAddr,
    /// The host, or host:port for clients, under which others reach this node. Default: what it listens on.
    #[arg(long, env = "BROKY_ADVERTISE", value_name = "HOST[:PORT]")]
    pub(crate) advertise: Option<String>,
    /// Peer addresses of nodes to form a cluster with, or to join: host:port, separated by commas.
    #[arg(long, env = "BROKY_JOIN", value_name = "ADDR,..", value_delimiter = ',')]
    pub(crate) join: Vec<String>,
    /// Found a cluster when this many nodes have met. Default: only join one.
    #[arg(long, env = "BROKY_EXPECT", value_name = "N")]
    pub(crate) expect: Option<u16>,
    /// Copies of every message, in a cluster founded by this node.
    #[arg(long, env = "BROKY_REPLICAS", value_name = "N", default_value_t = 3)]
    pub(crate) replicas: u8,
    /// Copies that must hold a message before it is committed. Default: 2, or 1 with --replicas 1.
    #[arg(long, env = "BROKY_MIN_ISR", value_name = "N")]
    pub(crate) min_isr: Option<u8>,
    /// What fails together with this node, such as a rack: copies are kept in distinct zones.
    #[arg(long, env = "BROKY_ZONE", value_name = "Z", default_value = "")]
    pub(crate) zone: String,
    /// Where the control log is kept (never messages). Default: in memory.
    #[arg(long, env = "BROKY_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Rebuild a dead node's copies elsewhere after this many seconds.
    #[arg(long, env = "BROKY_DEAD_AFTER", value_name = "SECONDS", default_value_t = 300)]
    pub(crate) dead_after: u64,
    /// Memory for messages; the oldest go when it is full. At least 16MiB for each worker thread.
    #[arg(long, env = "BROKY_MEMORY", value_name = "SIZE", default_value = "512MiB", value_parser = parse_bytes)]
    pub(crate) memory: usize,
    /// The longest message taken.
    #[arg(long, env = "BROKY_MESSAGE_MAX", value_name = "SIZE", default_value = "1MiB", value_parser = parse_bytes)]
    pub(crate) message_max: usize,
    /// Slots of the token ring, fixed at the cluster's birth: a power of two up to 32768.
    #[arg(long, env = "BROKY_VBUCKETS", value_name = "COUNT", default_value_t = 1024)]
    pub(crate) vbuckets: u32,
    /// Worker threads of each node, fixed at the cluster's birth. Default: one less than there are cores, as far as the
    /// memory has room.
    #[arg(long, env = "BROKY_WORKERS", value_name = "COUNT", hide = true)]
    pub(crate) workers: Option<u16>,
    /// Allow an address other hosts can reach, although nothing is encrypted and nobody is asked who they are.
    #[arg(long, env = "BROKY_INSECURE")]
    pub(crate) insecure: bool,
    /// Note in this file what the control log decides, as this process applies it.
    #[arg(long, env = "BROKY_AUDIT", value_name = "FILE", hide = true)]
    pub(crate) audit: Option<PathBuf>,
    /// Stop at the end of stdin: when whoever holds its other end has gone, however that went.
    #[arg(long, hide = true)]
    pub(crate) stop_with_stdin: bool,
}

/// How stdin becomes messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Chunk {
    /// A message per line, without its end.
    Lines,
    /// A message per block of bytes, as they are.
    Raw,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PushArgs {
    /// The key of every message: what subscribers match.
    pub(crate) key: String,
    /// Nodes to connect to: host:port, separated by commas.
    #[arg(long, env = "BROKY_SERVER", value_name = "ADDR,..", value_delimiter = ',', default_value = "127.0.0.1:7400")]
    pub(crate) server: Vec<String>,
    /// The key_partition of every message: those of one keep their order. Default: the key.
    #[arg(long, value_name = "KP")]
    pub(crate) partition: Option<String>,
    /// How stdin becomes messages.
    #[arg(long, value_enum, default_value_t = Chunk::Lines)]
    pub(crate) chunk: Chunk,
    /// Bytes of a message with --chunk raw.
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = parse_bytes)]
    pub(crate) block_size: usize,
    /// How long a message is tried, in seconds. When no node answers for as long, the push ends.
    #[arg(long, value_name = "S", default_value = "30", value_parser = parse_seconds)]
    pub(crate) timeout: Duration,
    /// Messages per second, at the most.
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<u64>,
    /// Say nothing but errors.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Where a subscription begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Begin {
    /// With what is committed from now on.
    Live,
    /// With the oldest message still in memory.
    Earliest,
    /// At the position that this file holds.
    File(PathBuf),
}

fn parse_begin(text: &str) -> Result<Begin, String> {
    match text {
        "live" => Ok(Begin::Live),
        "earliest" => Ok(Begin::Earliest),
        "" => Err("neither live nor earliest nor the name of a file".to_owned()),
        folder if folder.ends_with('/') => Err("this is the name of a folder, not of a file".to_owned()),
        file => Ok(Begin::File(file.into())),
    }
}

/// What is written for a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    /// The payload's bytes, nothing between messages: what `push --chunk raw` sent.
    Payload,
    /// The payload and a line feed: what `push --chunk lines` sent.
    Lines,
    /// An object per line with every field. Bytes that are no text are in base64; `base64` lists the fields concerned.
    Json,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SubArgs {
    /// What keys to match: `*` any run of bytes, `?` one byte, `\` escapes. Default: all.
    #[arg(default_value = "*")]
    pub(crate) pattern: Vec<String>,
    /// Nodes to connect to: host:port, separated by commas.
    #[arg(long, env = "BROKY_SERVER", value_name = "ADDR,..", value_delimiter = ',', default_value = "127.0.0.1:7400")]
    pub(crate) server: Vec<String>,
    /// Where to begin: `live`, `earliest`, or a file in which the position is kept: read if it is there, and written
    /// each second.
    #[arg(long, value_name = "live|earliest|FILE", default_value = "live", value_parser = parse_begin)]
    pub(crate) from: Begin,
    /// What is written for a message.
    #[arg(long, value_enum, default_value_t = Format::Lines)]
    pub(crate) format: Format,
    /// End after this many messages.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Only messages of these key_partitions; may be given more than once.
    #[arg(long, value_name = "KP")]
    pub(crate) partition: Vec<String>,
    /// End with an error rather than skip what this reader was too slow for.
    #[arg(long)]
    pub(crate) no_skip: bool,
    /// Share the messages with the group's other members.
    #[arg(long, value_name = "G")]
    pub(crate) group: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// A node's admin address: host:port.
    #[arg(long, env = "BROKY_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:7402", value_parser = parse_host_port)]
    pub(crate) admin: String,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Only say whether the node is ready, by the exit code too: 0 if so, 1 if not, 69 if none answers.
    #[arg(long, conflicts_with = "json")]
    pub(crate) ready: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DrainArgs {
    /// The node's name.
    pub(crate) node: String,
    /// Also when too few nodes remain to commit with as many copies as now.
    #[arg(long)]
    pub(crate) force: bool,
    /// How long to wait, in seconds; it goes on being emptied afterwards. Default: as long as it takes.
    #[arg(long, value_name = "S", value_parser = parse_seconds)]
    pub(crate) timeout: Option<Duration>,
    /// The admin address of any node: host:port.
    #[arg(long, env = "BROKY_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:7402", value_parser = parse_host_port)]
    pub(crate) admin: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ForgetArgs {
    /// The node's name.
    pub(crate) node: String,
    /// The admin address of any node: host:port.
    #[arg(long, env = "BROKY_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:7402", value_parser = parse_host_port)]
    pub(crate) admin: String,
}
