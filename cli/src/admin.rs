//! Asking a node's admin HTTP.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, anyhow};

/// A decision waits for a majority; nothing takes longer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// More than any answer takes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
const NO_ADMIN: &str = "this is not the admin port of a node";

/// What a node answers.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Reads.
pub(crate) fn get(address: &str, path: &str) -> anyhow::Result<String> {
    get_within(address, path, TIMEOUT)
}

/// Reads, in as much time.
pub(crate) fn get_within(address: &str, path: &str, timeout: Duration) -> anyhow::Result<String> {
    let answer = ask(address, "GET", path, timeout)?;
    anyhow::ensure!(answer.status == 200, "status {}: {}", answer.status, answer.body.trim());
    Ok(answer.body)
}

/// Asks whether, and takes whatever comes.
pub(crate) fn probe(address: &str, path: &str) -> anyhow::Result<Answer> {
    ask(address, "GET", path, TIMEOUT)
}

/// Has something decided.
pub(crate) fn post(address: &str, path: &str) -> anyhow::Result<Answer> {
    ask(address, "POST", path, TIMEOUT)
}

/// One HTTP/1.0 exchange: the connection's end is the body's.
fn ask(address: &str, method: &str, path: &str, timeout: Duration) -> anyhow::Result<Answer> {
    let mut stream = connect(address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).context(NO_ADMIN)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| anyhow!(NO_ADMIN))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| anyhow!(NO_ADMIN))?;
    Ok(Answer { status, body: body.to_owned() })
}

/// A connection to the first address of the host that takes one.
fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// A name as a part of a path.
pub(crate) fn encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
