//! Tests of gossip: the engine in virtual time on a lossy network, the wire format against damage, and real sockets.

mod convergence;
mod membership;
mod registry;
mod sim;
mod sockets;
mod suggestions;
mod wire;
