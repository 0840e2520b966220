//! `broky serve`.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use broky_node::{Node, NodeConfig, StartError, host_name};
use broky_proto::id::VBucketCount;
use broky_proto::limits::MESSAGE_BYTES_HARD_MAX;
use broky_ring::member::{Copies, REPLICAS_MAX};
use rustix::process::{Resource, getrlimit};
use rustix::system::sysinfo;
use rustix::thread::disable_transparent_huge_pages;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::Interval;

use crate::args::ServeArgs;
use crate::exit::{CONFIG, FAILED, NOT_PERMITTED, OrExit as _, fail};
use crate::units::{parse_host_port, show_bytes};

/// What the cluster's state takes for the name of a node, and for its address.
const NAME_BYTES_MAX: usize = 255;
/// Descriptors that the node keeps back for everything but client connections.
const FILES_RESERVED: u64 = 128;
/// Room for fewer clients than this is not meant.
const CLIENTS_FEW: u64 = 64;
/// What is logged unless BROKY_LOG says otherwise. openraft calls every attempt to reach a dead member an error.
const LOG_DEFAULT: &str = "info,openraft=error,openraft::replication=off";
/// Threads that no machine has cores for.
const WORKERS_MAX: u16 = 1024;
/// How often a node without protection says so.
const INSECURE_REMINDER: Duration = Duration::from_secs(60);
/// Time to stop for a node that nobody watches any more.
const ORPHAN_STOP: Duration = Duration::from_secs(10);

pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let config = config(args)?;
    start_logging();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exposed: Vec<_> = listeners(args).into_iter().filter(|(_, address)| !address.ip().is_loopback()).collect();
    let (name, memory) = (config.name.clone(), config.memory_bytes);
    // Before anybody can see the node, and want it to end.
    let mut signals = runtime.block_on(async { Signals::new() })?;
    if args.stop_with_stdin {
        stop_with_stdin(signals.stdin_ended.clone())?;
    }
    // What a start touches, mostly tables of the control log that are used once, would take huge pages and keep them:
    // 30 MiB of an idle node. Messages are to have them.
    let _ = disable_transparent_huge_pages(true);
    let mut node = Node::begin(config).or_exit(CONFIG)?;
    let run = async {
        tokio::select! {
            started = node.started() => match started {
                Err(error @ StartError::Ended(_)) => return Err(fail(NOT_PERMITTED, error)),
                started => started.or_exit(CONFIG)?,
            },
            () = signals.wait(&exposed) => return Ok(()),
        }
        let _ = disable_transparent_huge_pages(false);
        tracing::info!(
            node = name,
            clients = %node.client_address(),
            peers = %node.peer_address(),
            admin = %node.admin_address(),
            memory = show_bytes(memory as u64),
            workers = node.workers(),
            "node started"
        );
        warn_of_limits(memory);
        tokio::select! {
            end = node.ended() => Err(fail(NOT_PERMITTED, end)),
            () = signals.wait(&exposed) => Ok(()),
        }
    };
    let outcome = runtime.block_on(run);
    tracing::info!("node stopping");
    node.stop();
    outcome
}

/// Where the node listens, by flag.
fn listeners(args: &ServeArgs) -> [(&'static str, SocketAddr); 3] {
    [("--listen", args.listen), ("--peer-listen", args.peer_listen), ("--admin-listen", args.admin_listen)]
}

/// Every fault of the settings, told at once.
fn config(args: &ServeArgs) -> anyhow::Result<NodeConfig> {
    let mut faults = Vec::new();
    for (flag, address) in listeners(args) {
        if !address.ip().is_loopback() && !args.insecure {
            faults.push(format!(
                "{flag} {address} can be reached by other hosts, and nothing is encrypted and nobody is asked who they \
                 are: give --insecure if the network is trusted, or a loopback address"
            ));
        }
    }
    let vbuckets = VBucketCount::new(args.vbuckets);
    if vbuckets.is_none() {
        faults.push(format!("--vbuckets {} is not a power of two from 1 to 32768", args.vbuckets));
    }
    if args.message_max == 0 || args.message_max > MESSAGE_BYTES_HARD_MAX {
        faults.push(format!("--message-max must lie between 1 and {MESSAGE_BYTES_HARD_MAX} bytes"));
    }
    if args.workers.is_some_and(|workers| !(1..=WORKERS_MAX).contains(&workers)) {
        faults.push(format!("--workers must lie between 1 and {WORKERS_MAX}"));
    }
    if args.name.as_ref().is_some_and(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
        faults.push(format!("--name must have 1 to {NAME_BYTES_MAX} bytes"));
    }
    if let Some(advertise) = &args.advertise
        && !is_advertisable(advertise)
    {
        faults.push(format!("--advertise {advertise:?} is not host or host:port, which is what others connect to"));
    }
    let copies = Copies { replicas: args.replicas, min_isr: args.min_isr.unwrap_or(args.replicas.min(2)) };
    faults.extend(cluster_faults(args, copies));
    if !faults.is_empty() {
        return Err(fail(CONFIG, faults.join("\n       ")));
    }
    let mut config = NodeConfig::new(args.name.clone().unwrap_or_else(host_name));
    config.listen = args.listen;
    config.peer_listen = args.peer_listen;
    config.admin_listen = args.admin_listen;
    config.advertise = args.advertise.clone();
    config.join = args.join.clone();
    config.expect = args.expect;
    config.copies = copies;
    config.zone = args.zone.clone();
    config.data_dir = args.data_dir.clone();
    config.dead_after = Duration::from_secs(args.dead_after);
    config.memory_bytes = args.memory;
    config.message_bytes_max = args.message_max;
    config.vbuckets = vbuckets.unwrap_or(VBucketCount::DEFAULT);
    config.workers = args.workers.and_then(NonZeroU16::new);
    config.audit = args.audit.clone();
    Ok(config)
}

/// What is wrong with the settings about other nodes.
fn cluster_faults(args: &ServeArgs, copies: Copies) -> Vec<String> {
    let mut faults = Vec::new();
    if !(1..=REPLICAS_MAX).contains(&copies.replicas) {
        faults.push(format!("--replicas {} does not lie between 1 and {REPLICAS_MAX}", copies.replicas));
    } else if !copies.is_valid() {
        let Copies { replicas, min_isr } = copies;
        faults.push(format!("--min-isr {min_isr} does not lie between 1 and --replicas {replicas}"));
    }
    if args.expect == Some(0) {
        faults.push("--expect must be at least 1".to_owned());
    }
    if args.expect.is_some_and(|expect| expect > 1) && args.join.is_empty() {
        faults.push("--expect needs --join: somewhere to meet the others".to_owned());
    }
    for address in &args.join {
        let is_good =
            address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !is_good {
            faults.push(format!("--join {address:?} is not host:port"));
        }
    }
    if args.dead_after == 0 {
        faults.push("--dead-after must be at least 1 second".to_owned());
    }
    faults
}

/// Whether others can be told to connect there: a host, or host:port.
fn is_advertisable(address: &str) -> bool {
    let is_host = |host: &str| !host.is_empty() && !host.contains([' ', '/']);
    let has_port = parse_host_port(address).is_ok();
    address.len() <= NAME_BYTES_MAX && (has_port || is_host(address) && !address.contains(':'))
}

/// Says what of the machine will not do for what was asked for. The node runs: it may never need it.
fn warn_of_limits(memory: usize) {
    let machine = sysinfo();
    let machine_memory = machine.totalram.saturating_mul(machine.mem_unit.into());
    if memory as u64 > machine_memory {
        tracing::warn!(
            memory = show_bytes(memory as u64),
            "--memory is more than this machine has ({}): the node may be killed before it is full",
            show_bytes(machine_memory)
        );
    }
    let files = getrlimit(Resource::Nofile).current;
    if let Some(files) = files.filter(|files| files.saturating_sub(FILES_RESERVED) < CLIENTS_FEW) {
        tracing::warn!(
            files,
            clients = files.saturating_sub(FILES_RESERVED).max(1),
            "the limit of open files (ulimit -n) leaves room for few clients: further ones are refused"
        );
    }
}

fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BROKY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOG_DEFAULT));
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal).init();
}

/// Has the node stop when stdin ends. A pipe's end comes however the process at its other end went, also by `kill -9`;
/// a signal to the children of a dead process cannot be had without unsafe code or a race.
fn stop_with_stdin(ended: Arc<Notify>) -> io::Result<()> {
    let watch = move || {
        // An error ends it as well.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        ended.notify_one();
        std::thread::sleep(ORPHAN_STOP);
        std::process::exit(FAILED.into());
    };
    std::thread::Builder::new().name("broky-stdin".to_owned()).spawn(watch).map(drop)
}

/// What ends a node from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    stdin_ended: Arc<Notify>,
    remind: Interval,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            stdin_ended: Arc::default(),
            remind: tokio::time::interval(INSECURE_REMINDER),
        })
    }

    /// Waits for one; meanwhile reminds of addresses that are exposed.
    async fn wait(&mut self, exposed: &[(&str, SocketAddr)]) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                () = self.stdin_ended.notified() => return,
                _ = self.remind.tick(), if !exposed.is_empty() => {
                    for (flag, address) in exposed {
                        tracing::warn!(flag, %address, "reachable by other hosts without encryption or authentication");
                    }
                }
            }
        }
    }
}
