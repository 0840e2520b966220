//! gRPC over hyper: the data path's own bodies, and tonic's services for health and reflection.
//!
//! `Push`, `PushStream`, `Subscribe` and `Topology` are served as raw HTTP bodies of framed messages, so that a pushed
//! batch is scanned where it was received and a delivery goes out as the very bytes of the block.

mod body;
mod push;
mod read;
mod routes;
mod service;
mod status;
mod subscribe;
mod topology;

pub(crate) use routes::{routes, set_not_serving};
pub(crate) use service::ClientService;
