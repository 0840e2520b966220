//! Shards of several nodes, replicating in virtual time over links that stall, break and lose nodes.
//!
//! The control plane is the replicated state itself, applied at once and learnt of late ([`control`]). Frames pass
//! through the real codec ([`network`]). Producers ([`producers`]) push until each message is committed; readers
//! ([`readers`]) follow at random nodes. The [`ledger`] knows every message that was ever acknowledged or shown, and
//! fails as soon as two are at one offset, one is at two, or a reader misses any without having been told.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail")]

mod commits;
mod control;
mod ledger;
mod network;
mod producers;
mod readers;
mod relays;
mod rng;
mod steps;
mod world;
