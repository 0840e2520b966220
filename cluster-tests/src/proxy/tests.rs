//! The proxy over real sockets, with a stand-in for a node behind it.

mod faults;
mod links;
mod stand;
