//! Tests of whole nodes over real sockets: the tests themselves are in `tests/`, what they share is here.

#![deny(missing_docs)]
