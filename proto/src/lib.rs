//! Wire types of broky: what crosses a socket, and the words everything else is written in.
//!
//! [`v1`] holds the generated messages of the client protocol, [`id`] the ids, positions and sizes every crate uses,
//! [`wire`] reads and extends encoded messages in place, [`frame`] does gRPC's length-prefixed framing, and [`error`]
//! the stable error codes. [`peer`] is how one node greets another, [`replicate`], [`forward`] and [`relay`] what they
//! send one another. This crate is the leaf of the workspace: it knows no clock, socket or thread.

pub mod error;
pub mod forward;
pub mod frame;
pub mod id;
pub mod limits;
pub mod peer;
pub mod relay;
pub mod replicate;
pub mod resume;
pub mod time;
pub mod wire;

/// Generated messages of package `broky.v1`.
#[expect(missing_docs, reason = "generated; the comments are in the .proto file")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/broky.v1.rs"));
}

/// Generated messages of package `broky.data.v1`: what nodes say to one another about messages.
#[expect(missing_docs, reason = "generated; the comments are in the .proto file")]
pub mod data_v1 {
    include!(concat!(env!("OUT_DIR"), "/broky.data.v1.rs"));
}

/// Generated messages and service of package `broky.peer.v1`: what nodes say to one another about the cluster.
#[cfg(feature = "peer")]
#[expect(
    missing_docs,
    clippy::allow_attributes_without_reason,
    clippy::allow_attributes,
    reason = "generated; the comments are in the .proto file"
)]
pub mod peer_v1 {
    include!(concat!(env!("OUT_DIR"), "/broky.peer.v1.rs"));
}

/// The encoded `FileDescriptorSet` of package `broky.v1`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
