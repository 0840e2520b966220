//! Why a measurement could not be made. What a measurement finds wrong is no error but a broken rule of its verdict.

use std::io;
use std::time::Duration;

use broky_client::{ConnectError, SubscribeError};
use thiserror::Error;

/// Why a measurement could not be made. The cluster it ran on is gone; begin again with a new one.
#[derive(Debug, Error)]
pub enum HarnessError {
    /// A process could not be started or reached, or a file not written. The words say what was tried.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        error: io::Error,
    },
    /// A state of the cluster was waited for and did not come.
    #[error("not within {limit:?}: {what}; last seen: {seen}")]
    Late {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: Duration,
        /// What there was instead.
        seen: String,
    },
    /// A node's process ended by itself. Its log says why.
    #[error("node {node} ended with {status}; its log is {log}")]
    Ended {
        /// Its name.
        node: String,
        /// The exit status.
        status: String,
        /// The log file.
        log: String,
    },
    /// A node answered something that cannot be understood.
    #[error("{asked}: {words}")]
    Answer {
        /// What was asked.
        asked: String,
        /// What is wrong with the answer.
        words: String,
    },
    /// The client could not connect.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A subscription could not be opened.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
}

impl HarnessError {
    /// Says what was tried when it failed.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }

    /// An answer that cannot be understood.
    pub(crate) fn answer(asked: impl Into<String>, words: impl std::fmt::Display) -> Self {
        Self::Answer { asked: asked.into(), words: words.to_string() }
    }
}
