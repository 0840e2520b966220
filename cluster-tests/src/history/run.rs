//! What a run is: the head of its history.

use serde::{Deserialize, Serialize};

/// The head of a run's history: what was planned, and what may hence be expected. Exactly one per run.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Names the run; every file of it names the same.
    pub run: String,
    /// What was done.
    pub scenario: String,
    /// What chance was drawn from.
    pub seed: u64,
    /// How it was done, for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub options: String,
    /// Vbuckets of its clusters: a power of two. They decide where a key_partition belongs.
    pub vbuckets: u32,
    /// Copies of each vbucket, if the nodes suffice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u8>,
    /// The kinds of faults that were planned: each has to be installed at least once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    /// What may and what must happen. What is not named here is not expected.
    #[serde(default)]
    pub expect: Expectations,
    /// Pushes that have to be acknowledged between the first fault and the last, lest the run shows nothing.
    #[serde(default = "min_acked_default")]
    pub min_acked_during_faults: u64,
}

fn min_acked_default() -> u64 {
    1_000
}

/// What may and what must happen in a run.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expectations {
    /// Some vbucket must change its leader: the faults are aimed at leaders.
    pub leader_change: bool,
    /// Every copy of something may be lost: a change of lineage or cluster that readers are told of is no violation,
    /// even where nothing in the history proves that every holder was dead.
    pub total_loss: bool,
    /// Messages may leave the memory before everybody has read them. Otherwise one that is gone is lost, also below the
    /// start of the log.
    pub evictions: bool,
}

/// The first record of every file but the one with the [`Run`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileHead {
    /// The run that the file belongs to.
    pub run: String,
    /// The process that wrote it.
    pub process: String,
}
