//! Why a subscription could not be opened, or ended.

use broky_proto::id::{Offset, VBucketId};
use broky_proto::v1::ErrorCode;
use thiserror::Error;

use crate::transport::{CallError, ConnectError};

/// Why a subscription could not be opened, or ended.
///
/// A subscription that gave an error has ended: it gives no more. Its resume token stands before whatever the error
/// kept back, so that `Client::subscribe` with that token, or `Subscription::restart`, goes on without a loss, as far
/// as the cause allows.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SubscribeError {
    /// The options break a limit of the protocol. Nothing was sent. Correct them.
    #[error("invalid subscription: {0}")]
    Options(String),
    /// No connection could be made in time. Retry once a node is up.
    #[error(transparent)]
    Connect(ConnectError),
    /// The subscription was not confirmed in time. Retry.
    #[error("subscription not confirmed: {0}")]
    Open(CallError),
    /// A pattern does not parse. Correct it.
    #[error("bad pattern: {0}")]
    BadPattern(String),
    /// The position belongs to another cluster: the token is from elsewhere, or this cluster was founded anew. What was
    /// held there is gone. Nothing was skipped silently; to go on, decide where from and call `Subscription::restart`
    /// or subscribe with `Start::Earliest`.
    #[error("the position belongs to another cluster: {0}")]
    ForeignCluster(String),
    /// The position lies ahead of anything this cluster has shown. Retry later if the node may lag behind; otherwise as
    /// for `ForeignCluster`.
    #[error("the position lies ahead of the cluster: {0}")]
    PositionAhead(String),
    /// The subscriber was too slow and had asked for `OnSlow::Disconnect`. Subscribe again with the resume token;
    /// what was evicted in the meantime arrives as a gap.
    #[error("disconnected for being too slow: {0}")]
    SlowSubscriber(String),
    /// The node refused for good. Retrying the same does not help.
    #[error("refused ({}): {reason}", code.name())]
    Refused {
        /// The stable code.
        code: ErrorCode,
        /// The facts, in words.
        reason: String,
    },
    /// A message arrived damaged. It was not given out, and neither was anything behind it.
    #[error("message {offset} of vbucket {vbucket} is damaged: checksum {actual:#010x}, not {expected:#010x}")]
    Corrupted {
        /// The vbucket.
        vbucket: VBucketId,
        /// The offset.
        offset: Offset,
        /// What the broker assigned.
        expected: u32,
        /// What its bytes give.
        actual: u32,
    },
    /// The node broke the protocol. Nothing of the delivery was given out.
    #[error("invalid delivery: {0}")]
    InvalidDelivery(String),
}

impl SubscribeError {
    /// What a failed call means for a subscription that is not to be retried.
    pub(super) fn refused(error: CallError) -> Self {
        let CallError::Refused { code, message: reason, .. } = error else { return Self::Open(error) };
        match code {
            ErrorCode::BadPattern => Self::BadPattern(reason),
            ErrorCode::ForeignCluster => Self::ForeignCluster(reason),
            ErrorCode::PositionAhead => Self::PositionAhead(reason),
            ErrorCode::SlowSubscriber => Self::SlowSubscriber(reason),
            ErrorCode::Unspecified
            | ErrorCode::Malformed
            | ErrorCode::MessageTooLarge
            | ErrorCode::BatchTooLarge
            | ErrorCode::OutOfSequence
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::NotLeader
            | ErrorCode::Overloaded
            | ErrorCode::ShuttingDown
            | ErrorCode::LimitExceeded
            | ErrorCode::MemoryPressure
            | ErrorCode::Unimplemented
            | ErrorCode::ProtocolViolation
            | ErrorCode::TimedOut
            | ErrorCode::NotReady
            | ErrorCode::SequenceForgotten => Self::Refused { code, reason },
        }
    }
}
