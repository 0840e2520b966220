//! Three nodes become five and three again, under load.

use std::time::Duration;

use broky_ring::map::ClusterMap;

use super::Plan;
use super::stage::Stage;
use crate::error::HarnessError;
use crate::observer::{drain, is_settled, newest_map, until_map};
use crate::reader::Faults;
use crate::spans::{latencies, percentile};
use crate::verdict::Verdict;

const QUIET: Duration = Duration::from_secs(5);
const MOVES_LIMIT: Duration = Duration::from_secs(180);

/// From three nodes to five, and back by `broky drain` and SIGTERM of the two that came first after the first.
///
/// # Errors
/// When it cannot be carried out.
pub async fn run(plan: Plan) -> Result<Verdict, HarnessError> {
    let mut stage = Stage::open(&plan, plan.cluster(3), plan.load()).await?;
    let mut unbalanced = Faults::default();
    for run in 0..plan.runs(1) {
        let round = 2 * run;
        stage.workload.go(round);
        let mut quiet = latencies(&stage.workload, &stage.pass(QUIET).await);
        stage.verdict.spread("push while nothing moves", &mut quiet);
        let from = stage.workload.clock.now();
        let joined = [stage.cluster.join_node()?, stage.cluster.join_node()?];
        // Before the targets are changed everything is in its place.
        let have_copies = |map: &ClusterMap| map.nodes().all(|(id, _)| map.copies_at(id) > 0);
        let is_grown = |map: &ClusterMap| map.nodes().count() == 5 && have_copies(map) && is_settled(map);
        let map = until_map(&mut stage.cluster, "five nodes are balanced", MOVES_LIMIT, is_grown).await?;
        let mut joining = latencies(&stage.workload, &(from..stage.workload.clock.now()));
        check_balance(&map, "with five nodes", &mut unbalanced);
        plan.say("five nodes are balanced");
        stage.check(round).await?;
        stage.workload.go(round + 1);
        // Five processes share the cores from here on, and while two joined.
        let mut quiet_five = latencies(&stage.workload, &stage.pass(QUIET).await);
        stage.verdict.spread("push while nothing moves among five", &mut quiet_five);
        let from = stage.workload.clock.now();
        for at in joined {
            drain(&mut stage.cluster, at, MOVES_LIMIT).await?;
        }
        let mut draining = latencies(&stage.workload, &(from..stage.workload.clock.now()));
        let map = newest_map(&stage.cluster).await?;
        check_balance(&map, "with three nodes again", &mut unbalanced);
        for at in joined {
            stage.cluster.stop(at).await?;
        }
        plan.say("three nodes remain");
        stage.pass(QUIET).await;
        stage.check(round + 1).await?;
        let limit = percentile(&quiet, 99).max(percentile(&quiet_five, 99)) * 3;
        for (what, moves) in [("push while two join", &mut joining), ("push while two are drained", &mut draining)] {
            stage.verdict.spread(what, moves);
            stage.verdict.bound(what, moves, 99, limit);
        }
    }
    let (mut verdict, audit) = stage.close();
    verdict.integrity(&audit);
    verdict.never("node beyond 5 % of the mean", &unbalanced);
    Ok(verdict)
}

/// Notes every node that leads or holds more or less than 5 % beside the mean. Where the mean is no whole number, the
/// two whole numbers beside it are within.
fn check_balance(map: &ClusterMap, when: &str, unbalanced: &mut Faults) {
    let nodes: Vec<_> = map.nodes().filter(|(id, node)| !node.is_draining || map.copies_at(*id) > 0).collect();
    let vbuckets = map.vbuckets().count();
    let copies: usize = map.vbuckets().map(|(_, vb)| vb.replicas.len()).sum();
    for (id, node) in &nodes {
        let leads = map.vbuckets().filter(|(_, vb)| vb.leader.is_some_and(|leader| leader.node == *id)).count();
        for (what, count, sum) in [("leads", leads, vbuckets), ("holds", map.copies_at(*id), copies)] {
            let count_all = nodes.len();
            let most = sum.div_ceil(count_all).max(sum * 105 / (count_all * 100));
            let least = (sum / count_all).min((sum * 95).div_ceil(count_all * 100));
            if count > most || count < least {
                unbalanced.add(|| format!("{when}: {} {what} {count} of {sum}", node.name));
            }
        }
    }
}
