//! Everybody dies who held what was acknowledged: all three nodes at once, or two while the third sleeps. What they
//! held is gone; nobody is left in doubt about it, and no offset is used again.

use std::time::Duration;

use broky_client::GapReason;

use super::Plan;
use super::stage::{SETTLED_LIMIT, Stage};
use crate::error::HarnessError;
use crate::observer::{is_settled, newest_map, until_map};
use crate::reader::Faults;
use crate::verdict::Verdict;

const QUIET: Duration = Duration::from_secs(2);
/// How long one sleeps while the others go on: it is fenced after a second.
const ASLEEP: Duration = Duration::from_secs(4);
const DEAD: Duration = Duration::from_secs(1);
const SERVICE_LIMIT: Duration = Duration::from_secs(10);

/// What the deaths leave of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// Nothing: a new cluster takes its place.
    Nothing,
    /// The control logs, on disk.
    Disks,
    /// A node that was stopped (SIGSTOP) while the others went on, and took its own state for the newest if it dared.
    Sleeper,
}

/// Three nodes.
///
/// # Errors
/// When it cannot be carried out.
pub async fn run(plan: Plan, left: Left) -> Result<Verdict, HarnessError> {
    let options = super::ClusterOptions { is_durable: left == Left::Disks, ..plan.cluster(3) };
    let mut stage = Stage::open(&plan, options, plan.load()).await?;
    let (mut service, mut untold, mut lineages) = (Vec::new(), Faults::default(), Faults::default());
    for round in 0..plan.runs(3) {
        // The first half dies with the nodes, whatever was acknowledged of it.
        stage.workload.go(2 * round);
        stage.pass(QUIET).await;
        let sleeper = (left == Left::Sleeper).then_some(round as usize % 3);
        if let Some(at) = sleeper {
            stage.cluster.pause(at)?;
            stage.pass(ASLEEP).await;
        }
        let before = newest_map(&stage.cluster).await?;
        let told: Vec<_> = stage.readers.iter().map(|reader| told(&reader.sight())).collect();
        let dead: Vec<_> = (0..3).filter(|at| sleeper != Some(*at)).collect();
        stage.cluster.kill_together(&dead)?;
        tokio::time::sleep(DEAD).await;
        let restarted = stage.workload.clock.now();
        if left == Left::Nothing {
            stage.begin_life(restarted);
        }
        sleeper.map_or(Ok(()), |at| stage.cluster.resume(at))?;
        dead.iter().try_for_each(|at| stage.cluster.start_node(*at))?;
        let mut served = stage.until_served(restarted, SETTLED_LIMIT).await?;
        service.append(&mut served);
        until_map(&mut stage.cluster, "all is in sync and home", SETTLED_LIMIT, is_settled).await?;
        let after = newest_map(&stage.cluster).await?;
        let lives_on = left != Left::Nothing;
        if lives_on != (after.cluster() == before.cluster()) {
            lineages.add(|| format!("round {round}: cluster {} after {}", after.cluster(), before.cluster()));
        }
        for (vbucket, vb) in after.vbuckets().filter(|_| lives_on) {
            if before.vbucket(vbucket).is_none_or(|old| old.lineage >= vb.lineage) {
                lineages.add(|| format!("round {round}: vbucket {vbucket} goes on in {:?}", vb.lineage));
            }
        }
        // What is pushed from here on is not to be lost.
        stage.workload.settle(Duration::from_secs(35)).await?;
        stage.workload.go(2 * round + 1);
        stage.pass(QUIET).await;
        stage.check(2 * round + 1).await?;
        let vbuckets = after.vbuckets().count();
        for (reader, before) in stage.readers.iter().zip(told) {
            let (gaps, foreign) = told_since(&reader.sight(), before);
            if gaps < vbuckets && foreign == 0 {
                untold.add(|| format!("round {round}: {} was told of {gaps} lost vbuckets", reader.name));
            }
        }
        plan.say(format!("round {round}: cluster {} after {}", after.cluster(), before.cluster()));
    }
    let (mut verdict, audit) = stage.close();
    verdict.never("message acked after the restart lost", &audit.lost);
    verdict.never("subscriber left in doubt", &untold);
    verdict.never(if left == Left::Nothing { "old cluster id" } else { "vbucket with its old lineage" }, &lineages);
    verdict.consistency(&audit);
    verdict.bound("service after the restart", &mut service, 100, SERVICE_LIMIT);
    verdict.spread("service after the restart", &mut service);
    Ok(verdict)
}

/// How many gaps told of a loss, and how many refusals there were.
fn told(sight: &crate::reader::Sight) -> (usize, usize) {
    (sight.gaps.iter().filter(|gap| gap.reason == GapReason::Lost).count(), sight.foreign.len())
}

fn told_since(sight: &crate::reader::Sight, before: (usize, usize)) -> (usize, usize) {
    let now = told(sight);
    (now.0 - before.0, now.1 - before.1)
}
