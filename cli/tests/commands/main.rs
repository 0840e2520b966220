//! The `broky` command as a shell runs it: real processes, pipes, signals and exit codes.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail")]

mod blocked;
mod cluster;
mod demo;
mod elsewhere;
mod ends;
mod json;
mod leaving;
mod node;
mod pipes;
mod position;
mod process;
mod serve;
mod status;
mod unreachable;
