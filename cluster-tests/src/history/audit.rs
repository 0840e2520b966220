//! What nodes say of themselves, where they are audited: never on the way of an acknowledgement.
//!
//! Processes are named as the cluster names them: a node and its incarnation. [`IncarnationStart`] says which process
//! of the operating system that is, so that the supervisor's word on who lives can be applied; whoever knows writes it.

use broky_proto::id::{Epoch, IsrVersion, Lineage, MapVersion, Member, Offset, VBucketId};
use serde::{Deserialize, Serialize};

use super::unit::{Hash64, Pid};

/// A process was registered with a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IncarnationStart {
    /// The node's name, as in the supervisor's records.
    pub node: String,
    /// Its process.
    pub pid: Pid,
    /// The cluster.
    pub cluster: String,
    /// What it is called there.
    pub member: Member,
}

/// An entry of the control log changed a vbucket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// The node that applied it, if one says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The cluster.
    pub cluster: String,
    /// The entry.
    pub index: MapVersion,
    /// The vbucket, as it is from this entry on.
    pub vbucket: VBucketId,
    /// Its leader epoch.
    pub epoch: Epoch,
    /// The version of its ISR.
    pub isr_version: IsrVersion,
    /// Who leads.
    pub leader: Option<Member>,
    /// Who holds everything committed.
    pub isr: Vec<Member>,
    /// Who left the ISR below `min_isr`, and hence holds everything committed too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eligible: Vec<Member>,
    /// Copies below which nothing is committed.
    pub min_isr: u8,
    /// Its history.
    pub lineage: Lineage,
}

/// A replica took messages into its log: the offsets `[from, to)`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Append {
    /// The cluster.
    pub cluster: String,
    /// Whose log.
    pub member: Member,
    /// The vbucket.
    pub vbucket: VBucketId,
    /// Its history.
    pub lineage: Lineage,
    /// The epoch in which the messages were first stored.
    pub epoch: Epoch,
    /// The first offset.
    pub from: Offset,
    /// The offset behind the last.
    pub to: Offset,
}

/// A replica learnt that everything below is committed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HwAdvance {
    /// The cluster.
    pub cluster: String,
    /// Whose log.
    pub member: Member,
    /// The vbucket.
    pub vbucket: VBucketId,
    /// Its history.
    pub lineage: Lineage,
    /// The first offset not committed.
    pub hw: Offset,
}

/// A replica took the offsets `[from, to)` back out of its log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truncate {
    /// The cluster.
    pub cluster: String,
    /// Whose log.
    pub member: Member,
    /// The vbucket.
    pub vbucket: VBucketId,
    /// Its history.
    pub lineage: Lineage,
    /// The first offset taken back: the new end of the log.
    pub from: Offset,
    /// The old end of the log.
    pub to: Offset,
    /// Why.
    pub why: String,
}

/// A leader answered that a message is committed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AckSent {
    /// The cluster.
    pub cluster: String,
    /// Who answered.
    pub member: Member,
    /// The vbucket.
    pub vbucket: VBucketId,
    /// Its history.
    pub lineage: Lineage,
    /// The epoch in which it leads.
    pub epoch: Epoch,
    /// The message's offset.
    pub offset: Offset,
}

/// A replica took a role.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleChange {
    /// The cluster.
    pub cluster: String,
    /// Whose replica.
    pub member: Member,
    /// The vbucket.
    pub vbucket: VBucketId,
    /// In which epoch.
    pub epoch: Epoch,
    /// Which role.
    pub role: Role,
}

/// What a replica is for its vbucket.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It gives offsets and commits.
    Leader,
    /// It extends its log by its leader's.
    Follower,
    /// It copies, outside the ISR.
    Learner,
    /// Nobody leads.
    Idle,
    /// It holds no copy any more. Should it hold one again, that begins anew.
    Absent,
}

/// A hash over everything in a log up to an offset: two replicas that agree there agree everywhere below.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainHash {
    /// The cluster.
    pub cluster: String,
    /// Whose log.
    pub member: Member,
    /// The vbucket.
    pub vbucket: VBucketId,
    /// Its history.
    pub lineage: Lineage,
    /// The last offset that is in it, committed.
    pub offset: Offset,
    /// The hash.
    pub hash: Hash64,
}
