//! A status for a person.

use std::io::{Result, Write};

use super::gather::Facts;
use super::model::{Cluster, Node, Status};
use crate::units::{show_bytes, show_count};

pub(super) fn show(out: &mut impl Write, status: &Status, facts: &[Facts]) -> Result<()> {
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
    show_cluster(out, &status.cluster)?;
    writeln!(out)?;
    show_nodes(out, &status.cluster.nodes, facts)
}

fn show_cluster(out: &mut impl Write, cluster: &Cluster) -> Result<()> {
    if let Some(reason) = &cluster.waiting_for {
        writeln!(out, "not ready      {reason}")?;
    }
    let Cluster { replicas, vbuckets, min_isr, under_replicated, frozen, leaderless, moving, misplaced, .. } = cluster;
    writeln!(out, "copies         {replicas} of each of {vbuckets} vbuckets, {min_isr} to commit")?;
    writeln!(
        out,
        "health         {under_replicated} vbuckets under-replicated, {frozen} frozen, {leaderless} without a leader"
    )?;
    writeln!(out, "moves          {moving} vbuckets being copied, {misplaced} not yet where they should be")?;
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
    )
}

const HEADER: [&str; 13] = [
    "  node",
    "id",
    "incarnation",
    "zone",
    "state",
    "leads",
    "copies",
    "in sync",
    "copying",
    "lag",
    "pushed",
    "memory",
    "clients",
];

fn show_nodes(out: &mut impl Write, nodes: &[Node], facts: &[Facts]) -> Result<()> {
    let rows: Vec<_> = nodes.iter().zip(facts).map(|(node, facts)| row(node, facts)).collect();
    let table: Vec<_> = std::iter::once(HEADER.map(str::to_owned)).chain(rows).collect();
    for row in &table {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = table.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
            let width = width.unwrap_or_default();
            // Numbers end below one another, words begin so.
            let is_word = matches!(HEADER.get(column), Some(&("  node" | "zone" | "state" | "clients")));
            line += &if is_word { format!("{cell:width$}  ") } else { format!("{cell:>width$}  ") };
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    for (node, _) in nodes.iter().zip(facts).filter(|(node, facts)| node.is_alive() && !facts.answers) {
        writeln!(out, "\n{} does not answer on {}, its admin address", node.name, node.admin)?;
    }
    Ok(())
}

fn row(node: &Node, facts: &Facts) -> [String; 13] {
    let count = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), show_count);
    let me = if node.is_me { '*' } else { ' ' };
    [
        format!("{me} {}", node.name),
        node.id.to_string(),
        node.incarnation.to_string(),
        if node.zone.is_empty() { "-".to_owned() } else { node.zone.clone() },
        node.state().to_owned(),
        node.leads.to_string(),
        node.copies.to_string(),
        node.in_sync.to_string(),
        node.learning.to_string(),
        count(facts.lag_messages),
        count(facts.pushed_messages),
        facts.memory_used_bytes.map_or_else(|| "?".to_owned(), show_bytes),
        node.client.clone(),
    ]
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
