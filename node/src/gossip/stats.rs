//! What gossip counts, and what each counter tells.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Unit, counter};

/// Why a datagram was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dropped {
    /// Longer than any that is sent.
    TooLarge,
    /// It ends within its envelope.
    Truncated,
    /// Not gossip at all.
    Magic,
    /// Gossip of another version.
    Version,
    /// Damaged on its way.
    Checksum,
    /// Of another cluster.
    OtherCluster,
    /// Its body is not what its kind says.
    Malformed,
    /// Sent by this very process, or in its name.
    Own,
    /// From a process that was replaced.
    Stale,
    /// From a node that the map does not know, or no longer.
    Unknown,
    /// From a process that only a newer map knows.
    Early,
}

impl Dropped {
    /// Every reason, in the order of the discriminants.
    pub(super) const ALL: [Self; 11] = [
        Self::TooLarge,
        Self::Truncated,
        Self::Magic,
        Self::Version,
        Self::Checksum,
        Self::OtherCluster,
        Self::Malformed,
        Self::Own,
        Self::Stale,
        Self::Unknown,
        Self::Early,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Truncated => "truncated",
            Self::Magic => "magic",
            Self::Version => "version",
            Self::Checksum => "checksum",
            Self::OtherCluster => "other_cluster",
            Self::Malformed => "malformed",
            Self::Own => "own",
            Self::Stale => "stale",
            Self::Unknown => "unknown",
            Self::Early => "early",
        }
    }
}

/// A counter that one task raises and anybody reads.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What gossip counts.
#[derive(Debug, Default)]
pub(crate) struct GossipStats {
    pub(super) received: Counter,
    pub(super) sent: Counter,
    pub(super) unsent: Counter,
    pub(super) rumours: Counter,
    pub(super) foreign: Counter,
    pub(super) suspicions: Counter,
    pub(super) asks: Counter,
    pub(super) newer_maps: Counter,
    pub(super) leaders_elsewhere: Counter,
    pub(super) swim_faults: Counter,
    dropped: [Counter; Dropped::ALL.len()],
}

const COUNTERS: &[(&str, Unit, &str)] = &[
    (
        "broky_gossip_received_datagrams_total",
        Unit::Count,
        "Gossip datagrams received, whatever became of them. Flat: no peer reaches this node by UDP.",
    ),
    ("broky_gossip_sent_datagrams_total", Unit::Count, "Gossip datagrams sent. Flat: the node knows no peer."),
    (
        "broky_gossip_unsent_datagrams_total",
        Unit::Count,
        "Gossip datagrams the system did not take. Rising: look at the socket buffers, routes and firewall.",
    ),
    (
        "broky_gossip_dropped_datagrams_total",
        Unit::Count,
        "Gossip datagrams dropped, by reason. magic, malformed, checksum: somebody else sends to this port, or the \
         network damages; other_cluster, version: look for nodes with wrong --join addresses; stale, unknown: a \
         replaced or forgotten process still runs; early: this node lags behind the cluster map.",
    ),
    ("broky_gossip_rumours_total", Unit::Count, "News taken from gossip."),
    (
        "broky_gossip_foreign_total",
        Unit::Count,
        "Claims in gossip about processes that the cluster map does not show. Rising for long: maps do not spread.",
    ),
    (
        "broky_gossip_suspicions_total",
        Unit::Count,
        "Peers that gossip suspects to be gone. Rising while all live: packet loss, or a starved control thread.",
    ),
    (
        "broky_gossip_asks_total",
        Unit::Count,
        "Times that news were missing and asked for. Rising steadily: many datagrams are lost.",
    ),
    (
        "broky_gossip_newer_maps_total",
        Unit::Count,
        "Times that a peer showed a newer cluster map. Rising fast: pulling maps from peers fails.",
    ),
    (
        "broky_gossip_leaders_elsewhere_total",
        Unit::Count,
        "Vbuckets led here that a peer leads in a newer epoch. Rising: this node is cut off from the control plane.",
    ),
    (
        "broky_gossip_swim_faults_total",
        Unit::Count,
        "Packets and timers that the failure detector refused. Rising: the control thread is starved.",
    ),
];

impl GossipStats {
    /// The counters' names, units and help.
    pub(crate) const COUNTERS: &[(&str, Unit, &str)] = COUNTERS;

    pub(super) fn drop_one(&self, reason: Dropped) {
        if let Some(counter) = self.dropped.get(reason as usize) {
            counter.add(1);
        }
    }

    pub(super) fn dropped(&self, reason: Dropped) -> u64 {
        self.dropped.get(reason as usize).map_or(0, Counter::value)
    }

    /// Hands the counters to the recorder in scope.
    pub(crate) fn record(&self) {
        counter!("broky_gossip_received_datagrams_total").absolute(self.received.value());
        counter!("broky_gossip_sent_datagrams_total").absolute(self.sent.value());
        counter!("broky_gossip_unsent_datagrams_total").absolute(self.unsent.value());
        counter!("broky_gossip_rumours_total").absolute(self.rumours.value());
        counter!("broky_gossip_foreign_total").absolute(self.foreign.value());
        counter!("broky_gossip_suspicions_total").absolute(self.suspicions.value());
        counter!("broky_gossip_asks_total").absolute(self.asks.value());
        counter!("broky_gossip_newer_maps_total").absolute(self.newer_maps.value());
        counter!("broky_gossip_leaders_elsewhere_total").absolute(self.leaders_elsewhere.value());
        counter!("broky_gossip_swim_faults_total").absolute(self.swim_faults.value());
        for reason in Dropped::ALL {
            counter!("broky_gossip_dropped_datagrams_total", "reason" => reason.name()).absolute(self.dropped(reason));
        }
    }
}
