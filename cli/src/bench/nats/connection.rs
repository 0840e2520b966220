//! Connections to a nats-server: introducing oneself, and asking one question.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::parse::Parser;

/// The server's greeting and its answer to the first ping; an answer of its JetStream.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Headers off: the server then writes the shorter `MSG` and never looks for headers.
const CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":false,\"headers\":false,\
    \"lang\":\"rust\",\"name\":\"broky bench\",\"version\":\"1\",\"protocol\":1,\"echo\":true}\r\n";
/// Where answers are sent to. Used for one question at a time.
const INBOX: &str = "_INBOX.bench";

/// What a server says of itself when it is connected to.
#[derive(Debug)]
pub(super) struct Greeting {
    info: Value,
}

impl Greeting {
    fn parse(said: &str) -> Result<Self> {
        let info = said.strip_prefix("INFO ").and_then(|rest| rest.lines().next()).context("no greeting")?;
        Ok(Self { info: serde_json::from_str(info).context("nats-server's greeting")? })
    }

    pub(super) fn version(&self) -> &str {
        self.text("version").unwrap_or("of unknown version")
    }

    /// The name that JetStream calls it by.
    pub(super) fn server_name(&self) -> &str {
        self.text("server_name").unwrap_or_default()
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.info.get(field).and_then(Value::as_str)
    }
}

/// Connects, introduces itself, sends `more` and waits until the server has seen all of it.
///
/// # Errors
/// Nothing answers there, or not as a nats-server, or it refuses.
pub(super) async fn connect(address: &str, more: &[u8]) -> Result<(TcpStream, Greeting)> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    stream.write_all(&[CONNECT, more, b"PING\r\n"].concat()).await?;
    let mut said = Vec::new();
    while !said.ends_with(b"PONG\r\n") {
        read_more(&mut stream, &mut said).await.with_context(|| format!("nats-server at {address}"))?;
    }
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(said.starts_with("INFO "), "no nats-server at {address}");
    ensure!(!said.contains("-ERR"), "nats-server at {address} refuses: {said}");
    Ok((stream, Greeting::parse(&said)?))
}

/// Sends a question over a connection of its own and waits for the answer: for as long as it takes, as a server that
/// cannot answer says nothing.
///
/// # Errors
/// As for [`connect`], and when the answer is not JSON.
pub(super) async fn request(address: &str, subject: &str, question: &Value) -> Result<Value> {
    let body = if question.is_null() { String::new() } else { question.to_string() };
    let (mut stream, _) = connect(address, format!("SUB {INBOX} 0\r\n").as_bytes()).await?;
    let asked = format!("PUB {subject} {INBOX} {}\r\n{body}\r\n", body.len());
    stream.write_all(asked.as_bytes()).await?;
    let (mut said, mut answer) = (Vec::new(), None);
    while answer.is_none() {
        read_more(&mut stream, &mut said).await.with_context(|| format!("nats-server at {address}"))?;
        Parser::new(INBOX.len()).parse(&said, |_, payload| answer = Some(payload.to_vec()))?;
    }
    serde_json::from_slice(&answer.unwrap_or_default()).with_context(|| format!("the answer to {subject}"))
}

async fn read_more(stream: &mut TcpStream, into: &mut Vec<u8>) -> Result<()> {
    ensure!(into.len() < ANSWER_BYTES_MAX, "does not answer as one");
    let count = poll_fn(|cx| read_some(stream, cx, into)).await?;
    ensure!(count > 0, "hung up: {}", String::from_utf8_lossy(into));
    Ok(())
}

fn read_some(stream: &mut TcpStream, cx: &mut Context<'_>, into: &mut Vec<u8>) -> Poll<std::io::Result<usize>> {
    let mut chunk = [0; 4096];
    let mut read = ReadBuf::new(&mut chunk);
    ready!(Pin::new(stream).poll_read(cx, &mut read))?;
    into.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_names_the_server_and_its_version() {
        let said = "INFO {\"server_name\":\"n1\",\"version\":\"2.9.10\"} \r\nPONG\r\n";
        let greeting = Greeting::parse(said).unwrap();
        assert_eq!((greeting.server_name(), greeting.version()), ("n1", "2.9.10"));
        assert!(Greeting::parse("HTTP/1.1 400 Bad Request\r\n").is_err());
    }
}
