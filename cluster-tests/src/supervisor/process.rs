//! One process of a node: started on a leash, signalled by its pid, and killed when it is dropped.
//!
//! A harness that is killed itself must leave no nodes behind. The kernel sees to that if a process asks for a signal
//! at its parent's death, which only the process itself can ask for: so the harness starts itself again ([`leash`]),
//! and that asks and then becomes the node, under the same pid.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use super::runner::{Life, Order};
use crate::error::HarnessError;

/// The first argument that makes the harness a leash.
const LEASH: &str = "--leash";

/// A running process.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
}

impl Process {
    /// Starts `binary` with these arguments; what it says goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started. That `binary` is missing shows only as an early end.
    pub(super) fn start(binary: &Path, arguments: &[String], log: File) -> io::Result<Self> {
        // Not by its name, under which there may be a newer harness by now.
        let mut command = Command::new("/proc/self/exe");
        command.arg(LEASH).arg(std::process::id().to_string()).arg(binary).args(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self { child: command.spawn()? })
    }
}

impl Life for Process {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn order(&mut self, order: Order) -> Result<(), HarnessError> {
        let signal = match order {
            Order::Kill => Signal::KILL,
            Order::Terminate => Signal::TERM,
            Order::Pause => Signal::STOP,
            Order::Resume => Signal::CONT,
        };
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // Until it is waited for, the pid is nobody else's.
            let _ = kill_process(pid, signal);
        }
        Ok(())
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn wait(&mut self) -> Result<(), HarnessError> {
        self.child.wait().map(|_| ()).map_err(HarnessError::io("wait for the end of a process"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Becomes the node that the arguments name, if they ask for that; otherwise returns. To be called first in `main`.
///
/// # Errors
/// When it cannot become that.
pub fn leash() -> io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != LEASH) {
        return Ok(());
    }
    let parent = arguments.next().and_then(|parent| parent.to_str()?.parse().ok()).and_then(Pid::from_raw);
    let binary = arguments.next().unwrap_or_default();
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != parent {
        return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the harness is gone already"));
    }
    Err(Command::new(binary).args(arguments.collect::<Vec<OsString>>()).exec())
}
