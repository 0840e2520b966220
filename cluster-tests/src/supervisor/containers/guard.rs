//! Removes what was made, however its maker ends.
//!
//! A process waits for the end of a pipe, of which nobody but the harness has the other end, and then runs a command.
//! The kernel closes the pipe with the harness, also if that is killed or panics; a Ctrl-C does not reach the process,
//! which is not of the terminal's group.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::error::HarnessError;

/// Waits until nothing more can come, and becomes the command.
const SCRIPT: &str = r#"cat >/dev/null; exec "$@""#;

/// See the module. Dropping it runs the command, and waits for its end.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
    log: PathBuf,
}

impl Guard {
    /// Has this command run in the end. What it says goes to `log`.
    ///
    /// # Errors
    /// When that cannot be arranged.
    pub(super) fn set(last: &Command, log: &Path) -> Result<Self, HarnessError> {
        let failed = || HarnessError::io("set up who removes the containers");
        let file = File::create(log).map_err(failed())?;
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "guard"]).arg(last.get_program()).args(last.get_args());
        last.get_envs().for_each(|(key, value)| {
            command.env(key, value.unwrap_or_default());
        });
        command.process_group(0).stdin(Stdio::piped()).stdout(file.try_clone().map_err(failed())?).stderr(file);
        Ok(Self { child: command.spawn().map_err(failed())?, log: log.to_owned() })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        if !self.child.wait().is_ok_and(|status| status.success()) {
            eprintln!("the containers may not have been removed: {}", self.log.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_runs_when_the_guard_is_dropped_and_not_before() {
        let folder = std::env::temp_dir().join(format!("broky-guard-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let made = folder.join("made");
        let mut last = Command::new("touch");
        last.arg(&made).env("BROKY_GUARD", "1");
        let guard = Guard::set(&last, &folder.join("log")).unwrap();
        assert!(!made.exists());
        drop(guard);
        assert!(made.exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
