//! Clients that break the protocol, by ignorance or on purpose: each is told what is wrong, and nobody else notices.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail")]

mod admin;
mod batches;
mod calls;
mod floods;
mod frames;
mod framing;
mod messages;
mod opening;
mod resume;
mod silence;
mod victim;
