//! A node: a process that dies, pauses and begins again, with the real shard and router in it.
//!
//! What surrounds them is what the node's worker does around them (`node::worker`), without sockets: it has no
//! decisions of its own, there and here.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use broky_delivery::{RelayId, SubscriptionId};
use broky_proto::id::{Member, VBucketCount};
use broky_proto::v1::PushResponse;
use broky_ring::map::ClusterMap;
use broky_ring::member::BootId;
use broky_shard::{Collector, HistoryId, InboundId, Router, SessionId, Shard, ShardConfig, ShardId, UpstreamId};
use bytes::Bytes;

use super::metadata::CLUSTER;
use super::network::Clock;
use super::streams::StreamId;
use super::world::Event;

/// What a node does by itself, and when.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    Register,
    Beat,
    Gossip,
    Tick,
    Flush,
    Notice,
    Heartbeat,
    Reroute,
    Link(Purpose, Member),
}

/// What a link is for that is made again whenever it breaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Purpose {
    Replicate,
    Relay,
}

/// A link that is wanted: it stands, is being dialled, or will be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) stream: Option<StreamId>,
    pub(super) backoff: Duration,
}

/// A request of a client.
pub(super) struct Request {
    pub(super) stream: StreamId,
    pub(super) collector: Option<Collector>,
    pub(super) response: Option<PushResponse>,
}

/// A part of a request that another node waits for.
pub(super) struct Waiting {
    pub(super) part: u64,
    pub(super) stream: StreamId,
    pub(super) collector: Collector,
}

/// A node.
pub(super) struct Node {
    pub(super) name: String,
    /// Counts its processes.
    pub(super) life: u64,
    pub(super) is_running: bool,
    pub(super) is_paused: bool,
    pub(super) boot: BootId,
    pub(super) clock: Clock,
    /// Once it is registered.
    pub(super) process: Option<Process>,
    /// What was to happen while it was paused.
    pub(super) deferred: Vec<Event>,
}

impl Node {
    pub(super) fn is_at_work(&self) -> bool {
        self.is_running && !self.is_paused
    }

    pub(super) fn member(&self) -> Option<Member> {
        self.process.as_ref().map(|process| process.member)
    }
}

/// A registered process.
pub(super) struct Process {
    pub(super) member: Member,
    pub(super) shard: Shard,
    pub(super) router: Router,
    pub(super) map: ClusterMap,
    pub(super) links: BTreeMap<(Purpose, Member), Link>,
    pub(super) sessions: BTreeMap<SessionId, StreamId>,
    pub(super) inbound: BTreeMap<InboundId, StreamId>,
    pub(super) upstreams: BTreeMap<UpstreamId, StreamId>,
    pub(super) relays: BTreeMap<RelayId, StreamId>,
    pub(super) histories: BTreeMap<HistoryId, StreamId>,
    pub(super) subscriptions: BTreeMap<SubscriptionId, StreamId>,
    pub(super) forwards: BTreeMap<Member, StreamId>,
    /// Parts for links that do not stand yet.
    pub(super) unsent: BTreeMap<StreamId, Vec<Bytes>>,
    pub(super) requests: BTreeMap<u64, Request>,
    /// Per connection of a client: its requests, in order.
    pub(super) pushed: BTreeMap<StreamId, VecDeque<u64>>,
    pub(super) waiting: BTreeMap<u64, Waiting>,
    pub(super) next: u64,
    pub(super) is_flush_due: bool,
    pub(super) is_notice_due: bool,
    pub(super) is_reroute_due: bool,
}

impl Process {
    pub(super) fn new(member: Member, vbuckets: VBucketCount) -> Self {
        let config = ShardConfig {
            shard: ShardId(0),
            shards: 1,
            me: member,
            cluster: CLUSTER,
            vbuckets,
            memory_bytes: ShardConfig::MEMORY_BYTES_MIN,
            block_bytes_max: ShardConfig::BLOCK_BYTES_MAX_DEFAULT,
        };
        Self {
            member,
            shard: Shard::new(config).unwrap(),
            router: Router::new(member, 1, vbuckets),
            map: ClusterMap::default(),
            links: BTreeMap::new(),
            sessions: BTreeMap::new(),
            inbound: BTreeMap::new(),
            upstreams: BTreeMap::new(),
            relays: BTreeMap::new(),
            histories: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            forwards: BTreeMap::new(),
            unsent: BTreeMap::new(),
            requests: BTreeMap::new(),
            pushed: BTreeMap::new(),
            waiting: BTreeMap::new(),
            // Zero stands for "just started" in the shard.
            next: 1,
            is_flush_due: false,
            is_notice_due: false,
            is_reroute_due: false,
        }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}
