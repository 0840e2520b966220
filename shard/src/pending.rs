//! Blocks that are sealed or received and not committed, in that order.
//!
//! A block is delivered when every vbucket in it is committed up to its end. All blocks of one replica set commit in
//! order, so looking at a block's first run is enough to pass over it. While ISRs differ within a set, the list is
//! *uneven*: then every run is looked at, and a block of which only a part is committed is divided, so that a vbucket
//! that waits for its followers holds up no other.

use std::collections::VecDeque;

use broky_delivery::{ArenaId, Run};
use broky_proto::id::{Offset, VBucketId};

use crate::block::{Part, entries_of, origins_of, part_of};
use crate::open_block::{Sealed, Waiter};

/// How much of a block is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    None,
    Part,
    Whole,
}

/// Blocks that wait to be committed.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    blocks: VecDeque<Sealed>,
    is_uneven: bool,
    /// Arenas of blocks that were divided: their bytes stand elsewhere now.
    gone: Vec<ArenaId>,
}

/// What is known of a vbucket's progress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Readers have everything below.
    pub(crate) readable: Offset,
    /// Everything below is committed.
    pub(crate) committed: Offset,
}

impl Pending {
    pub(crate) fn push(&mut self, sealed: Sealed) {
        self.blocks.push_back(sealed);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Arenas, once per block that is no longer in them.
    pub(crate) fn take_gone(&mut self) -> Vec<ArenaId> {
        std::mem::take(&mut self.gone)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sealed> {
        self.blocks.iter()
    }

    /// Who waits for the last block that holds messages of a vbucket.
    pub(crate) fn last_of(&mut self, vbucket: VBucketId) -> Option<&mut Vec<Waiter>> {
        let holds = |sealed: &&mut Sealed| sealed.block.runs.iter().any(|run| run.vbucket == vbucket);
        self.blocks.iter_mut().rev().find(holds).map(|sealed| &mut sealed.waiting)
    }

    /// Looks at every run from now on until nothing waits any more.
    pub(crate) fn note_uneven(&mut self) {
        self.is_uneven = !self.blocks.is_empty();
    }

    /// The next block, or part of one, that is committed and follows what readers have.
    pub(crate) fn next_committed(&mut self, progress: impl Fn(VBucketId) -> Progress) -> Option<Sealed> {
        let mut at = 0;
        while at < self.blocks.len() {
            match self.status(at, &progress) {
                Status::None => at += 1,
                Status::Whole => {
                    let sealed = self.blocks.remove(at);
                    self.is_uneven &= !self.blocks.is_empty();
                    return sealed;
                }
                Status::Part if !self.is_uneven => {
                    // An earlier block may hold back its part of a vbucket of this one: look again from the front.
                    self.is_uneven = true;
                    at = 0;
                }
                Status::Part => {
                    let sealed = self.blocks.remove(at)?;
                    self.gone.push(sealed.block.arena);
                    let (committed, rest) = divide(sealed, |vbucket, offset| offset < progress(vbucket).committed);
                    if let Some(rest) = rest {
                        self.blocks.insert(at, rest);
                    }
                    if committed.is_some() {
                        return committed;
                    }
                    at += 1;
                }
            }
        }
        None
    }

    fn status(&self, at: usize, progress: &impl Fn(VBucketId) -> Progress) -> Status {
        let Some(sealed) = self.blocks.get(at) else { return Status::None };
        let runs = &sealed.block.runs;
        let follows = |run: &Run| run.first <= progress(run.vbucket).readable;
        let is_whole = |run: &Run| follows(run) && run.end() <= progress(run.vbucket).committed;
        let has_part = |run: &Run| follows(run) && run.first < progress(run.vbucket).committed;
        match runs.first() {
            Some(first) if !self.is_uneven && !has_part(first) => Status::None,
            _ if runs.iter().all(is_whole) => Status::Whole,
            _ if runs.iter().any(has_part) => Status::Part,
            _ => Status::None,
        }
    }

    /// Takes out everything of a vbucket from `from` on. Who waits for it has been told.
    pub(crate) fn purge(&mut self, vbucket: VBucketId, from: Offset) {
        let is_cut = |run: &Run| run.vbucket == vbucket && run.end() > from;
        for at in (0..self.blocks.len()).rev() {
            let Some(sealed) = self.blocks.get_mut(at) else { continue };
            if !sealed.block.runs.iter().any(is_cut) {
                continue;
            }
            if let Some(sealed) = self.blocks.remove(at) {
                self.gone.push(sealed.block.arena);
                let (kept, _) = divide(sealed, |of, offset| of != vbucket || offset < from);
                if let Some(kept) = kept {
                    self.blocks.insert(at, kept);
                }
            }
        }
        self.note_uneven();
    }

    /// Every block that holds messages of a vbucket.
    pub(crate) fn holding(&mut self, vbucket: VBucketId) -> impl Iterator<Item = &mut Sealed> {
        self.blocks.iter_mut().filter(move |sealed| sealed.block.runs.iter().any(|run| run.vbucket == vbucket))
    }
}

/// Divides a block into what `takes` wants and the rest. Who waits for the block waits for the rest, if there is one.
fn divide(sealed: Sealed, takes: impl Fn(VBucketId, Offset) -> bool) -> (Option<Sealed>, Option<Sealed>) {
    let Sealed { block, entries: _, origins, waiting, sent } = sealed;
    let taken = part_of(&block, &takes);
    let rest = part_of(&block, |vbucket, offset| !takes(vbucket, offset));
    let sealed = |part: Part, waiting| Sealed {
        entries: entries_of(&part.block),
        origins: origins_of(&origins, &part.numbers),
        block: part.block,
        waiting,
        // Followers were sent the whole: they are told of the parts by high watermark.
        sent: Vec::new(),
    };
    match rest {
        None => (taken.map(|part| Sealed { sent, ..sealed(part, waiting) }), None),
        Some(rest) => (taken.map(|part| sealed(part, Vec::new())), Some(sealed(rest, waiting))),
    }
}
