//! The chaos harness: real processes under load, hurt on purpose, and judged by the history of what everybody saw.
//!
//! A run: a cluster of `broky serve` processes, every link of which passes through the fault proxy ([`crate::proxy`]);
//! producers with unique messages; subscribers of everything, of a part, and slow ones; then a scenario's faults; then
//! everything is made whole, the cluster comes to rest, and at every node somebody reads all that there is from the
//! oldest message on. What all of them did and saw is written down ([`crate::history`]), as is what the control log
//! decided, by each node ([`broky_node::AuditRecord`]), and the checker ([`crate::check`]) judges that. A scenario may
//! add rules of its own.
//!
//! **To add a scenario**, write a file in [`scenarios`] with a [`Scenario`] in it, and name it in [`SCENARIOS`]. What it can
//! do to a cluster is what [`Arena`] offers; each of these is written down as a fault, so that a run in which one never
//! happened is known to prove nothing.
//!
//! Some scenarios can be done to the containers of `docker-compose.yml` as well ([`FOR_CONTAINERS`]), on the network
//! that Docker gives them: there a node is killed, paused and cut off as a whole. All else is the same.
//!
//! The numbers of the scenarios are those of the project's ranked list.

mod arena;
mod audits;
mod crowd;
mod disk;
mod judge;
mod nemesis;
mod network;
mod outcome;
pub mod scenarios;
mod setup;
mod subscriber;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

pub use self::arena::Arena;
pub use self::disk::Damage;
pub use self::outcome::Outcome;
pub use self::scenarios::{FOR_CONTAINERS, SCENARIOS};
pub use self::setup::Setup;
use crate::error::HarnessError;
use crate::supervisor::Host;

/// A scenario's faults, under way.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<(), HarnessError>> + 'a>>;

/// What is done to a cluster, and what may come of it.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// Its number in the ranked list.
    pub rank: u8,
    /// What it does, and demands beyond what always holds.
    pub about: &'static str,
    /// The cluster and the load, and what may be expected.
    pub setup: fn(&mut Setup),
    /// Does its faults until [`Arena::goes_on`] says no.
    pub run: for<'a> fn(&'a mut Arena) -> Running<'a>,
}

/// Under which conditions scenarios are run.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// What runs the nodes.
    pub host: Host,
    /// Where logs, data and histories go.
    pub directory: PathBuf,
    /// How long faults are done.
    pub faults_for: Duration,
    /// What chance is drawn from.
    pub seed: u64,
    /// Whether it is judged how long something took. If not, that is told only: for machines that others use too.
    pub is_timed: bool,
}

/// Runs a scenario and judges it.
///
/// # Errors
/// When it cannot be carried out. What it finds wrong is no error but in its outcome.
pub async fn run(scenario: &Scenario, conditions: &Conditions) -> Result<Outcome, HarnessError> {
    let mut setup = Setup::new(scenario, conditions);
    (scenario.setup)(&mut setup);
    let mut arena = Arena::open(setup).await?;
    (scenario.run)(&mut arena).await?;
    arena.heal().await?;
    let done = arena.close().await?;
    judge::judge(done)
}
