//! A `broky serve` on free ports.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use crate::process::{Process, Signal, command, until};

/// The arguments of a `broky serve` with these flags, on free ports unless they name others.
pub(crate) fn serve_on_free_ports<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["serve"];
    for flag in ["--listen", "--peer-listen", "--admin-listen"] {
        if !flags.contains(&flag) {
            args.extend([flag, "127.0.0.1:0"]);
        }
    }
    args.extend(flags);
    args
}

/// A running node.
pub(crate) struct ServedNode {
    process: Process,
    pub(crate) address: String,
    pub(crate) admin: String,
}

impl ServedNode {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these flags added.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let mut process = Process::start(&mut command(&serve_on_free_ports(flags)));
        let started = until("the node starts", || {
            assert!(process.is_running(), "{}", process.stderr());
            process.stderr().lines().find(|line| line.contains("node started")).map(str::to_owned)
        });
        let field = |name: &str| {
            let value = started.split_whitespace().find_map(|word| word.strip_prefix(name)).unwrap();
            value.to_owned()
        };
        Self { address: field("clients="), admin: field("admin="), process }
    }

    /// A `broky` subcommand with this node as its server.
    pub(crate) fn run(&self, args: &[&str]) -> Process {
        Process::start(&mut self.command(args))
    }

    pub(crate) fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = command(args);
        command.args(["--server", &self.address]);
        command
    }

    /// A `broky sub` whose subscription stands.
    pub(crate) fn subscribe(&self, args: &[&str]) -> Process {
        let before = self.status()["subscriptions"].as_u64().unwrap();
        let mut all = vec!["sub"];
        all.extend(args);
        let mut process = self.run(&all);
        until("the subscription stands", || {
            assert!(process.is_running(), "{}", process.stderr());
            (self.status()["subscriptions"].as_u64().unwrap() > before).then_some(())
        });
        process
    }

    /// Pushes one message per line.
    pub(crate) fn push_lines(&self, key: &str, lines: &[u8]) {
        let mut push = self.run(&["push", key, "--quiet"]);
        push.write(lines);
        push.close_stdin();
        push.wait().with_code(0);
    }

    /// What the node says of itself.
    pub(crate) fn status(&self) -> Value {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream.write_all(b"GET /status HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// Ends it as an init system does.
    pub(crate) fn stop(self) {
        self.process.signal(Signal::TERM);
        self.process.wait().with_code(0);
    }

    pub(crate) fn into_process(self) -> Process {
        self.process
    }
}
