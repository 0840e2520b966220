//! What the nodes say of themselves and of their cluster, over their admin HTTP.

use std::time::{Duration, Instant};

use crate::admin::get;
use crate::exit::{FAILED, fail};
use crate::status::{Node, Status, fetch};

/// How often it is looked whether something is so.
const PERIOD: Duration = Duration::from_millis(20);

/// Whether a node takes calls and has caught up.
pub(super) async fn is_ready(admin: &str) -> bool {
    let admin = admin.to_owned();
    tokio::task::spawn_blocking(move || get(&admin, "/readyz")).await.is_ok_and(|answer| answer.is_ok())
}

/// What a node says of itself.
pub(super) async fn status(admin: &str) -> anyhow::Result<Status> {
    let admin = admin.to_owned();
    tokio::task::spawn_blocking(move || fetch(&admin)).await?
}

/// Waits until a node sees the one of this name alive in a later lifetime than `before`, and every vbucket on as many
/// nodes as there should be copies.
pub(super) async fn until_full_isr(
    admin: &str,
    name: &str,
    before: u64,
    deadline: Duration,
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    loop {
        let status = status(admin).await;
        if status.as_ref().is_ok_and(|status| is_full(status, name, before)) {
            return Ok(started.elapsed());
        }
        if started.elapsed() > deadline {
            let words = match status {
                Ok(status) => format!("{} vbuckets are under-replicated", status.cluster.under_replicated),
                Err(error) => format!("{error:#}"),
            };
            return Err(fail(FAILED, format!("{name} has not caught up within {deadline:?}: {words}")));
        }
        tokio::time::sleep(PERIOD).await;
    }
}

fn is_full(status: &Status, name: &str, before: u64) -> bool {
    let cluster = &status.cluster;
    let is_back = cluster.nodes.iter().any(|node| node.name == name && node.incarnation > before);
    is_back
        && cluster.nodes.iter().all(Node::is_alive)
        && cluster.under_replicated + cluster.moving + cluster.leaderless == 0
}
