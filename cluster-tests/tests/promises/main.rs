//! What a node promises, tried with the Rust client over real sockets.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "metrics are floats that hold counts")]
#![expect(clippy::type_complexity, reason = "tables of cases")]

mod control;
mod credit;
mod dedup;
mod forwarding;
mod interest;
mod order;
mod restart;
mod resume;
mod slow;
mod stop;
