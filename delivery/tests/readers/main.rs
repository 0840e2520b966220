//! Readers of a feed, one claim at a time. The random runs are in the tests of `broky-shard`.

mod claims;
mod feed;
