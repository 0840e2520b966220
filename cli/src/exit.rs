//! Exit codes that mean something, as in sysexits.h.

use std::io;
use std::process::ExitCode;

/// Something was refused or lost, or a command failed in a way that has no code of its own.
pub(crate) const FAILED: u8 = 1;
/// A file given cannot be read.
pub(crate) const NO_INPUT: u8 = 66;
/// No node has this name.
pub(crate) const NO_NODE: u8 = 68;
/// No server answers.
pub(crate) const UNAVAILABLE: u8 = 69;
/// Reading or writing failed.
pub(crate) const IO_ERROR: u8 = 74;
/// It takes longer than was allowed. It may be done later.
pub(crate) const NOT_IN_TIME: u8 = 75;
/// The cluster does not take this node, or not any more: replaced, forgotten, refused.
pub(crate) const NOT_PERMITTED: u8 = 77;
/// The settings cannot work on this machine: a port taken, memory too small, an unsafe address.
pub(crate) const CONFIG: u8 = 78;
/// Ended by SIGINT, as a shell reports it.
pub(crate) const INTERRUPTED: u8 = 130;
/// Whoever read the output has gone, as a shell reports it.
pub(crate) const PIPE_CLOSED: u8 = 141;

/// An error with the exit code it leads to.
#[derive(Debug, thiserror::Error)]
#[error("{error:#}")]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) error: anyhow::Error,
}

/// Gives an error its exit code.
pub(crate) trait OrExit<T> {
    fn or_exit(self, code: u8) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, code: u8) -> anyhow::Result<T> {
        self.map_err(|error| Failure { code, error: error.into() }.into())
    }
}

/// An error of this code and these words.
pub(crate) fn fail(code: u8, words: impl std::fmt::Display) -> anyhow::Error {
    Failure { code, error: anyhow::anyhow!("{words}") }.into()
}

/// Says what went wrong, on stderr, and with which code to end.
pub(crate) fn code_of(outcome: anyhow::Result<()>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    if is_broken_pipe(&error) {
        return ExitCode::from(PIPE_CLOSED);
    }
    let code = error.downcast_ref::<Failure>().map_or(FAILED, |failure| failure.code);
    if !matches!(code, INTERRUPTED | PIPE_CLOSED) {
        eprintln!("broky: {error:#}");
    }
    ExitCode::from(code)
}

/// Whether stdout broke. A broken connection to a server is another matter.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let inner = match error.downcast_ref::<Failure>() {
        Some(failure) if failure.code == IO_ERROR => &failure.error,
        Some(_) => return false,
        None => error,
    };
    let mut causes = inner.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
