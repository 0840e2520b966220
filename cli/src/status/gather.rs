//! What each node says of itself, asked of all of them at once, and how far each is behind.
//!
//! A node's lag is how many messages its copies lack, summed over the vbuckets that it holds: of each vbucket whoever
//! has come furthest is compared with. The nodes are asked at the same time and answer at nearly the same time, so
//! under load what is pushed in between counts as lag too; with nothing pushed it is exact.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::model::{Node, Status};
use crate::admin::get_within;

/// A node that takes longer does not answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Nodes that are asked at the same time.
const ASKED_AT_ONCE: usize = 64;

/// What a node says of itself. Nothing, when it does not answer.
#[derive(Clone, Default, Serialize)]
pub(super) struct Facts {
    pub(super) state: &'static str,
    pub(super) answers: bool,
    pub(super) lag_messages: Option<u64>,
    pub(super) uptime_seconds: Option<f64>,
    pub(super) connections: Option<u64>,
    pub(super) subscriptions: Option<u64>,
    pub(super) pushed_messages: Option<u64>,
    pub(super) delivered_messages: Option<u64>,
    pub(super) memory_used_bytes: Option<u64>,
    pub(super) memory_max_bytes: Option<u64>,
}

/// One log that a node holds: vbucket, lineage, start and end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
struct HeldLog(u16, u64, u64, u64);

/// What a node answered.
struct Answers {
    logs: Option<Vec<HeldLog>>,
    status: Option<Status>,
}

/// Asks every node that counts as alive; in the order of the status' nodes.
pub(super) fn gather(status: &Status, admin: &str) -> Vec<Facts> {
    let nodes = &status.cluster.nodes;
    // Where the node that was asked was reached it is reached again, whatever it is called for others.
    let address = |node: &Node| if node.is_me { admin.to_owned() } else { node.admin.clone() };
    let mut answers = Vec::new();
    for nodes in nodes.chunks(ASKED_AT_ONCE) {
        let asking: Vec<_> = nodes
            .iter()
            .map(|node| node.is_alive().then(|| address(node)))
            .map(|address| address.map(|address| std::thread::spawn(move || ask(&address))))
            .collect();
        answers.extend(asking.into_iter().map(|asking| asking.and_then(|asking| asking.join().ok())));
    }
    let logs: Vec<_> = answers.iter().map(|answers| answers.as_ref()?.logs.clone()).collect();
    let facts = |((node, answers), lag_messages): ((&Node, Option<Answers>), Option<u64>)| Facts {
        state: node.state(),
        lag_messages,
        ..answers.and_then(|answers| answers.status).map(Facts::of).unwrap_or_default()
    };
    nodes.iter().zip(answers).zip(lags(&logs)).map(facts).collect()
}

fn ask(address: &str) -> Answers {
    let read = |path| get_within(address, path, TIMEOUT).ok();
    Answers {
        logs: read("/logs").and_then(|body| serde_json::from_str(&body).ok()),
        status: read("/status").and_then(|body| serde_json::from_str(&body).ok()),
    }
}

impl Facts {
    fn of(status: Status) -> Self {
        Self {
            state: "",
            answers: true,
            lag_messages: None,
            uptime_seconds: Some(status.uptime_seconds),
            connections: Some(status.connections),
            subscriptions: Some(status.subscriptions),
            pushed_messages: Some(status.pushed_messages),
            delivered_messages: Some(status.delivered_messages),
            memory_used_bytes: Some(status.memory_used_bytes),
            memory_max_bytes: Some(status.memory_max_bytes),
        }
    }
}

/// How many messages each node's copies lack, by the logs of all of them.
fn lags(logs: &[Option<Vec<HeldLog>>]) -> Vec<Option<u64>> {
    let mut furthest: BTreeMap<u16, HeldLog> = BTreeMap::new();
    for log in logs.iter().flatten().flatten() {
        let known = furthest.entry(log.0).or_insert(*log);
        if (log.1, log.3) > (known.1, known.3) {
            *known = *log;
        }
    }
    let lag = |log: &HeldLog| furthest.get(&log.0).map_or(0, |first| log.behind(*first));
    logs.iter().map(|logs| logs.as_ref().map(|logs| logs.iter().map(lag).sum())).collect()
}

impl HeldLog {
    /// What this log lacks of another, which has come further. Nobody copies what the other one does not hold any more.
    fn behind(self, other: Self) -> u64 {
        let from = if self.1 == other.1 { self.3.max(other.2) } else { other.2 };
        other.3.saturating_sub(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_what_the_copies_lack_of_whoever_has_come_furthest() {
        let logs = [
            Some(vec![HeldLog(0, 1, 0, 100), HeldLog(1, 1, 0, 40)]),
            Some(vec![HeldLog(0, 1, 0, 90), HeldLog(1, 1, 0, 50)]),
            None,
        ];
        assert_eq!(lags(&logs), [Some(10), Some(10), None]);
    }

    #[test]
    fn what_was_evicted_is_no_lag() {
        let logs = [Some(vec![HeldLog(0, 1, 70, 100)]), Some(vec![HeldLog(0, 1, 0, 10)])];
        assert_eq!(lags(&logs), [Some(0), Some(30)]);
    }

    #[test]
    fn copy_of_an_older_lineage_lacks_everything() {
        let logs = [Some(vec![HeldLog(0, 2, 1000, 1005)]), Some(vec![HeldLog(0, 1, 0, 2000)])];
        assert_eq!(lags(&logs), [Some(0), Some(5)]);
    }
}
