//! How a gRPC call ends: `grpc-status`, `grpc-message` and broky's own `broky-code`.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use std::time::Duration;

use broky_proto::error::CODE_METADATA;
use broky_proto::frame::FrameError;
use broky_proto::v1::ErrorCode;
use http::HeaderMap;
use thiserror::Error;

/// Why a call to a node failed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CallError {
    /// The connection broke, or the stream was reset. What had been sent may have taken effect. Retry.
    #[error("connection lost: {0}")]
    Connection(String),
    /// The node ended the call with a status. Whether to retry follows from the code; see
    /// [`CallError::is_retryable`].
    #[error("refused by the node with status {status} ({}): {message}", code.name())]
    Refused {
        /// The gRPC status number.
        status: u16,
        /// The stable code; `Unspecified` when the node gave none.
        code: ErrorCode,
        /// The facts, in words.
        message: String,
    },
    /// The answer is not gRPC, or not what this protocol allows. The peer is no broky node, or one with a bug.
    #[error("invalid answer: {0}")]
    Invalid(String),
    /// Nothing was heard for this long. What had been sent may have taken effect. Retry.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// gRPC status numbers that say "later, or elsewhere" when there is no code of ours beside them: deadline exceeded,
/// resource exhausted, aborted, unavailable; also cancelled and unknown, which servers make of broken connections.
const RETRYABLE_STATUS: [u16; 6] = [1, 2, 4, 8, 10, 14];

impl CallError {
    /// Whether the same call, after a while or on another node, can succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connection(_) | Self::TimedOut(_) => true,
            Self::Refused { status, code: ErrorCode::Unspecified, .. } => RETRYABLE_STATUS.contains(status),
            Self::Refused { code, .. } => code.is_retryable(),
            Self::Invalid(_) => false,
        }
    }

    /// The stable code of a refusal.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Connection(_) | Self::Invalid(_) | Self::TimedOut(_) => ErrorCode::Unspecified,
        }
    }
}

impl From<hyper::Error> for CallError {
    fn from(error: hyper::Error) -> Self {
        Self::Connection(with_causes(&error))
    }
}

impl From<FrameError> for CallError {
    fn from(error: FrameError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// An error and what caused it, on one line. hyper's own words alone ("http2 error") say little.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}

/// The status in trailers, or in the headers of a response without a body: `Ok` for success, `None` when there is none.
pub(super) fn from_headers(headers: &HeaderMap) -> Option<Result<(), CallError>> {
    let status = headers.get("grpc-status")?;
    let status = status.to_str().ok().and_then(|status| status.parse().ok()).unwrap_or(2);
    if status == 0 {
        return Some(Ok(()));
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let code = ErrorCode::from_name(text(CODE_METADATA));
    Some(Err(CallError::Refused { status, code, message: percent_decode(text("grpc-message")) }))
}

/// Decodes `%XX`; what is not valid stays as it is.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let decoded = match after {
            [high, low, ..] if first == b'%' => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        bytes.push(decoded.unwrap_or(first));
        rest = if decoded.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn message_is_percent_decoded() {
        assert_eq!(percent_decode("a%20b%C3%A9%zz%4"), "a bé%zz%4");
    }

    #[test]
    fn code_decides_about_retry_before_status() {
        let refused = |pairs| from_headers(&headers(pairs)).unwrap().unwrap_err();
        let leader = refused(&[("grpc-status", "14"), ("broky-code", "NOT_LEADER"), ("grpc-message", "gone")]);
        assert_eq!(leader.code(), ErrorCode::NotLeader);
        assert!(leader.is_retryable());
        assert!(!refused(&[("grpc-status", "9"), ("broky-code", "FOREIGN_CLUSTER")]).is_retryable());
        assert!(refused(&[("grpc-status", "14")]).is_retryable());
        assert!(!refused(&[("grpc-status", "12")]).is_retryable());
    }

    #[test]
    fn success_and_absence_differ() {
        assert_eq!(from_headers(&headers(&[("grpc-status", "0")])), Some(Ok(())));
        assert_eq!(from_headers(&headers(&[])), None);
    }
}
