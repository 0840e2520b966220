//! Why a push failed.

use std::sync::Arc;

use broky_proto::v1::ErrorCode;
use thiserror::Error;

/// Why a message was not, or may not have been, committed.
///
/// Only [`PushError::Unknown`] leaves it open whether the message was stored; with every other variant it provably was
/// not, so that pushing it again cannot make a duplicate.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum PushError {
    /// The encoded message, or batch, exceeds the limit. Nothing was sent. Do not retry.
    #[error("{bytes} encoded bytes; the limit is {bytes_max}")]
    MessageTooLarge {
        /// Its encoded size.
        bytes: usize,
        /// The limit: for a message `ProducerOptions::message_bytes_max`, for a batch 4 MiB and 65,536 messages.
        bytes_max: usize,
    },
    /// The in-flight window is full. Nothing was sent. Retry after some tickets are settled, or use `push`, which
    /// waits.
    #[error("the in-flight window is full")]
    WouldBlock,
    /// The producer or its client was closed before the message was taken. Nothing was sent. Use a new producer.
    #[error("the producer is closed")]
    Closed,
    /// The broker refused the message and did not store it. If `retry` is set, it kept doing so until the delivery
    /// timeout, and may accept the message later; otherwise it never will.
    #[error("rejected ({}): {reason}", code.name())]
    Rejected {
        /// The stable code.
        code: ErrorCode,
        /// The facts, in words.
        reason: Arc<str>,
        /// Whether pushing it again later can succeed.
        retry: bool,
    },
    /// No node took the message before the delivery timeout. It was never sent. Retry once a node is reachable.
    #[error("not sent within the delivery timeout: {reason}")]
    NotSent {
        /// What prevented it last.
        reason: Arc<str>,
    },
    /// The message was sent, and no answer to it arrived before the delivery timeout. It may have been stored or may
    /// yet be. Pushing it again may store it twice.
    #[error("outcome unknown: {reason}")]
    Unknown {
        /// What prevented an answer.
        reason: Arc<str>,
    },
}

impl PushError {
    /// Whether the message may have been stored nevertheless.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    /// Whether pushing the message again can succeed. For [`PushError::Unknown`] that may make a duplicate.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::MessageTooLarge { .. } | Self::Closed => false,
            Self::WouldBlock | Self::NotSent { .. } | Self::Unknown { .. } => true,
            Self::Rejected { retry, .. } => *retry,
        }
    }
}
