//! HTTP/1.1 by hand: whatever bytes, and the answer taken apart.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::wait::in_time;

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The status: 200.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Asks for a path and reads until the server closes.
///
/// # Panics
/// When there is no such answer.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).await
}

/// Sends bytes and reads until the server closes.
///
/// # Panics
/// When the answer is not HTTP.
pub async fn send(address: SocketAddr, bytes: &[u8]) -> Answer {
    let answer = exchange(address, bytes).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not HTTP: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status in {head:?}"));
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// Sends bytes and gives all that comes back until the server closes. A reset ends it as well.
///
/// # Panics
/// When the server neither answers nor closes.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server may answer, and close, before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = in_time("the server closes", stream.read_to_end(&mut answer)).await;
    answer
}
