//! The first bytes of a connection: is it HTTP/2 at all?
//!
//! Somebody who points a browser or an HTTP/1.1 client at the port is told so in words it can read, instead of seeing
//! the connection break. Whoever sends nothing is dropped after a while.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

/// Time a client has to begin.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
/// What every HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HTTP1_ANSWER: &str = "HTTP/1.1 505 HTTP Version Not Supported\r\n\
    content-type: text/plain\r\ncontent-length: 96\r\nconnection: close\r\n\r\n\
    This port speaks gRPC (HTTP/2 without TLS). Metrics and status are on the admin port over HTTP.\n";

/// What a connection turned out to be.
#[derive(Debug)]
pub(crate) enum Sniffed {
    /// HTTP/2, with what was read of it given back.
    Http2(Replayed),
    /// Something else; it has been answered where that is possible.
    Other,
    /// It sent nothing, or went away.
    Silent,
}

/// Reads the preface of a connection.
pub(crate) async fn sniff(mut stream: TcpStream) -> Sniffed {
    let mut read = Vec::with_capacity(PREFACE.len());
    let outcome = tokio::time::timeout(PREFACE_TIMEOUT, read_preface(&mut stream, &mut read)).await;
    match outcome {
        Ok(Ok(true)) => Sniffed::Http2(Replayed { stream, read, at: 0 }),
        Ok(Ok(false)) => {
            if looks_like_http1(&read) {
                // It is told why; whether it listens is its own affair.
                let _ = tokio::time::timeout(PREFACE_TIMEOUT, stream.write_all(HTTP1_ANSWER.as_bytes())).await;
            }
            Sniffed::Other
        }
        Ok(Err(_)) | Err(_) => Sniffed::Silent,
    }
}

async fn read_preface(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<bool> {
    while read.len() < PREFACE.len() {
        let mut limited = (&mut *stream).take((PREFACE.len() - read.len()) as u64);
        if limited.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !PREFACE.starts_with(read) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn looks_like_http1(read: &[u8]) -> bool {
    read.first().is_some_and(u8::is_ascii_uppercase)
}

/// A connection whose first bytes have been read and are read again.
#[derive(Debug)]
pub(crate) struct Replayed {
    stream: TcpStream,
    read: Vec<u8>,
    at: usize,
}

impl AsyncRead for Replayed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let at = self.at;
        match self.read.get(at..) {
            Some(left) if !left.is_empty() => {
                let count = left.len().min(out.remaining());
                out.put_slice(left.get(..count).unwrap_or_default());
                self.at += count;
                Poll::Ready(Ok(()))
            }
            Some(_) | None => {
                ready!(Pin::new(&mut self.stream).poll_read(cx, out))?;
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Replayed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_has_the_length_it_claims() {
        let (_, body) = HTTP1_ANSWER.split_once("\r\n\r\n").unwrap();
        assert!(HTTP1_ANSWER.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }
}
