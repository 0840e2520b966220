//! A node's shards against a model that keeps every stored message.
//!
//! The model ([`log`]) knows, for each vbucket, what was stored at each offset. Each reader ([`reader`]) stands at one
//! offset per vbucket and may only move up: over a message it was sent, over a gap it was told, or over messages it did
//! not ask for. Whatever moves it any other way is a loss or a repetition and fails at once. The world ([`world`])
//! wires shards, readers and pushes together as a node does, and [`steps`] makes it do random things.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may fail")]

mod cluster;
mod log;
mod memory;
mod model;
mod outcomes;
mod reader;
mod steps;
mod world;
