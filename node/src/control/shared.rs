//! What the parts of the control plane share.
//!
//! All of it runs on the control thread; the locks are for the handles that other threads hold, and are never held
//! across an await.

use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broky_proto::id::{ClusterId, Incarnation, MapVersion, Member, VBucketCount};
use broky_proto::peer::{Hello, Purpose, Reply};
use broky_proto::peer_v1 as pb;
use broky_ring::map::{ClusterMap, DiffError, MapDiff};
use broky_ring::member::{Addresses, BootId, Copies, Zone};
use thiserror::Error;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::contact::Losses;
use super::detector::{Heard, Suspicion};
use super::group::Group;
use super::heartbeat::{LostLeader, Unreachable};
use super::links::Links;
use super::timing;
use crate::audit::Audit;
use crate::peer::{Gate, PeerStats};

/// What the control plane is told at its start.
#[derive(Clone, Debug)]
pub(crate) struct ControlConfig {
    /// The node's name.
    pub(crate) name: String,
    /// Where others are told to reach this node.
    pub(crate) addresses: Addresses,
    /// The node's failure domain.
    pub(crate) zone: Zone,
    /// Peer addresses to look for a cluster at. Empty: a cluster of one is founded at once.
    pub(crate) join: Vec<String>,
    /// How many nodes must have met before a cluster is founded. `None` with addresses to join: never found one.
    pub(crate) expect: Option<u16>,
    /// Copies of a cluster founded here.
    pub(crate) copies: Copies,
    /// Vbuckets of a cluster founded here.
    pub(crate) vbuckets: VBucketCount,
    /// Shards of every node of a cluster that this process founds.
    pub(crate) shards: NonZeroU16,
    /// Where raft's log is kept; in memory when nowhere.
    pub(crate) data_dir: Option<PathBuf>,
    /// Time after which a dead node's copies are rebuilt elsewhere.
    pub(crate) dead_after: Duration,
    /// Where it is noted what the control log decides.
    pub(crate) audit: Option<Audit>,
}

/// Why this process may not go on as a member of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum End {
    /// Another process has registered under this node's name. Two processes must not share one: stop one of them.
    #[error("replaced: another process has registered as node {name:?} (incarnation {by})")]
    Replaced {
        /// The name.
        name: String,
        /// The process that counts.
        by: Incarnation,
    },
    /// The node was removed from the cluster by `broky forget`. Start it anew, without its old data directory, to join
    /// again.
    #[error("forgotten: node {name:?} was removed from the cluster")]
    Forgotten {
        /// The name.
        name: String,
    },
    /// The cluster was re-founded from a state in which this process was not registered. Start it anew.
    #[error("the cluster has lost the registration of node {name:?} together with the majority that knew it")]
    Lost {
        /// The name.
        name: String,
    },
    /// The cluster does not take this node: a name too long, too many nodes. Correct it.
    #[error("the cluster refuses this node: {0}")]
    Refused(String),
    /// What raft must not forget cannot be stored or read any more. Mend the disk, and start the node anew.
    #[error("the control plane's storage failed: {0}")]
    Storage(String),
}

/// In which groups this process takes part.
#[derive(Default)]
pub(super) struct Place {
    /// The group whose cluster it is in.
    pub(super) group: Option<Arc<Group>>,
    /// The group that it has promised to help found.
    pub(super) promised: Option<Promised>,
}

/// A founding that this process takes part in.
#[derive(Clone)]
pub(super) struct Promised {
    pub(super) group: Arc<Group>,
    pub(super) expires: Instant,
}

/// Who has been heard of while there is no cluster to look it up in.
#[derive(Clone, Debug)]
pub(super) struct Acquaintance {
    pub(super) process: pb::Process,
    pub(super) heard: Instant,
}

pub(crate) struct Shared {
    pub(super) config: ControlConfig,
    pub(super) boot: BootId,
    pub(super) map: watch::Sender<Arc<ClusterMap>>,
    pub(super) me: watch::Sender<Option<Member>>,
    pub(super) ended: watch::Sender<Option<End>>,
    /// What stands between this process and a cluster, in words.
    pub(super) waiting_for: watch::Sender<String>,
    pub(super) place: Mutex<Place>,
    /// Held while a promise is given, released or turned into a founding.
    pub(super) promising: tokio::sync::Mutex<()>,
    /// By boot id.
    pub(super) met: Mutex<BTreeMap<Vec<u8>, Acquaintance>>,
    /// Addresses of processes that others have heard of, and when.
    rumours: Mutex<BTreeMap<String, Instant>>,
    /// Locked while this process uses its data directory.
    pub(super) directory: Mutex<Option<File>>,
    pub(super) links: Links,
    pub(super) heard: Mutex<Heard>,
    pub(super) unreachable: Mutex<BTreeMap<Member, Unreachable>>,
    /// Somebody looks which of the voters are gone.
    pub(super) is_looking_around: AtomicBool,
    pub(super) lost_leader: Mutex<Option<LostLeader>>,
    pub(super) losses: Mutex<Losses>,
    pub(super) suspicions: mpsc::UnboundedSender<Suspicion>,
    /// Whether this process has once held all that it was meant to hold.
    has_settled: AtomicBool,
    /// Wakes the search for a cluster.
    pub(super) seek: Notify,
    /// Wakes the heartbeat.
    pub(super) beat: Notify,
    pub(super) peers: Arc<PeerStats>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nobody who holds one of these locks does anything that can panic half way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(config: ControlConfig, boot: BootId, suspicions: mpsc::UnboundedSender<Suspicion>) -> Self {
        Self {
            config,
            boot,
            map: watch::Sender::default(),
            me: watch::Sender::default(),
            ended: watch::Sender::default(),
            waiting_for: watch::Sender::new("starting".to_owned()),
            place: Mutex::default(),
            promising: tokio::sync::Mutex::default(),
            met: Mutex::default(),
            rumours: Mutex::default(),
            directory: Mutex::default(),
            links: Links::default(),
            heard: Mutex::default(),
            unreachable: Mutex::default(),
            is_looking_around: AtomicBool::new(false),
            lost_leader: Mutex::default(),
            losses: Mutex::default(),
            suspicions,
            has_settled: AtomicBool::new(false),
            seek: Notify::new(),
            beat: Notify::new(),
            peers: Arc::default(),
        }
    }

    pub(super) fn me(&self) -> Option<Member> {
        *self.me.borrow()
    }

    pub(super) fn map(&self) -> Arc<ClusterMap> {
        self.map.borrow().clone()
    }

    /// The group whose cluster this process is in.
    pub(super) fn group(&self) -> Option<Arc<Group>> {
        lock(&self.place).group.clone()
    }

    /// The group of this id, when this process takes part in it.
    pub(super) fn group_of(&self, id: &[u8]) -> Option<Arc<Group>> {
        let place = lock(&self.place);
        let groups = [place.group.as_ref(), place.promised.as_ref().map(|promised| &promised.group)];
        groups.into_iter().flatten().find(|group| group.id.0 == *id).cloned()
    }

    pub(super) fn is_promised(&self) -> bool {
        lock(&self.place).promised.is_some()
    }

    /// The cluster this process is in, or is founding.
    pub(super) fn cluster(&self) -> Option<ClusterId> {
        self.group().map(|group| group.cluster)
    }

    /// How this process introduces itself.
    pub(super) fn process(&self) -> pb::Process {
        pb::Process {
            boot: self.boot.0.to_vec().into(),
            name: self.config.name.clone(),
            address: self.config.addresses.peer.clone(),
        }
    }

    /// What a connection to `to` begins with.
    pub(super) fn hello(&self, to: Option<Member>) -> Hello {
        Hello { purpose: Purpose::Control, shard: 0, cluster: self.cluster(), from: self.me(), to }
    }

    /// Notes that a process exists. Bounded: those not heard of for a while go.
    pub(super) fn meet(&self, process: pb::Process) {
        if process.boot.as_ref() == self.boot.0 {
            return;
        }
        let heard = Instant::now();
        let mut met = lock(&self.met);
        met.retain(|_, acquaintance| acquaintance.heard.elapsed() < timing::MET);
        if met.len() < MET_MAX {
            met.insert(process.boot.to_vec(), Acquaintance { process, heard });
        }
    }

    /// Notes whom others know: they may be worth a look.
    pub(super) fn note_rumours(&self, processes: Vec<pb::Process>) {
        let mut rumours = lock(&self.rumours);
        rumours.retain(|_, at| at.elapsed() < timing::MET);
        for process in processes.into_iter().filter(|process| process.boot.as_ref() != self.boot.0) {
            if rumours.len() < MET_MAX {
                rumours.insert(process.address, Instant::now());
            }
        }
    }

    /// Where processes may be of which others have heard.
    pub(super) fn rumoured(&self) -> Vec<String> {
        lock(&self.rumours)
            .iter()
            .filter(|(_, at)| at.elapsed() < timing::MET)
            .map(|(place, _)| place.clone())
            .collect()
    }

    /// Who was heard of lately.
    pub(super) fn acquaintances(&self) -> Vec<pb::Process> {
        let met = lock(&self.met);
        let fresh = met.values().filter(|acquaintance| acquaintance.heard.elapsed() < timing::MET);
        fresh.map(|acquaintance| acquaintance.process.clone()).collect()
    }

    /// The newest process heard of under a name.
    pub(super) fn acquaintance(&self, name: &str) -> Option<pb::Process> {
        self.acquaintances().into_iter().find(|process| process.name == name)
    }

    /// The registered process of the node of this name, and where it is. Goes by the map, which may be ahead of what
    /// this process has applied.
    pub(super) fn node_called(&self, name: &str) -> Option<(Member, String)> {
        let map = self.map();
        let (id, node) = map.nodes().find(|(_, node)| node.name == name)?;
        Some((Member { node: id, incarnation: node.incarnation }, node.addresses.peer.clone()))
    }

    /// Whether a member is the raft leader, and was heard as that a moment ago.
    pub(super) fn hears(&self, member: Member) -> bool {
        let Some(group) = self.group() else { return false };
        let leader = group.leader().and_then(|(_, peer)| self.node_called(&peer.name));
        let is_fresh = group.leaderless().is_some_and(|time| time < timing::RAFT_HEARTBEAT * 2);
        is_fresh && leader.is_some_and(|(leader, _)| leader == member)
    }

    /// Makes `map` the current one if it is newer.
    pub(super) fn publish(&self, map: &Arc<ClusterMap>) {
        let is_newer = self.map.send_if_modified(|current| {
            let is_newer = map.version() > current.version();
            if is_newer {
                *current = map.clone();
            }
            is_newer
        });
        if is_newer {
            self.check_standing();
            self.has_settled();
        }
    }

    /// Whether this process has once held all that it was meant to hold. What it is meant to hold later, because nodes
    /// came or died, is no fault of its own.
    pub(super) fn has_settled(&self) -> bool {
        let is_settled = || self.me().is_some_and(|me| self.map.borrow().is_settled(me));
        if !self.has_settled.load(Ordering::Relaxed) && is_settled() {
            self.has_settled.store(true, Ordering::Relaxed);
        }
        self.has_settled.load(Ordering::Relaxed)
    }

    /// Merges what a peer knows. True when that was news.
    pub(super) fn merge(&self, diff: MapDiff) -> Result<bool, DiffError> {
        let mut map = ClusterMap::clone(&self.map.borrow());
        let is_news = map.merge(diff)?;
        if is_news {
            self.publish(&Arc::new(map));
        }
        Ok(is_news)
    }

    /// Whether the map still has this process; ends it otherwise.
    pub(super) fn check_standing(&self) {
        let Some(me) = self.me() else { return };
        match standing(&self.map(), me) {
            pb::Standing::Replaced => {
                let by = self.map().node(me.node).map(|node| node.incarnation).unwrap_or_default();
                self.end(End::Replaced { name: self.config.name.clone(), by });
            }
            pb::Standing::Forgotten => self.end(End::Forgotten { name: self.config.name.clone() }),
            pb::Standing::Ok | pb::Standing::NotLeader | pb::Standing::Unspecified => {}
        }
    }

    /// Sets who this process is, once and for all.
    pub(super) fn registered(&self, member: Member) {
        match self.me() {
            None => {
                self.me.send_replace(Some(member));
                tracing::info!(node = %member.node, incarnation = %member.incarnation, "registered");
                self.config.audit.iter().for_each(|audit| audit.registered(member));
            }
            Some(me) if me == member => {}
            Some(_) => self.end(End::Lost { name: self.config.name.clone() }),
        }
    }

    /// Says that this process may not go on. The first reason stays.
    pub(super) fn end(&self, end: End) {
        self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            if is_first {
                tracing::error!(reason = %end, "this process may not go on");
                *ended = Some(end);
            }
            is_first
        });
    }

    /// What a peer's answer to our hello means for ourselves.
    pub(super) fn note_reply(&self, reply: Reply) {
        match reply {
            Reply::Replaced(by) => self.end(End::Replaced { name: self.config.name.clone(), by }),
            Reply::Forgotten => self.end(End::Forgotten { name: self.config.name.clone() }),
            Reply::Ok | Reply::OtherCluster | Reply::NotMe | Reply::Version(_) | Reply::Malformed | Reply::Busy => {}
        }
    }

    pub(super) fn wait_for(&self, what: impl Into<String>) {
        let what = what.into();
        self.waiting_for.send_if_modified(|waiting| {
            let is_new = *waiting != what;
            if is_new {
                tracing::info!(what, "waiting");
                *waiting = what;
            }
            is_new
        });
    }
}

/// Processes remembered while there is no cluster.
const MET_MAX: usize = 1024;

/// How a member stands according to a map. A map that is older than its registration says nothing of it.
pub(super) fn standing(map: &ClusterMap, member: Member) -> pb::Standing {
    match map.node(member.node) {
        Some(node) if node.incarnation > member.incarnation => pb::Standing::Replaced,
        None if map.version() > MapVersion(member.incarnation.0) => pb::Standing::Forgotten,
        Some(_) | None => pb::Standing::Ok,
    }
}

impl Gate for Shared {
    fn admit(&self, hello: &Hello) -> Reply {
        let ours = self.cluster();
        if let (Some(ours), Some(theirs)) = (ours, hello.cluster)
            && ours != theirs
        {
            return Reply::OtherCluster;
        }
        let map = self.map();
        let is_possible = match (hello.purpose, hello.to) {
            (Purpose::Control | Purpose::Data, None) => true,
            (Purpose::Control | Purpose::Data, to) => to == self.me(),
            (Purpose::Detour, to) => to.is_some_and(|to| map.is_current(to)),
        };
        if !is_possible {
            return Reply::NotMe;
        }
        let Some(from) = hello.from.filter(|_| ours.is_some()) else {
            // Only who is registered has anything to replicate, or is anybody's business to carry for.
            return if hello.purpose == Purpose::Control { Reply::Ok } else { Reply::OtherCluster };
        };
        match standing(&map, from) {
            pb::Standing::Replaced => {
                Reply::Replaced(map.node(from.node).map(|node| node.incarnation).unwrap_or_default())
            }
            pb::Standing::Forgotten => Reply::Forgotten,
            pb::Standing::Ok | pb::Standing::NotLeader | pb::Standing::Unspecified => Reply::Ok,
        }
    }

    fn place_of(&self, member: Member) -> Option<String> {
        let map = self.map();
        let node = map.node(member.node).filter(|node| node.incarnation == member.incarnation)?;
        Some(node.addresses.peer.clone())
    }
}
