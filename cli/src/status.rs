//! `broky status`.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::Deserialize;

use crate::args::StatusArgs;
use crate::exit::{IO_ERROR, OrExit as _, UNAVAILABLE};
use crate::units::{show_bytes, show_count};

const TIMEOUT: Duration = Duration::from_secs(5);
/// More than any status takes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What a node says of itself.
#[derive(Deserialize)]
struct Status {
    name: String,
    cluster_id: String,
    address: String,
    uptime_seconds: f64,
    workers: u64,
    vbuckets_led: u64,
    connections: u64,
    subscriptions: u64,
    pushed_messages: u64,
    delivered_messages: u64,
    dropped_messages: u64,
    memory_used_bytes: u64,
    memory_max_bytes: u64,
}

/// Asks a node how it is, and shows it.
pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let body = get(&args.admin, "/status")
        .with_context(|| format!("no node answers on {}", args.admin))
        .or_exit(UNAVAILABLE)?;
    let mut out = std::io::stdout().lock();
    let shown = if args.json {
        out.write_all(body.as_bytes())
    } else {
        let status: Status = serde_json::from_str(&body).context("the node's answer is not a status")?;
        show(&mut out, &status)
    };
    // What is left in the buffer would be lost in silence at the end.
    shown.and_then(|()| out.flush()).or_exit(IO_ERROR)
}

fn show(out: &mut impl io::Write, status: &Status) -> io::Result<()> {
    writeln!(
        out,
        "node           {} at {}, up {:.0} s, {} worker(s)",
        status.name, status.address, status.uptime_seconds, status.workers
    )?;
    writeln!(out, "cluster        {}", status.cluster_id)?;
    writeln!(out, "vbuckets led   {}", status.vbuckets_led)?;
    writeln!(
        out,
        "memory         {} of {}",
        show_bytes(status.memory_used_bytes),
        show_bytes(status.memory_max_bytes)
    )?;
    writeln!(out, "connections    {}, {} subscriptions", status.connections, status.subscriptions)?;
    writeln!(
        out,
        "messages       {} pushed, {} delivered, {} announced as missed",
        show_count(status.pushed_messages),
        show_count(status.delivered_messages),
        show_count(status.dropped_messages)
    )
}

/// The body of an HTTP/1.0 answer: the connection's end is the body's.
fn get(address: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).context("this is not the admin port of a node")?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| anyhow!("this is not the admin port of a node"))?;
    let status = head.lines().next().unwrap_or_default();
    anyhow::ensure!(status.contains(" 200 "), "{status}");
    Ok(body.to_owned())
}

/// A connection to the first address of the host that takes one.
fn connect(address: &str) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}
