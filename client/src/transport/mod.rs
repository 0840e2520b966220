//! HTTP/2 connections and gRPC calls on them, straight over hyper.
//!
//! A gRPC stack decodes every message and copies every body. Here a request body is a run of `Bytes` that already carry
//! gRPC's prefix ([`RequestBody`]), and a response body is cut into messages in place ([`Responses`]), so a batch and a
//! delivery cross this layer without a copy.
//!
//! Facts the code relies on, from the sources of hyper 1.12 and h2 0.4.20:
//! - hyper polls a request body whenever the last chunk has been accepted, and holds at most one chunk while the stream
//!   has no send capacity; a chunk is handed to h2 whole and sent as the windows allow.
//! - h2 sends a chunk as DATA frames of at most the *peer's* `SETTINGS_MAX_FRAME_SIZE`, and gives received frames out
//!   one by one: the frame size we announce decides whether a delivery arrives in one piece.
//! - Reading a chunk of a response body gives its flow-control window back at once. What is not read stays in the
//!   windows, so a reader that stops reading stops the sender.
//! - All streams of one connection share one connection window. It is sized to hold what all of them may receive, so
//!   that a stream nobody reads cannot starve its neighbours.

mod addresses;
mod body;
mod call;
mod connection;
mod pool;
mod probe;
mod status;

pub(crate) use body::{Outgoing, RequestBody};
pub(crate) use call::{Method, Responses};
pub use connection::{Attempt, ConnectError};
pub(crate) use connection::{Connection, Lease, Settings};
pub(crate) use pool::{Dialing, Pool};
pub(crate) use probe::ask_topology;
pub use status::CallError;
