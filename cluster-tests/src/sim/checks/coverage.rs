//! I14, coverage: a run in which nothing happened proves nothing.

use std::fmt;

/// How often things have happened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Coverage {
    /// Messages that were to be pushed.
    pub pushed: u64,
    /// Messages acknowledged.
    pub acked: u64,
    /// Messages given up that were never stored.
    pub rejected: u64,
    /// Messages given up of which nobody knows.
    pub unknown: u64,
    /// Messages that readers were shown.
    pub shown: u64,
    /// Changes of leaders.
    pub elections: u64,
    /// Histories that were lost with everybody who held them.
    pub lineages: u64,
    /// Processes that died.
    pub deaths: u64,
    /// Faults of any kind.
    pub faults: u64,
    /// Frames relayed between nodes.
    pub relayed: u64,
    /// Histories fetched from other nodes.
    pub histories: u64,
    /// Gaps told.
    pub gaps: u64,
    /// Offsets that readers were told they miss.
    pub missed: u64,
}

impl Coverage {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.pushed, other.pushed),
            (&mut self.acked, other.acked),
            (&mut self.rejected, other.rejected),
            (&mut self.unknown, other.unknown),
            (&mut self.shown, other.shown),
            (&mut self.elections, other.elections),
            (&mut self.lineages, other.lineages),
            (&mut self.deaths, other.deaths),
            (&mut self.faults, other.faults),
            (&mut self.relayed, other.relayed),
            (&mut self.histories, other.histories),
            (&mut self.gaps, other.gaps),
        ];
        pairs.into_iter().for_each(|(sum, more)| *sum += more);
        // A history that was lost leaves a gap as wide as a stretch of offsets.
        self.missed = self.missed.saturating_add(other.missed);
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pushed, acked, rejected, unknown, shown, elections, lineages, deaths, faults, .. } = self;
        let Self { relayed, histories, gaps, .. } = self;
        write!(f, "{pushed} messages pushed, {acked} acked, {rejected} rejected, {unknown} unknown; {shown} shown, ")?;
        write!(f, "{relayed} frames relayed, {histories} histories fetched, {gaps} gaps; ")?;
        write!(f, "{faults} faults, {deaths} deaths, {elections} elections, {lineages} lineages lost")
    }
}
