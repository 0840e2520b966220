//! One process of a container.
//!
//! It is no child of the harness, so the kernel is asked by a pidfd, which tells the end of this very process when it
//! comes; Docker says so a while later, or more if it is busy. What is done to it Docker does.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::super::runner::{Life, Order};
use super::engine::Engine;
use crate::error::HarnessError;

/// Time for a process to end after SIGKILL, on a busy machine, with a busy engine.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// Time for Docker to know of an end that the kernel knows of.
const NOTICED_LIMIT: Duration = Duration::from_secs(30);
/// How often Docker is asked.
const PERIOD: Duration = Duration::from_millis(20);
/// Added to a signal's number in exit codes.
const SIGNAL_BASE: i32 = 128;

/// See the module.
#[derive(Debug)]
pub(super) struct Container {
    engine: Engine,
    id: String,
    name: String,
    pid: u32,
    handle: OwnedFd,
}

impl Container {
    /// Starts a container, whose last process is gone; what it says goes to `log`.
    ///
    /// # Errors
    /// When it does not start, or has ended already, or runs on another machine.
    pub(super) fn start(engine: &Engine, id: &str, name: &str, log: &Path) -> Result<Self, HarnessError> {
        // A container that Docker takes for running it does not start.
        exit_code(engine, id)?;
        engine.docker(&["start", id])?;
        let state = engine.inspect(id)?.state;
        let what = format!("find the process of {name} on this machine");
        let raw = i32::try_from(state.pid).ok().and_then(Pid::from_raw);
        let pid = raw.ok_or_else(|| HarnessError::answer(&*what, format!("it ended with {}", state.exit_code)))?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| HarnessError::io(what)(error.into()))?;
        follow(id, &state.started_at, log).map_err(HarnessError::io(format!("read the log of {name}")))?;
        Ok(Self { engine: engine.clone(), id: id.to_owned(), name: name.to_owned(), pid: state.pid, handle })
    }

    /// Whether it is gone, or goes within `limit`.
    fn is_gone(&self, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).ok();
        let mut handles = [PollFd::new(&self.handle, PollFlags::IN)];
        // Interrupted: not yet.
        poll(&mut handles, limit.as_ref()).is_ok_and(|count| count > 0)
    }
}

impl Life for Container {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn order(&mut self, order: Order) -> Result<(), HarnessError> {
        if self.is_gone(Duration::ZERO) {
            return Ok(());
        }
        match order {
            Order::Kill => {
                let (engine, id) = (self.engine.clone(), self.id.clone());
                // It waits for the end, and others may have to be killed meanwhile.
                std::thread::spawn(move || engine.docker(&["kill", &id]));
                Ok(())
            }
            Order::Terminate => self.engine.docker(&["kill", "--signal", "TERM", &self.id]).map(|_| ()),
            Order::Pause => self.engine.docker(&["pause", &self.id]).map(|_| ()),
            Order::Resume => self.engine.docker(&["unpause", &self.id]).map(|_| ()),
        }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        if !self.is_gone(Duration::ZERO) {
            return None;
        }
        let code = exit_code(&self.engine, &self.id).unwrap_or_default();
        Some(status_of(code))
    }

    fn wait(&mut self) -> Result<(), HarnessError> {
        let (begun, what) = (Instant::now(), format!("{} ends after docker kill", self.name));
        while begun.elapsed() < KILL_LIMIT {
            if self.is_gone(KILL_LIMIT.saturating_sub(begun.elapsed())) {
                return Ok(());
            }
        }
        Err(HarnessError::Late { what, limit: KILL_LIMIT, seen: format!("process {} lives", self.pid) })
    }
}

/// The exit code of a container's last process, once Docker knows that it is over. 0 if there was none.
fn exit_code(engine: &Engine, id: &str) -> Result<i32, HarnessError> {
    let begun = Instant::now();
    loop {
        let state = engine.inspect(id)?.state;
        if !state.running {
            return Ok(state.exit_code);
        }
        if begun.elapsed() > NOTICED_LIMIT {
            let (what, seen) = (format!("Docker knows of the end of {id}"), "it runs".to_owned());
            return Err(HarnessError::Late { what, limit: NOTICED_LIMIT, seen });
        }
        std::thread::sleep(PERIOD);
    }
}

/// From the exit code that Docker gives.
fn status_of(code: i32) -> ExitStatus {
    ExitStatus::from_raw(if code > SIGNAL_BASE { code - SIGNAL_BASE } else { code << 8 })
}

/// Copies what a container's process says to a file, until it ends.
fn follow(id: &str, since: &str, log: &Path) -> std::io::Result<()> {
    let file = File::create(log)?;
    let mut command = Command::new("docker");
    command.args(["logs", "--follow", "--since", since, id]).stdin(Stdio::null());
    let mut child = command.stdout(file.try_clone()?).stderr(file).spawn()?;
    std::thread::spawn(move || child.wait());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_above_128_is_a_signal() {
        assert_eq!((status_of(137).signal(), status_of(137).code()), (Some(9), None));
        assert_eq!((status_of(78).signal(), status_of(78).code()), (None, Some(78)));
        assert!(status_of(0).success());
    }
}
