//! One process of a node: started on a leash, signalled by its pid, and killed when it is dropped.
//!
//! A harness that is killed itself must leave no nodes behind. The kernel sees to that if a process asks for a signal at
//! its parent's death, which only the process itself can ask for: so the harness starts itself again ([`leash`]), and that
//! asks and then becomes the node, under the same pid.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

/// The first argument that makes the harness a leash.
const LEASH: &str = "--leash";
/// How often it is looked whether a process has ended.
const PERIOD: Duration = Duration::from_millis(2);

/// A running process.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `binary` with these arguments; what it says goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started. That `binary` is missing shows only as an early end.
    pub fn start(binary: &Path, arguments: &[String], log: File) -> io::Result<Self> {
        // Not by its name, under which there may be a newer harness by now.
        let mut command = Command::new("/proc/self/exe");
        command.arg(LEASH).arg(std::process::id().to_string()).arg(binary).args(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self { child: command.spawn()? })
    }

    /// Its pid.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; to a process that has ended, nothing.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // Until it is waited for, the pid is nobody else's.
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, as SIGTERM does, and waits for that. `None` when it takes longer than `limit`.
    pub async fn terminate(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            tokio::time::sleep(PERIOD).await;
        }
        None
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
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
