//! The seam between a node and how it is run.
//!
//! What a node is called, where it is reached, and how often it was started is the supervisor's. What depends on how it
//! is run is behind two traits: a [`Runner`] finds places for nodes, starts them, and breaks the network between them;
//! a [`Life`] is one process of a node, from its start to its end.
//!
//! A life is named by its pid, as the kernel of this machine counts, wherever it runs: so records of the harness name a
//! process once and for all. And it is over when the kernel says so, not when it was asked for.

use std::fmt::Debug;
use std::path::PathBuf;
use std::process::ExitStatus;

use super::node::{Place, SupervisedNode};
use crate::error::HarnessError;
use crate::proxy::Proxy;

/// Runs the nodes of a cluster.
pub(super) trait Runner: Debug + Send {
    /// Finds a place for the node of this index.
    fn place(&mut self, at: usize) -> Result<Place, HarnessError>;

    /// Starts a node that does not run.
    fn start(&mut self, at: usize, node: &SupervisedNode, files: &Files) -> Result<Box<dyn Life>, HarnessError>;

    /// A node's process is gone.
    fn note_gone(&mut self, at: usize);

    /// Cuts a node off from all others.
    fn isolate(&mut self, at: usize) -> Result<(), HarnessError>;

    /// Makes the network whole.
    fn mend(&mut self) -> Result<(), HarnessError>;

    /// What each link can be broken by, if that can be done.
    fn proxy(&self) -> Option<&Proxy>;
}

/// One process of a node.
pub(super) trait Life: Debug + Send {
    /// Its pid.
    fn pid(&self) -> u32;

    /// Has something done to it. [`Order::Pause`] and [`Order::Resume`] are done when this returns; for its end one has
    /// to wait. A process that has ended hears nothing.
    fn order(&mut self, order: Order) -> Result<(), HarnessError>;

    /// How it ended, if it has.
    fn ended(&mut self) -> Option<ExitStatus>;

    /// Waits until it is gone, after [`Order::Kill`].
    fn wait(&mut self) -> Result<(), HarnessError>;
}

/// What is done to a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// It ends at once.
    Kill,
    /// It is asked to end.
    Terminate,
    /// It stands still.
    Pause,
    /// It goes on.
    Resume,
}

/// Where a process writes.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// What it says.
    pub(super) log: PathBuf,
    /// What the control log decides. `None`: it is not to be noted.
    pub(super) audit: Option<PathBuf>,
}
