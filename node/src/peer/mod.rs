//! Connections between nodes: who is there is settled first, by a hello of fixed size, and then HTTP/2 begins.
//!
//! One listener takes the connections of both planes. Those of the control plane are served where they are accepted, on
//! the control thread; those of the data plane are handed on with what they said of themselves.

mod carry;
mod dial;
mod listener;

pub(crate) use dial::{DialError, Ending, Link, dial, dial_through, greet};
pub(crate) use listener::{DataConnection, Gate, PeerStats, accept_peers};
