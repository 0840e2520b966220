//! `kill -9` of any one node under load, again and again, each time with the node's return.

use std::time::Duration;

use broky_ring::map::ClusterMap;

use super::stage::{SETTLED_LIMIT, Stage};
use super::{Plan, Role, Spans, name_of, role_of};
use crate::error::HarnessError;
use crate::observer::{is_full, is_settled, newest_map, raft_leader, until_map};
use crate::spans::first_acks;
use crate::supervisor::Supervisor;
use crate::verdict::{Verdict, show};

/// Load before the kill, and from there to the return.
const QUIET: Duration = Duration::from_millis(3_000);
const DEAD: Duration = Duration::from_millis(3_000);
const FULL_LIMIT: Duration = Duration::from_secs(10);

/// Three nodes, or more with three copies.
///
/// # Errors
/// When it cannot be carried out.
pub async fn run(plan: Plan, nodes: usize) -> Result<Verdict, HarnessError> {
    let mut stage = Stage::open(&plan, plan.cluster(nodes), plan.load()).await?;
    let mut random = plan.random();
    let (mut spans, mut returns, mut quiet) = (Spans::default(), Vec::new(), Spans::default());
    let (mut raft_leaders, mut resumed) = (0, Vec::new());
    for round in 0..plan.runs(20) {
        stage.workload.go(round);
        let before = newest_map(&stage.cluster).await?;
        let window = stage.pass(QUIET + random.up_to(Duration::from_millis(200))).await;
        quiet.add(&stage.workload, &window, |_| Role::Led);
        let (victim, is_raft_leader) = victim(&stage.cluster, round).await;
        raft_leaders += u32::from(is_raft_leader);
        stage.cluster.kill(victim)?;
        let killed = stage.workload.clock.now();
        let window = stage.pass(DEAD).await;
        let name = name_of(&stage.cluster, victim)?;
        spans.add(&stage.workload, &window, |vbucket| role_of(&before, &name, vbucket));
        resumed.extend(first_acks(&stage.workload, killed).into_values());
        let returned = stage.workload.clock.now();
        stage.cluster.start_node(victim)?;
        let has_all = |map: &ClusterMap| map.nodes().count() == nodes && is_full(map);
        until_map(&mut stage.cluster, "every copy is in sync again", SETTLED_LIMIT, has_all).await?;
        returns.push(stage.workload.clock.now() - returned);
        until_map(&mut stage.cluster, "the leaders are back", SETTLED_LIMIT, is_settled).await?;
        spans.add_return(&stage.workload, &(returned..stage.workload.clock.now()));
        plan.say(format!("round {round}: {name} (raft leader: {is_raft_leader}), {}", spans.last()));
        stage.check(round).await?;
    }
    let (mut verdict, audit) = stage.close();
    verdict.integrity(&audit);
    verdict.bound("full ISR after the return", &mut returns, 100, FULL_LIMIT);
    verdict.spread("full ISR after the return", &mut returns);
    let push_gap = plan.push_interval();
    spans.judge_kill(&mut verdict, &mut quiet, nodes > 3, push_gap);
    verdict.spread("from the kill to the first ack of a later push", &mut resumed);
    verdict.figure("kills", format!("{}, of the raft leader {raft_leaders}", plan.runs(20)));
    verdict.figure("load", format!("{} messages/s over {} vbuckets", plan.rate_per_second, plan.vbuckets));
    verdict.figure("a vbucket is pushed to each", show(push_gap));
    Ok(verdict)
}

/// Every other time the raft leader, otherwise the others in turn.
async fn victim(cluster: &Supervisor, round: u32) -> (usize, bool) {
    let leader = raft_leader(cluster).await;
    let is_leader = |name: &str| leader.as_deref() == Some(name);
    let nodes: Vec<_> = cluster.running().map(|(at, node)| (at, is_leader(&node.name))).collect();
    let (leaders, others): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|(_, is_leader)| *is_leader);
    let of = if round.is_multiple_of(2) && !leaders.is_empty() { leaders } else { others };
    let turn = (round / 2) as usize % of.len().max(1);
    of.get(turn).copied().unwrap_or_default()
}
