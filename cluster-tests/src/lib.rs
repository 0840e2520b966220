//! Tests of whole nodes over real sockets: the tests themselves are in `tests/`, what they share is here.
//!
//! A node runs in the test's process on free ports ([`node`]) and is looked at through its own metrics ([`metrics`],
//! [`http`]). Well-behaved clients are `broky_client`'s; whoever has to misbehave does so over HTTP/2 by hand ([`grpc`])
//! with bytes put together by hand ([`wire`]). [`relay`] stands between a client and a node that breaks or is replaced,
//! and [`ledger`] decides whether what a subscriber got is what was pushed. Nothing waits for a time: [`wait`] waits for
//! conditions.
//!
//! The `failover` binary measures real processes: [`supervisor`] starts, kills and pauses them, [`observer`] asks them for
//! the cluster map, [`workload`] pushes and remembers what became of each message, [`reader`] reads it back, [`spans`] and
//! [`audit`] compare the two, and [`scenario`] puts these together and ends in a [`verdict`]. Links between such processes
//! can be broken by a [`proxy`] through which all of them pass.
//!
//! The `sim` binary runs whole clusters in virtual time, one run per seed: [`sim`].
//!
//! The `check` binary judges what processes recorded of themselves: [`history`] is what they write, [`check`] decides which
//! invariants it keeps.

#![deny(missing_docs)]
#![expect(clippy::unwrap_used, reason = "for tests: a failure here fails the test")]

pub mod audit;
pub mod chaos;
pub mod check;
pub mod error;
pub mod grpc;
pub mod history;
pub mod http;
pub mod journal;
pub mod ledger;
pub mod metrics;
pub mod node;
pub mod observer;
pub mod proxy;
pub mod reader;
pub mod relay;
pub mod scenario;
pub mod sim;
pub mod spans;
pub mod supervisor;
pub mod verdict;
pub mod wait;
pub mod wire;
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
