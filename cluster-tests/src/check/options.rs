//! By what bounds a history is judged, and what the judging may cost.

use std::path::PathBuf;
use std::time::Duration;

/// By what bounds a history is judged, and what the judging may cost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckOptions {
    /// An interruption of a vbucket's pushes that is longer is a violation. `None`, the default: they are reported
    /// only, since how long one may be depends on the fault.
    pub unavailable_max: Option<Duration>,
    /// Every vbucket has a living leader this long after the faults are over. Default 5 s.
    pub leaders_within: Duration,
    /// Every vbucket has all its copies in sync this long after the faults are over. Default 30 s; more where much has
    /// to be copied.
    pub copies_within: Duration,
    /// Readers have what was acknowledged this long after that, or after the faults are over. Default 30 s.
    pub caught_up_within: Duration,
    /// Findings of each kind that are told in full. Default 10.
    pub findings_max: usize,
    /// Compact records that are gathered in memory before they go to disk, over all partitions. Default 256 MiB. Less
    /// makes more and smaller writes.
    pub gathered_bytes_max: usize,
    /// Where they go. `None`, the default: the system's folder for temporary files.
    pub scratch: Option<PathBuf>,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            unavailable_max: None,
            leaders_within: Duration::from_secs(5),
            copies_within: Duration::from_secs(30),
            caught_up_within: Duration::from_secs(30),
            findings_max: 10,
            gathered_bytes_max: 256 << 20,
            scratch: None,
        }
    }
}
