//! What a node promises, tried with the Rust client over real sockets.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail")]

mod control;
mod credit;
mod dedup;
mod interest;
mod order;
mod restart;
mod resume;
mod slow;
mod stop;
