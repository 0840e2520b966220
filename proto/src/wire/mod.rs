//! Reading and extending encoded messages without decoding them.
//!
//! In protobuf a repeated field is a concatenation of tag, length and bytes. The broker scans each pushed message in
//! place ([`Fields::scan`]), copies the client's bytes once into a block and appends the broker-assigned fields behind
//! them ([`append_stored`]); the block then *is* the log, the replication payload and the body of a `Delivery`. Because
//! the last value of a field wins, what a client puts into a broker-assigned field is overridden.
//!
//! Whatever the scan accepts, a standard generated client in any language can decode: one publisher's bytes never make
//! another's subscriber fail. That is why known fields with a foreign wire type, groups, field numbers out of range and
//! non-UTF-8 header names are refused here. Unknown fields are carried as they are.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

mod message;
mod push;
mod reader;
mod stored;

pub use message::{Fields, Span};
pub use push::{Entry, Push, Rejected, scan_push};
pub use reader::WireError;
pub use stored::{Stored, append_stored, scan_delivery, stored_len, stored_len_max, stored_messages};
