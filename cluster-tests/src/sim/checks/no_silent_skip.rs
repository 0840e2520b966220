//! I6, no silent skip: what a reader passes over without a gap is nothing that it wanted.
//!
//! That a reader of everything goes from offset to offset is seen at once. One that wants a part is told how far it has
//! come, and what it has passed is looked into at the end, when all is known that stood there.

use super::offsets::Offsets;
use super::{Broken, Sight};

/// What was passed: by whom, from where, to before where.
#[derive(Default)]
pub(super) struct NoSilentSkip(Vec<(Sight, u64, u64)>);

impl NoSilentSkip {
    pub(super) fn note(&mut self, sight: Sight, from: u64, to: u64) {
        if from >= to {
            return;
        }
        match self.0.last_mut() {
            Some((last, _, end)) if *last == sight && *end == from => *end = to,
            _ => self.0.push((sight, from, to)),
        }
    }

    pub(super) fn finish(&self, offsets: &Offsets) -> Result<(), Broken> {
        for (sight, from, to) in &self.0 {
            if let Some(offset) = offsets.find(*sight, *from, *to) {
                let (reader, vbucket) = (sight.reader, sight.vbucket);
                let words = format!("reader {reader} passed over offset {offset} of vbucket {vbucket} without a gap");
                return Err(("no silent skip", words));
            }
        }
        Ok(())
    }
}
