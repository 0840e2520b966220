//! `broky bench`: measures a broker from outside, and nats-server by the same rule.
//!
//! The work is the same for every broker: publishers send numbered messages, every subscriber checks that each of them
//! arrives once and in order per publisher and key. Only the [`target`] differs: how a message is sent and how it is
//! read. Three modes: throughput (as fast as the slowest subscriber allows), one message in flight (latency of an idle
//! broker), open loop (latency at a fixed rate, measured from the *intended* send time, so a stall counts for every
//! message it delays and not for one).
//!
//! Publishers never run ahead of the slowest subscriber by more than a [`window`]. Without it a broker that drops what
//! a slow subscriber cannot take would be measured at losing messages.
//!
//! Generator threads each run a single-threaded runtime with their share of the connections ([`worker`]); [`drive`]
//! connects, warms up, takes the two samples that make the figures, drains and judges.
//!
//! Data goes to stdout, words to stderr. The exit code is non-zero when broky lost, repeated or reordered a message.

mod args;
mod broky;
mod check;
mod drive;
mod machine;
mod nats;
mod pace;
mod plan;
mod report;
mod run;
mod subject;
mod target;
mod units;
mod window;
mod worker;

pub(crate) use args::BenchArgs;

use anyhow::{Result, bail};

use self::drive::Outcome;
use self::plan::{Broker, Plan};

/// Runs the benchmark and prints its result. Blocks: it starts its own threads and runtimes.
///
/// # Errors
/// Bad arguments; the broker cannot be reached or ends a connection; no progress for the `--stall` time; messages lost,
/// repeated or out of order (from NATS, which may drop, losses are reported but are no error).
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    let plan = Plan::new(args)?;
    let machine = machine::Machine::probe();
    let outcome = match &plan.broker {
        Broker::Nats(address) => {
            let config = nats::Config::new(address, &plan);
            drive::drive(&plan, move || nats::Nats::new(config.clone()))?
        }
        Broker::JetStream(addresses) => {
            let config = nats::jetstream::Config::new(addresses, &plan);
            drive::drive(&plan, move || nats::jetstream::JetStream::new(config.clone()))?
        }
        Broker::Broky(addresses) => {
            let config = broky::Config::new(addresses, &plan);
            drive::drive(&plan, move || broky::Broky::new(config.clone()))?
        }
    };
    report::print(&plan, &machine, &outcome, args.json)?;
    judge(&plan, &outcome)
}

fn judge(plan: &Plan, outcome: &Outcome) -> Result<()> {
    if let Some(failure) = &outcome.failure {
        bail!("{failure}");
    }
    let losses = &outcome.losses;
    if losses.is_clean() || matches!(plan.broker, Broker::Nats(_)) {
        return Ok(());
    }
    bail!("{} lost, {} repeated, {} out of order", losses.lost, losses.duplicated, losses.reordered)
}
