//! Readers of a feed, one claim at a time. The random runs are in the tests of `broky-shard`.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail")]

mod claims;
mod feed;
mod relays;
