//! `broky serve`.

use std::net::SocketAddr;
use std::time::Duration;

use broky_node::{Node, NodeConfig};
use broky_proto::id::VBucketCount;
use broky_proto::limits::MESSAGE_BYTES_HARD_MAX;
use rustix::process::{Resource, getrlimit};
use rustix::system::sysinfo;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::ServeArgs;
use crate::exit::{CONFIG, OrExit as _, fail};
use crate::units::{parse_host_port, show_bytes};

/// What the cluster's state takes for the name of a node, and for its address.
const NAME_BYTES_MAX: usize = 255;
/// Descriptors that the node keeps back for everything but client connections.
const FILES_RESERVED: u64 = 128;
/// Room for fewer clients than this is not meant.
const CLIENTS_FEW: u64 = 64;
/// How often a node without protection says so.
const INSECURE_REMINDER: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let config = config(args)?;
    start_logging();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exposed = [("--listen", args.listen), ("--admin-listen", args.admin_listen)]
        .into_iter()
        .filter(|(_, address)| !address.ip().is_loopback())
        .collect::<Vec<_>>();
    let (name, memory, workers) = (config.name.clone(), config.memory_bytes, config.workers);
    let node = Node::start(config).or_exit(CONFIG)?;
    tracing::info!(
        node = name,
        clients = %node.client_address(),
        admin = %node.admin_address(),
        memory = show_bytes(memory as u64),
        workers,
        "node started"
    );
    warn_of_limits(memory);
    runtime.block_on(wait_for_signal(&exposed))?;
    tracing::info!("node stopping");
    node.stop();
    Ok(())
}

/// Every fault of the settings, told at once.
fn config(args: &ServeArgs) -> anyhow::Result<NodeConfig> {
    let mut faults = Vec::new();
    for (flag, address) in [("--listen", args.listen), ("--admin-listen", args.admin_listen)] {
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
    if args.workers == Some(0) {
        faults.push("--workers must be at least 1".to_owned());
    }
    if args.name.as_ref().is_some_and(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
        faults.push(format!("--name must have 1 to {NAME_BYTES_MAX} bytes"));
    }
    if let Some(advertise) = &args.advertise
        && (parse_host_port(advertise).is_err() || advertise.len() > NAME_BYTES_MAX)
    {
        faults.push(format!("--advertise {advertise:?} is not host:port, which is what clients connect to"));
    }
    if !faults.is_empty() {
        return Err(fail(CONFIG, faults.join("\n       ")));
    }
    let mut config = NodeConfig::new(args.name.clone().unwrap_or_else(host_name));
    config.listen = args.listen;
    config.admin_listen = args.admin_listen;
    config.advertise = args.advertise.clone().or_else(|| told_address(args.listen));
    config.memory_bytes = args.memory;
    config.message_bytes_max = args.message_max;
    config.vbuckets = vbuckets.unwrap_or(VBucketCount::DEFAULT);
    config.workers = args.workers.unwrap_or(config.workers);
    Ok(config)
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

/// What clients can connect to when the node listens on every address: the host by name.
fn told_address(listen: SocketAddr) -> Option<String> {
    listen.ip().is_unspecified().then(|| format!("{}:{}", host_name(), listen.port()))
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "broky".to_owned(),
        name => name.to_owned(),
    }
}

fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BROKY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal).init();
}

async fn wait_for_signal(exposed: &[(&str, SocketAddr)]) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut remind = tokio::time::interval(INSECURE_REMINDER);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = remind.tick(), if !exposed.is_empty() => {
                for (flag, address) in exposed {
                    tracing::warn!(flag, %address, "reachable by other hosts without encryption or authentication");
                }
            }
        }
    }
}
