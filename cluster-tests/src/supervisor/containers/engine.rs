//! The Docker engine of this machine, and its docker-compose: found, and given commands.

use std::process::{Command, Stdio};

use thiserror::Error;

use super::inspect::Inspected;
use crate::error::HarnessError;

/// How docker-compose is called: the old one, or the plugin.
const COMPOSE: [&[&str]; 2] = [&["docker-compose"], &["docker", "compose"]];
/// How much of what a failed command says is told.
const WORDS_MAX: usize = 1_000;

/// An engine that answers.
#[derive(Clone, Debug)]
pub struct Engine {
    compose: &'static [&'static str],
}

/// Why there are no containers. Nothing was changed; try again where there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum NoEngine {
    /// `docker info` fails.
    #[error("no Docker engine here")]
    Docker,
    /// Neither docker-compose nor the plugin is there.
    #[error("no docker-compose here")]
    Compose,
}

impl Engine {
    /// The engine of this machine.
    ///
    /// # Errors
    /// When there is none.
    pub fn find() -> Result<Self, NoEngine> {
        if !succeeds(&["docker", "info"]) {
            return Err(NoEngine::Docker);
        }
        let compose = COMPOSE.into_iter().find(|words| succeeds(&[words, ["version"].as_slice()].concat()));
        compose.map(|compose| Self { compose }).ok_or(NoEngine::Compose)
    }

    /// What starts every command of docker-compose.
    pub(super) fn compose(&self) -> &'static [&'static str] {
        self.compose
    }

    /// A command of Docker's; gives what it says.
    ///
    /// # Errors
    /// When it fails.
    pub(super) fn docker(&self, arguments: &[&str]) -> Result<String, HarnessError> {
        run(Command::new("docker").args(arguments))
    }

    /// What Docker knows of a container.
    ///
    /// # Errors
    /// When there is no such container.
    pub(super) fn inspect(&self, id: &str) -> Result<Inspected, HarnessError> {
        Inspected::parse(&self.docker(&["inspect", "--type", "container", id])?)
    }
}

/// Runs a command to its end, and gives what it says.
pub(super) fn run(command: &mut Command) -> Result<String, HarnessError> {
    let words = || {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    };
    let what = words();
    let done = command.stdin(Stdio::null()).output().map_err(HarnessError::io(&*what))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    let skipped = said.chars().count().saturating_sub(WORDS_MAX);
    Err(HarnessError::answer(what, said.chars().skip(skipped).collect::<String>().trim()))
}

fn succeeds(words: &[&str]) -> bool {
    let Some((program, arguments)) = words.split_first() else { return false };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
