//! What was done to processes, by whoever did it. This is the truth about who lives; gossip is not.

use serde::{Deserialize, Serialize};

use super::unit::Pid;

/// A node's process was started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spawn {
    /// The node's name.
    pub node: String,
    /// Its process.
    pub pid: Pid,
}

/// A process is gone, with all that it held in memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// The node's name.
    pub node: String,
    /// Its process.
    pub pid: Pid,
    /// The signal that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

/// A process was paused. It holds what it holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// The node's name.
    pub node: String,
    /// Its process.
    pub pid: Pid,
}

/// A paused process goes on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Continue {
    /// The node's name.
    pub node: String,
    /// Its process.
    pub pid: Pid,
}

/// The nemesis did something, or tried to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The kind, as the run's plan calls it.
    pub kind: String,
    /// Whom it is done to.
    pub target: String,
    /// Whether it begins or ends. What happens at once, such as a kill, only begins.
    pub phase: FaultPhase,
    /// What came of it.
    pub outcome: FaultOutcome,
}

/// Whether a fault begins or ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultPhase {
    /// It begins.
    Start,
    /// It ends.
    Stop,
}

/// What came of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultOutcome {
    /// It was done.
    Installed,
    /// It was not done.
    Skipped,
    /// It may have been done.
    Indeterminate,
}

/// Everything is whole again: no fault lasts, and no other follows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heal {}

/// The run is over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {}
