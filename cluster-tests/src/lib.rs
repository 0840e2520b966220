//! Tests of whole nodes over real sockets: the tests themselves are in `tests/`, what they share is here.
//!
//! A node runs in the test's process on free ports ([`node`]) and is looked at through its own metrics ([`metrics`],
//! [`http`]). Well-behaved clients are `broky_client`'s; whoever has to misbehave does so over HTTP/2 by hand
//! ([`grpc`]) with bytes put together by hand ([`wire`]). [`relay`] stands between a client and a node that breaks or
//! is replaced, and [`ledger`] decides whether what a subscriber got is what was pushed. Nothing waits for a time:
//! [`wait`] waits for conditions.
//!
//! The `failover` binary measures real processes: [`supervisor`] starts, kills and pauses them, or containers in their
//! place, [`observer`] asks them for the cluster map, [`workload`] pushes and remembers what became of each message,
//! [`reader`] reads it back, [`spans`] and [`audit`] compare the two, and [`scenario`] puts these together and ends in
//! a [`verdict`]. Links between such processes can be broken by a [`proxy`] through which all of them pass.
//!
//! All of that needs the feature `processes`, which is on by default; what follows does not.
//!
//! The `sim` binary runs whole clusters in virtual time, one run per seed: [`sim`].
//!
//! The `check` binary judges what processes recorded of themselves: [`history`] is what they write, [`check`] decides
//! which invariants it keeps.

#![deny(missing_docs)]
#![cfg_attr(feature = "processes", expect(clippy::unwrap_used, reason = "for tests: a failure here fails the test"))]

pub mod check;
pub mod history;
pub mod sim;

mod percentile;

#[cfg(feature = "processes")]
pub mod audit;
#[cfg(feature = "processes")]
pub mod chaos;
#[cfg(feature = "processes")]
pub mod command;
#[cfg(feature = "processes")]
pub mod error;
#[cfg(feature = "processes")]
pub mod grpc;
#[cfg(feature = "processes")]
pub mod http;
#[cfg(feature = "processes")]
pub mod journal;
#[cfg(feature = "processes")]
pub mod ledger;
#[cfg(feature = "processes")]
pub mod metrics;
#[cfg(feature = "processes")]
pub mod node;
#[cfg(feature = "processes")]
pub mod observer;
#[cfg(feature = "processes")]
pub mod proxy;
#[cfg(feature = "processes")]
pub mod reader;
#[cfg(feature = "processes")]
pub mod relay;
#[cfg(feature = "processes")]
pub mod scenario;
#[cfg(feature = "processes")]
pub mod spans;
#[cfg(feature = "processes")]
pub mod supervisor;
#[cfg(feature = "processes")]
pub mod verdict;
#[cfg(feature = "processes")]
pub mod wait;
#[cfg(feature = "processes")]
pub mod wire;
#[cfg(feature = "processes")]
pub mod workload;

/// Makes a test of each function: with one worker thread, and with three, where shards have to work together.
#[macro_export]
macro_rules! with_one_and_three_workers {
    ($($claim:ident),* $(,)?) => {
        mod one_worker {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $claim() {
                super::$claim(1).await;
            })*
        }
        mod three_workers {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $claim() {
                super::$claim(3).await;
            })*
        }
    };
}
