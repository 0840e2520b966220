//! What was not committed and has to come again before anything behind it.
//!
//! A message that was not committed leaves a *hole* in what its producer pushes into its vbucket: what comes behind is
//! refused until that message is there again, or is said to be settled. What had come in between and is still on its
//! way when it is there again is refused by a *fence*.

use std::collections::hash_map::Entry;

use broky_proto::id::{ProducerId, Sequence, VBucketId};
use broky_replication::Hole;
use rustc_hash::FxHashMap;

/// Producers and vbuckets remembered of which something is held.
const HELD_MAX: usize = 1 << 16;

/// Whose messages into which vbucket.
pub(crate) type Track = (ProducerId, VBucketId);

/// See the module.
#[derive(Default, Debug)]
pub(crate) struct Holes(FxHashMap<Track, Held>);

/// What a producer must not push into a vbucket.
#[derive(Clone, Default, Debug)]
struct Held {
    /// What was not committed and has not come again.
    hole: Option<Hole>,
    /// It has come again, by this arrival: nothing beyond of what came before that.
    fence: Option<(Sequence, u64)>,
}

impl Held {
    /// A message is on its way again, or committed.
    fn pass(&mut self, sequence: Sequence, arrival: u64) {
        if let Some(hole) = self.hole.take_if(|hole| hole.first().is_some_and(|first| first <= sequence)) {
            self.hole = hole.behind(sequence);
            let (fenced, until) = self.fence.unwrap_or((sequence, arrival));
            self.fence = Some((fenced.min(sequence), until.max(arrival)));
        }
    }

    /// Whether a message may go on.
    fn admits(&mut self, sequence: Sequence, arrival: u64) -> bool {
        if self.hole.as_ref().is_some_and(|hole| !hole.admits(sequence)) {
            return false;
        }
        self.pass(sequence, arrival);
        !self.fence.is_some_and(|(fenced, until)| arrival < until && fenced < sequence)
    }
}

impl Holes {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A message was not committed, and may come again.
    pub(crate) fn add(&mut self, track: Track, sequence: Sequence) {
        if self.0.len() >= HELD_MAX {
            // Whoever has left so many has gone long since.
            self.0.clear();
        }
        let held = self.0.entry(track).or_default();
        held.hole.get_or_insert_with(|| Hole::new(sequence)).add(sequence);
    }

    /// Whether a message may go on; it is on its way with that. Requests are numbered as they come: `arrival`.
    pub(crate) fn admit(&mut self, track: Track, sequence: Sequence, arrival: u64) -> bool {
        self.0.get_mut(&track).is_none_or(|held| held.admits(sequence, arrival))
    }

    /// Nothing below this comes again of a producer and vbucket: nobody waits for it.
    pub(crate) fn settle_below(&mut self, track: Track, below: Sequence) {
        if let Entry::Occupied(mut held) = self.0.entry(track) {
            let left = held.get_mut().hole.take().and_then(|hole| hole.settled(below));
            held.get_mut().hole = left;
            if held.get().hole.is_none() && held.get().fence.is_none() {
                held.remove();
            }
        }
    }

    /// Nothing is on its way any more.
    pub(crate) fn drop_fences(&mut self) {
        self.0.retain(|_, held| held.hole.is_some());
    }

    /// A message is committed.
    pub(crate) fn pass(&mut self, track: Track, sequence: Sequence, arrival: u64) {
        if let Some(held) = self.0.get_mut(&track) {
            held.pass(sequence, arrival);
        }
    }
}
