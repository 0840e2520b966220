//! What a node says on `/status`.

use serde::Deserialize;

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
    pub(crate) misplaced: u64,
    pub(crate) replicas: u8,
    pub(crate) min_isr: u8,
    pub(crate) nodes: Vec<Node>,
    pub(crate) raft: Raft,
    pub(crate) waiting_for: Option<String>,
}

/// What a node says of a node of its cluster.
#[derive(Deserialize)]
pub(crate) struct Node {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) incarnation: u64,
    pub(crate) zone: String,
    pub(crate) liveness: String,
    pub(crate) is_draining: bool,
    pub(crate) client: String,
    pub(crate) admin: String,
    pub(crate) leads: u64,
    pub(crate) copies: u64,
    pub(crate) in_sync: u64,
    pub(crate) learning: u64,
    pub(crate) is_me: bool,
}

/// What a node says of the raft group.
#[derive(Deserialize)]
pub(crate) struct Raft {
    pub(crate) leader: Option<String>,
    pub(crate) term: u64,
    pub(crate) voters: Vec<String>,
    pub(crate) learners: Vec<String>,
    pub(crate) last_applied: u64,
}

impl Node {
    pub(crate) fn is_alive(&self) -> bool {
        self.liveness == "alive"
    }

    /// How it stands, in a word.
    pub(crate) fn state(&self) -> &'static str {
        match (self.liveness.as_str(), self.is_draining) {
            ("alive", false) => "alive",
            ("alive", true) => "draining",
            // Its copies are being rebuilt elsewhere.
            ("evicted", _) => "given up",
            _ => "dead",
        }
    }
}
