//! `broky status`.

use std::io::Write as _;

use anyhow::Context as _;
use serde::Deserialize;

use crate::admin::get;
use crate::args::StatusArgs;
use crate::exit::{IO_ERROR, OrExit as _, UNAVAILABLE};
use crate::units::{show_bytes, show_count};

/// What a node says of itself.
#[derive(Deserialize)]
pub(crate) struct Status {
    pub(crate) name: String,
    pub(crate) cluster_id: String,
    pub(crate) address: String,
    pub(crate) uptime_seconds: f64,
    pub(crate) workers: u64,
    pub(crate) vbuckets_led: u64,
    pub(crate) connections: u64,
    pub(crate) subscriptions: u64,
    pub(crate) pushed_messages: u64,
    pub(crate) delivered_messages: u64,
    pub(crate) dropped_messages: u64,
    pub(crate) memory_used_bytes: u64,
    pub(crate) memory_max_bytes: u64,
    pub(crate) cluster: Cluster,
}

/// What a node says of its cluster.
#[derive(Deserialize)]
pub(crate) struct Cluster {
    pub(crate) map_version: u64,
    pub(crate) vbuckets: u64,
    pub(crate) leaderless: u64,
    pub(crate) under_replicated: u64,
    pub(crate) frozen: u64,
    pub(crate) moving: u64,
    pub(crate) replicas: u8,
    pub(crate) min_isr: u8,
    pub(crate) nodes: Vec<Node>,
    pub(crate) raft: Raft,
    pub(crate) waiting_for: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Node {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) incarnation: u64,
    pub(crate) zone: String,
    pub(crate) liveness: String,
    pub(crate) is_draining: bool,
    pub(crate) client: String,
    pub(crate) leads: u64,
    pub(crate) copies: u64,
    pub(crate) in_sync: u64,
    pub(crate) is_me: bool,
}

#[derive(Deserialize)]
pub(crate) struct Raft {
    pub(crate) leader: Option<String>,
    pub(crate) term: u64,
    pub(crate) voters: Vec<String>,
    pub(crate) learners: Vec<String>,
    pub(crate) last_applied: u64,
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
