//! A `broky` process: fed, listened to, signalled, and waited for with a deadline.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) use rustix::process::Signal;
use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process, waitid};

/// How long anything in these tests may take at the most.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);
/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(5);

/// Waits until `condition` gives something.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(PERIOD);
    }
}

/// The command without any of this environment's variables.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_broky"));
    command.args(args).env_clear();
    command
}

/// Runs the command with nothing to read, to its end.
pub(crate) fn run(args: &[&str]) -> Ended {
    let mut process = Process::start(&mut command(args));
    process.close_stdin();
    process.wait()
}

/// A running `broky`. Dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
    stderr: Arc<Mutex<String>>,
    listener: Option<JoinHandle<()>>,
}

/// How a process ended, and all it said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None` when a signal killed it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Process {
    /// Starts a command. Its three streams are pipes unless it says otherwise for stdin.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_reading(command, Stdio::piped())
    }

    /// As [`Process::start`], with something else for stdin.
    pub(crate) fn start_reading(command: &mut Command, stdin: Stdio) -> Self {
        let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let (said, pipe) = (stderr.clone(), child.stderr.take().unwrap());
        let listener = std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                *said.lock().unwrap() += &(line + "\n");
            }
        });
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().map(BufReader::new));
        Self { child, stdin, stdout, stderr, listener: Some(listener) }
    }

    /// What it has said on stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Writes to its stdin.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(bytes).unwrap();
        stdin.flush().unwrap();
    }

    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The next line it writes to stdout; empty when it writes no more.
    pub(crate) fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.as_mut().unwrap().read_line(&mut line).unwrap();
        line
    }

    /// As many bytes of its stdout.
    pub(crate) fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.stdout.as_mut().unwrap().read_exact(&mut read).unwrap();
        read
    }

    /// Bytes in the pipe of its stdout that were not read.
    pub(crate) fn unread_bytes(&self) -> u64 {
        rustix::io::ioctl_fionread(self.stdout.as_ref().unwrap().get_ref()).unwrap()
    }

    /// Closes our end of its stdout.
    pub(crate) fn close_stdout(&mut self) {
        self.stdout = None;
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops it, as with Ctrl-Z. Returns when it has stopped: until one of its threads has taken the signal, all go on.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        let this = || WaitId::Pid(Pid::from_child(&self.child));
        let has_stopped = || waitid(this(), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG).unwrap();
        until("it has stopped", has_stopped);
    }

    /// Reads what it writes until it ends.
    pub(crate) fn wait(mut self) -> Ended {
        let stdout = self.stdout.take().map(|mut stdout| {
            std::thread::spawn(move || {
                let mut all = Vec::new();
                stdout.read_to_end(&mut all).unwrap();
                all
            })
        });
        let status = until("the process ends", || self.child.try_wait().unwrap());
        let stdout = stdout.map(|reader| reader.join().unwrap()).unwrap_or_default();
        self.listener.take().unwrap().join().unwrap();
        Ended { code: status.code(), stdout, stderr: self.stderr() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("process {} of the failed test had said:\n{}", self.id(), self.stderr());
        }
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Fails unless it ended with this code; gives what it wrote.
    #[track_caller]
    pub(crate) fn with_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stderr: {}", self.stderr);
        self
    }
}
