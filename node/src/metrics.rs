//! Metrics: read from the workers when somebody asks, so that they cost the data path nothing.

use std::sync::Arc;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::gossip::GossipStats;
use crate::process;
use crate::worker::WorkerStats;

/// What a scrape gathers.
pub(crate) struct Snapshot {
    pub(crate) workers: Vec<WorkerStats>,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) peers_accepted: u64,
    pub(crate) peers_refused: u64,
    pub(crate) peers_bad: u64,
    pub(crate) peers_carried: u64,
    /// Once there is a cluster to gossip in.
    pub(crate) gossip: Option<Arc<GossipStats>>,
    pub(crate) memory_max_bytes: usize,
    pub(crate) uptime_seconds: f64,
}

/// Renders snapshots in Prometheus' text format.
pub(crate) struct Exporter {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Exporter {
    pub(crate) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        with_local_recorder(&recorder, describe);
        Self { recorder, handle }
    }

    pub(crate) fn render(&self, snapshot: &Snapshot) -> String {
        with_local_recorder(&self.recorder, || record(snapshot));
        self.handle.render()
    }
}

const COUNTERS: &[(&str, Unit, &str)] = &[
    (
        "broky_push_messages_total",
        Unit::Count,
        "Messages stored. Flat under load: look at rejections and at the publishers.",
    ),
    (
        "broky_replication_messages_total",
        Unit::Count,
        "Messages taken from leaders. Flat on a node that follows: look at its links and at the ISR.",
    ),
    (
        "broky_push_duplicate_messages_total",
        Unit::Count,
        "Retried messages that were stored already. Rising: publishers lose their connections or time out.",
    ),
    (
        "broky_push_rejected_messages_total",
        Unit::Count,
        "Messages refused by a vbucket. Rising: look at the ISR, then for producers that share an id.",
    ),
    (
        "broky_push_producers_forgotten_total",
        Unit::Count,
        "Producers forgotten for want of memory: their retries may be stored twice. Rising: raise --memory.",
    ),
    ("broky_log_blocks_total", Unit::Count, "Blocks committed. Messages per block tell how well load is batched."),
    ("broky_log_block_bytes_total", Unit::Bytes, "Bytes of the blocks committed."),
    (
        "broky_log_evicted_messages_total",
        Unit::Count,
        "Messages that left the memory. What subscribers have not read by then they miss, with a gap: raise --memory to keep more.",
    ),
    (
        "broky_relay_sent_messages_total",
        Unit::Count,
        "Messages led here and handed to nodes that do not hold them, for their subscribers.",
    ),
    (
        "broky_relay_received_messages_total",
        Unit::Count,
        "Messages taken from their leaders for subscribers here. High: subscribe where the data is.",
    ),
    ("broky_delivery_messages_total", Unit::Count, "Messages handed to subscribers' connections."),
    ("broky_delivery_bytes_total", Unit::Bytes, "Bytes handed to subscribers' connections."),
    (
        "broky_delivery_gaps_total",
        Unit::Count,
        "Gaps told to subscribers. Rising: some are slower than the node's memory.",
    ),
    (
        "broky_delivery_dropped_messages_total",
        Unit::Count,
        "Messages covered by gaps, at the most. Rising: find the slow subscribers or raise --memory.",
    ),
    (
        "broky_delivery_slow_ended_total",
        Unit::Count,
        "Subscriptions ended for slowness. Rising: find the slow subscribers.",
    ),
    (
        "broky_connections_accepted_total",
        Unit::Count,
        "Client connections taken. Rising fast: clients reconnect in a loop.",
    ),
    (
        "broky_connections_refused_total",
        Unit::Count,
        "Client connections refused at the descriptor limit. Rising: raise the limit of open files.",
    ),
    ("broky_peer_connections_accepted_total", Unit::Count, "Connections to the peer port. Rising fast: links break."),
    (
        "broky_peer_connections_refused_total",
        Unit::Count,
        "Peers refused: of another cluster, replaced, or looking for somebody else. Rising: check the addresses in --join.",
    ),
    (
        "broky_peer_connections_bad_total",
        Unit::Count,
        "Connections to the peer port that were no peer's. Rising: somebody else finds the port.",
    ),
    (
        "broky_peer_detours_carried_total",
        Unit::Count,
        "Connections carried between two nodes that do not reach each other. Rising: look at the network between nodes.",
    ),
];

const GAUGES: &[(&str, Unit, &str)] = &[
    ("broky_connections_open", Unit::Count, "Client connections now."),
    ("broky_delivery_subscriptions", Unit::Count, "Subscriptions now."),
    ("broky_delivery_interests", Unit::Count, "Different sets of patterns among them."),
    ("broky_push_requests_waiting", Unit::Count, "Pushes that wait for their outcome. High: followers are slow."),
    (
        "broky_push_inbound_bytes",
        Unit::Bytes,
        "Bytes of messages that have begun to arrive. High: many slow publishers of large batches.",
    ),
    ("broky_log_blocks", Unit::Count, "Blocks in memory."),
    (
        "broky_memory_used_bytes",
        Unit::Bytes,
        "Bytes used of the memory budget. At its maximum the oldest messages are evicted, as is normal.",
    ),
    (
        "broky_memory_pinned_bytes",
        Unit::Bytes,
        "Bytes of evicted blocks that stalled connections hold. High: subscribers have stopped reading.",
    ),
    ("broky_memory_max_bytes", Unit::Bytes, "The memory budget."),
    ("broky_vbuckets_led", Unit::Count, "Vbuckets this node leads."),
    ("broky_vbuckets_followed", Unit::Count, "Vbuckets of which this node follows the leader, in sync or catching up."),
    ("broky_process_resident_bytes", Unit::Bytes, "Resident memory of the process."),
    ("broky_process_open_files", Unit::Count, "Open file descriptors."),
    ("broky_process_threads", Unit::Count, "Threads. It does not change while the node runs."),
    ("broky_process_uptime_seconds", Unit::Seconds, "Time since the node started. Falling: it was restarted."),
];

fn describe() {
    for (name, unit, help) in COUNTERS.iter().chain(GossipStats::COUNTERS) {
        describe_counter!(*name, *unit, *help);
    }
    for (name, unit, help) in GAUGES {
        describe_gauge!(*name, *unit, *help);
    }
}

fn record(snapshot: &Snapshot) {
    if let Some(gossip) = &snapshot.gossip {
        gossip.record();
    }
    let sum = |of: fn(&WorkerStats) -> u64| snapshot.workers.iter().map(of).sum::<u64>();
    counter!("broky_push_messages_total").absolute(sum(|w| w.shard.pushed_messages));
    counter!("broky_replication_messages_total").absolute(sum(|w| w.shard.replicated_messages));
    counter!("broky_push_duplicate_messages_total").absolute(sum(|w| w.shard.duplicate_messages));
    counter!("broky_push_rejected_messages_total").absolute(sum(|w| w.shard.rejected_messages));
    counter!("broky_push_producers_forgotten_total").absolute(sum(|w| w.shard.forgotten_producers));
    counter!("broky_log_blocks_total").absolute(sum(|w| w.shard.blocks));
    counter!("broky_log_block_bytes_total").absolute(sum(|w| w.shard.block_bytes));
    counter!("broky_log_evicted_messages_total").absolute(sum(|w| w.shard.evicted_messages));
    counter!("broky_relay_sent_messages_total").absolute(sum(|w| w.delivery.relayed_messages));
    counter!("broky_relay_received_messages_total").absolute(sum(|w| w.shard.relayed_messages));
    counter!("broky_delivery_messages_total").absolute(sum(|w| w.delivery.delivered_messages));
    counter!("broky_delivery_bytes_total").absolute(sum(|w| w.delivery.delivered_bytes));
    counter!("broky_delivery_gaps_total").absolute(sum(|w| w.delivery.gaps));
    counter!("broky_delivery_dropped_messages_total").absolute(sum(|w| w.delivery.dropped_messages));
    counter!("broky_delivery_slow_ended_total").absolute(sum(|w| w.delivery.slow_ended));
    counter!("broky_connections_accepted_total").absolute(snapshot.accepted);
    counter!("broky_connections_refused_total").absolute(snapshot.refused);
    counter!("broky_peer_connections_accepted_total").absolute(snapshot.peers_accepted);
    counter!("broky_peer_connections_refused_total").absolute(snapshot.peers_refused);
    counter!("broky_peer_connections_bad_total").absolute(snapshot.peers_bad);
    counter!("broky_peer_detours_carried_total").absolute(snapshot.peers_carried);
    set("broky_connections_open", sum(|w| w.connections as u64));
    set("broky_delivery_subscriptions", sum(|w| w.subscriptions as u64));
    set("broky_delivery_interests", sum(|w| w.interests as u64));
    set("broky_push_requests_waiting", sum(|w| w.requests_waiting as u64));
    set("broky_push_inbound_bytes", sum(|w| w.inbound_bytes as u64));
    // Every worker sees every block.
    set("broky_log_blocks", snapshot.workers.first().map_or(0, |w| w.blocks as u64));
    set("broky_memory_used_bytes", sum(|w| w.memory_used_bytes as u64));
    set("broky_memory_pinned_bytes", sum(|w| w.memory_pinned_bytes as u64));
    set("broky_memory_max_bytes", snapshot.memory_max_bytes as u64);
    set("broky_vbuckets_led", sum(|w| w.led as u64));
    set("broky_vbuckets_followed", sum(|w| w.followed as u64));
    set("broky_process_resident_bytes", process::resident_bytes());
    set("broky_process_open_files", process::open_files());
    set("broky_process_threads", process::threads());
    gauge!("broky_process_uptime_seconds").set(snapshot.uptime_seconds);
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float; whole numbers up to 2^53 are exact")]
fn set(name: &'static str, value: u64) {
    gauge!(name).set(value as f64);
}
