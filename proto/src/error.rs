//! The stable error codes: what each means to a program. docs/protocol.md has the same table in words.

use crate::v1::ErrorCode;

/// The metadata key under which a failed call carries its [`ErrorCode`] by name, beside the gRPC status.
pub const CODE_METADATA: &str = "broky-code";

/// gRPC status codes broky answers with, by number.
///
/// Source: <https://grpc.io/docs/guides/status-codes/>.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
#[expect(missing_docs, reason = "named as in the gRPC specification")]
pub enum Status {
    Ok = 0,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

impl ErrorCode {
    /// The gRPC status a call that fails with this code ends with.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Unspecified => Status::Internal,
            Self::Malformed
            | Self::MessageTooLarge
            | Self::BatchTooLarge
            | Self::BadPattern
            | Self::LimitExceeded
            | Self::ProtocolViolation => Status::InvalidArgument,
            Self::OutOfSequence | Self::SequenceForgotten | Self::ForeignCluster => Status::FailedPrecondition,
            Self::NotEnoughReplicas | Self::NotLeader | Self::ShuttingDown | Self::NotReady => Status::Unavailable,
            Self::Overloaded | Self::SlowSubscriber | Self::MemoryPressure => Status::ResourceExhausted,
            Self::PositionAhead => Status::OutOfRange,
            Self::Unimplemented => Status::Unimplemented,
            Self::TimedOut => Status::DeadlineExceeded,
        }
    }

    /// Whether doing the same again, after a while or elsewhere, can succeed.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::OutOfSequence
            | Self::NotEnoughReplicas
            | Self::NotLeader
            | Self::Overloaded
            | Self::ShuttingDown
            | Self::SlowSubscriber
            | Self::MemoryPressure
            | Self::TimedOut
            | Self::NotReady => true,
            Self::Unspecified
            | Self::Malformed
            | Self::MessageTooLarge
            | Self::BatchTooLarge
            | Self::BadPattern
            | Self::LimitExceeded
            | Self::ForeignCluster
            | Self::SequenceForgotten
            | Self::PositionAhead
            | Self::Unimplemented
            | Self::ProtocolViolation => false,
        }
    }

    /// The code's name without its prefix: `NOT_LEADER`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.as_str_name().trim_start_matches("ERROR_CODE_")
    }

    /// The code of this [`ErrorCode::name`], or `Unspecified`.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        Self::from_str_name(&format!("ERROR_CODE_{name}")).unwrap_or_default()
    }
}

/// Why a request was refused: a stable code and the words for a person.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}: {reason}", code.name())]
pub struct Refusal {
    /// The stable code.
    pub code: ErrorCode,
    /// The facts, in words.
    pub reason: String,
}

impl Refusal {
    /// A refusal with this code and these words.
    pub fn new(code: ErrorCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for number in 0..=19 {
            let code = ErrorCode::try_from(number).unwrap();
            assert_eq!(ErrorCode::from_name(code.name()), code);
        }
        assert_eq!(ErrorCode::from_name("no such"), ErrorCode::Unspecified);
    }
}
