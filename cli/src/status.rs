//! `broky status`.

use std::io::Write as _;

use anyhow::Context as _;
use serde::Deserialize;

use crate::admin::{ask, get};
use crate::args::StatusArgs;
use crate::exit::{FAILED, IO_ERROR, OrExit as _, UNAVAILABLE, fail};
use crate::units::{show_bytes, show_count};

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
    cluster: Cluster,
}

/// What a node says of its cluster.
#[derive(Deserialize)]
struct Cluster {
    map_version: u64,
    vbuckets: u64,
    leaderless: u64,
    under_replicated: u64,
    frozen: u64,
    moving: u64,
    replicas: u8,
    min_isr: u8,
    nodes: Vec<Node>,
    raft: Raft,
    waiting_for: Option<String>,
}

#[derive(Deserialize)]
struct Node {
    id: u32,
    name: String,
    incarnation: u64,
    zone: String,
    liveness: String,
    is_draining: bool,
    client: String,
    leads: u64,
    copies: u64,
    in_sync: u64,
    is_me: bool,
}

#[derive(Deserialize)]
struct Raft {
    leader: Option<String>,
    term: u64,
    voters: Vec<String>,
    learners: Vec<String>,
    last_applied: u64,
}

/// Asks a node how it is, and shows it.
pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<()> {
    if args.ready {
        return ready(args);
    }
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

/// Asks a node whether it is ready. Where there is no shell, this is the probe.
fn ready(args: &StatusArgs) -> anyhow::Result<()> {
    let no_answer = || format!("no node answers on {}", args.admin);
    let answer = ask(&args.admin, "GET", "/readyz").with_context(no_answer).or_exit(UNAVAILABLE)?;
    let words = answer.body.trim();
    match answer.status {
        200 => writeln!(std::io::stdout(), "{words}").or_exit(IO_ERROR),
        503 => Err(fail(FAILED, format!("not ready: {words}"))),
        status => Err(fail(UNAVAILABLE, format!("{}: status {status}: {words}", no_answer()))),
    }
}

fn show(out: &mut impl std::io::Write, status: &Status) -> std::io::Result<()> {
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
    )?;
    show_cluster(out, &status.cluster)
}

fn show_cluster(out: &mut impl std::io::Write, cluster: &Cluster) -> std::io::Result<()> {
    if let Some(reason) = &cluster.waiting_for {
        writeln!(out, "not ready      {reason}")?;
    }
    writeln!(
        out,
        "copies         {} of each of {} vbuckets, {} to commit; {} under-replicated, {} frozen, {} without a leader, {} \
         being copied",
        cluster.replicas,
        cluster.vbuckets,
        cluster.min_isr,
        cluster.under_replicated,
        cluster.frozen,
        cluster.leaderless,
        cluster.moving
    )?;
    let raft = &cluster.raft;
    let leader = raft.leader.as_deref().unwrap_or("nobody");
    writeln!(
        out,
        "raft           led by {leader} in term {}, {} applied, map {}; voters: {}; learners: {}",
        raft.term,
        raft.last_applied,
        cluster.map_version,
        list(&raft.voters),
        list(&raft.learners)
    )?;
    writeln!(out)?;
    let width = cluster.nodes.iter().map(|node| node.name.chars().count()).max().unwrap_or_default().max("node".len());
    let header = ["node", "id", "incarnation", "zone", "state", "leads", "copies", "in sync"];
    let [name, id, incarnation, zone, state, leads, copies, in_sync] = header;
    writeln!(
        out,
        "  {name:width$} {id:>4} {incarnation:>11} {zone:10} {state:10} {leads:>6} {copies:>6} {in_sync:>7}  clients"
    )?;
    for node in &cluster.nodes {
        let me = if node.is_me { '*' } else { ' ' };
        let state = if node.is_draining { "draining" } else { &node.liveness };
        let zone = if node.zone.is_empty() { "-" } else { &node.zone };
        let Node { id, name, incarnation, leads, copies, in_sync, client, .. } = node;
        writeln!(
            out,
            "{me} {name:width$} {id:>4} {incarnation:>11} {zone:10} {state:10} {leads:>6} {copies:>6} {in_sync:>7}  {client}"
        )?;
    }
    Ok(())
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
