//! Two of three nodes die at once: the third keeps everything acknowledged, acknowledges nothing alone, and leads when
//! the others are back.

use std::time::Duration;

use broky_ring::map::ClusterMap;

use super::stage::{SETTLED_LIMIT, Stage};
use super::{Plan, name_of};
use crate::error::HarnessError;
use crate::observer::{is_settled, newest_map, until_map};
use crate::reader::Faults;
use crate::verdict::Verdict;
use crate::workload::{Fate, WorkloadOptions};

const QUIET: Duration = Duration::from_secs(2);
const ALONE: Duration = Duration::from_secs(5);
/// What the dying sent before they died may still arrive.
const GRACE: Duration = Duration::from_millis(50);
/// Short, so that what is pushed meanwhile is refused meanwhile.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(2);

/// Three nodes; each is the survivor in turn.
///
/// # Errors
/// When it cannot be carried out.
pub async fn run(plan: Plan, is_durable: bool) -> Result<Verdict, HarnessError> {
    let load = WorkloadOptions { delivery_timeout: DELIVERY_TIMEOUT, ..plan.load() };
    let options = super::ClusterOptions { is_durable, ..plan.cluster(3) };
    let mut stage = Stage::open(&plan, options, load).await?;
    let (mut returns, mut resumed, mut alone, mut changed) =
        (Vec::new(), Vec::new(), Faults::default(), Faults::default());
    let (mut tried, mut not_led) = (0_u64, Faults::default());
    for round in 0..plan.runs(3) {
        stage.workload.go(round);
        stage.pass(QUIET).await;
        let before = newest_map(&stage.cluster).await?;
        let survivor = round as usize % 3;
        let dead: Vec<_> = (0..3).filter(|at| *at != survivor).collect();
        stage.cluster.kill_together(&dead)?;
        let killed = stage.workload.clock.now();
        stage.pass(ALONE).await;
        let restarted = stage.workload.clock.now();
        dead.iter().try_for_each(|at| stage.cluster.start_node(*at))?;
        // Who leads when the vbuckets first have leaders again: nobody but the survivor has anything.
        let name = name_of(&stage.cluster, survivor)?;
        let is_led =
            |map: &ClusterMap| map.vbuckets().all(|(_, vb)| vb.leader.is_some()) && registered_anew(&before, map) == 2;
        let after = until_map(&mut stage.cluster, "every vbucket is led", SETTLED_LIMIT, is_led).await?;
        let survivor = after.nodes().find(|(_, node)| node.name == name).map(|(id, _)| id);
        for (vbucket, vb) in after.vbuckets() {
            if vb.leader.map(|leader| leader.node) != survivor {
                not_led.add(|| format!("round {round}: vbucket {vbucket} is led by {:?}", vb.leader));
            }
            if before.vbucket(vbucket).map(|vb| vb.lineage) != Some(vb.lineage) {
                changed.add(|| format!("round {round}: vbucket {vbucket} is of {:?}", vb.lineage));
            }
        }
        let home = until_map(&mut stage.cluster, "all is in sync and home again", SETTLED_LIMIT, is_settled).await;
        home?;
        returns.push(stage.workload.clock.now() - restarted);
        resumed.extend(stage.until_served(restarted, SETTLED_LIMIT).await?);
        stage.check(round).await?;
        stage.workload.for_each(|producer, sequence, attempt| {
            tried += u64::from(attempt.pushed > killed && attempt.pushed < restarted);
            let is_acked = matches!(attempt.fate, Fate::Committed(_)) && attempt.settled < restarted;
            if is_acked && attempt.settled > killed + GRACE {
                alone.add(|| format!("{sequence} of producer {producer}: {attempt:?}"));
            }
        });
        plan.say(format!("round {round}: {name} survived"));
    }
    let (mut verdict, audit) = stage.close();
    verdict.integrity(&audit);
    verdict.never("vbucket led by another than the survivor", &not_led);
    verdict.never("vbucket with another lineage", &changed);
    verdict.never("push acked by the survivor alone", &alone);
    verdict.figure("pushes tried meanwhile", tried);
    verdict.rule("pushes were refused or unknown meanwhile", tried, tried > 0);
    verdict.spread("in sync and home after the restart", &mut returns);
    verdict.spread("first ack of a vbucket after the restart", &mut resumed);
    Ok(verdict)
}

/// How many nodes have another incarnation than before.
fn registered_anew(before: &ClusterMap, map: &ClusterMap) -> usize {
    map.nodes().filter(|(id, node)| before.node(*id).is_none_or(|old| old.incarnation != node.incarnation)).count()
}
