//! The history checker is checked: by histories with one fault each, which it has to name; by clean ones, in which it
//! has to find nothing; and by clean ones changed in one place.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail")]

mod files;
mod fixtures;
mod properties;
mod unusable;
