//! A push touches its vbucket's owner and two followers, and no other node, however many there are.

use std::collections::BTreeMap;
use std::time::Duration;

use broky_client::VBucketId;

use super::Plan;
use super::stage::Stage;
use crate::error::HarnessError;
use crate::observer::{metrics, newest_map};
use crate::verdict::Verdict;
use crate::workload::WorkloadOptions;

const LOAD: Duration = Duration::from_secs(2);
const NODES: usize = 5;

/// Five nodes; one vbucket gets everything.
///
/// # Errors
/// When it cannot be carried out.
pub async fn run(plan: Plan) -> Result<Verdict, HarnessError> {
    let only = VBucketId(u16::try_from(plan.seed % u64::from(plan.vbuckets)).unwrap_or_default());
    let load = WorkloadOptions { only: Some(only), ..plan.load() };
    let mut stage = Stage::open(&plan, plan.cluster(NODES), load).await?;
    let before = stored(&stage).await?;
    stage.workload.go(0);
    stage.pass(LOAD).await;
    stage.workload.settle(Duration::from_secs(35)).await?;
    let after = stored(&stage).await?;
    let map = newest_map(&stage.cluster).await?;
    stage.check(0).await?;
    let (mut verdict, audit) = stage.close();
    verdict.integrity(&audit);
    let replicas = map.vbucket(only).map(|vb| vb.replicas.clone()).unwrap_or_default();
    let leader = map.vbucket(only).and_then(|vb| vb.leader).map(|leader| leader.node);
    for (id, node) in map.nodes() {
        let delta =
            |of: fn(&(f64, f64)) -> f64| after.get(&node.name).map_or(0.0, of) - before.get(&node.name).map_or(0.0, of);
        let (pushed, followed) = (delta(|counts| counts.0), delta(|counts| counts.1));
        #[expect(clippy::cast_precision_loss, reason = "far fewer messages than a float counts exactly")]
        let all = audit.acked as f64;
        let (role, expected) = match (leader == Some(id), replicas.contains(&id)) {
            (true, _) => ("owner", (all, 0.0)),
            (false, true) => ("follower", (0.0, all)),
            (false, false) => ("no replica", (0.0, 0.0)),
        };
        let measured = format!("{pushed} stored as leader, {followed} taken as follower, of {all}");
        verdict.rule(format!("{} ({role}) stores what it should", node.name), measured, (pushed, followed) == expected);
    }
    verdict.rule("three nodes hold it", replicas.len(), replicas.len() == 3);
    Ok(verdict)
}

/// By node: messages stored as a leader, and as a follower.
async fn stored(stage: &Stage) -> Result<BTreeMap<String, (f64, f64)>, HarnessError> {
    let mut counts = BTreeMap::new();
    for node in stage.cluster.nodes() {
        let metrics = metrics(node.admin).await?;
        let count = |name| metrics.get(name);
        let of_node = (count("broky_push_messages_total"), count("broky_replication_messages_total"));
        counts.insert(node.name.clone(), of_node);
    }
    Ok(counts)
}
