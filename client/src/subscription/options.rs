//! What a subscription asks for.

use std::time::Duration;

use broky_proto::id::ClusterId;
use broky_proto::limits::{KEY_PARTITIONS_MAX, PATTERN_BYTES_MAX, PATTERNS_MAX};
use broky_proto::resume::{TokenError, decode_token, encode_token};
use broky_proto::v1;
use bytes::Bytes;

pub use broky_proto::v1::OnSlow;

use super::error::SubscribeError;

/// A subscription's position in every vbucket, opaque: to be kept anywhere and handed back to [`Start::Resume`].
#[derive(Clone, PartialEq, Debug)]
pub struct ResumeToken {
    bytes: Vec<u8>,
    resume: v1::Resume,
}

impl ResumeToken {
    /// The token that was kept as these bytes.
    ///
    /// # Errors
    /// When they are not a token, or were cut or altered; see [`TokenError`].
    pub fn from_bytes(bytes: impl AsRef<[u8]>) -> Result<Self, TokenError> {
        let bytes = bytes.as_ref();
        Ok(Self { bytes: bytes.to_vec(), resume: decode_token(bytes)? })
    }

    pub(super) fn new(resume: v1::Resume) -> Self {
        Self { bytes: encode_token(&resume), resume }
    }

    pub(super) fn resume(&self) -> &v1::Resume {
        &self.resume
    }

    /// The bytes to keep.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The cluster it belongs to.
    #[must_use]
    pub fn cluster_id(&self) -> Option<ClusterId> {
        ClusterId::from_bytes(&self.resume.cluster_id)
    }
}

/// Where a subscription begins.
#[derive(Clone, PartialEq, Default, Debug)]
pub enum Start {
    /// With what is committed from now on.
    #[default]
    Live,
    /// With the oldest message still in memory.
    Earliest,
    /// Where another subscription stopped. Vbuckets the token does not know begin live.
    Resume(ResumeToken),
}

impl Start {
    pub(super) fn to_proto(&self) -> v1::start::Start {
        match self {
            Self::Live => v1::start::Start::Live(v1::Live {}),
            Self::Earliest => v1::start::Start::Earliest(v1::Earliest {}),
            Self::Resume(token) => v1::start::Start::Resume(token.resume.clone()),
        }
    }
}

/// What a subscription asks for.
#[derive(Clone, PartialEq, Debug)]
pub struct SubscribeOptions {
    /// Which keys: `*` is any run of bytes, also empty; `?` is one byte; `\` escapes. At least one, at most 4,096, of
    /// at most 1,024 bytes each. A message that matches several is delivered once.
    pub patterns: Vec<Bytes>,
    /// Where to begin. Default: live.
    pub start: Start,
    /// Only messages of these key_partitions. Default empty: all. At most 4,096.
    pub key_partitions: Vec<Bytes>,
    /// What happens when the node's memory cannot wait for us. Default: the oldest are dropped, and told as a gap.
    pub on_slow: OnSlow,
    /// Messages the node may send ahead of what the application took; renewed as it takes them. Default 0: no limit but
    /// flow control, which counts bytes.
    pub credit: u64,
    /// Without a delivery or a heartbeat for this long the stream is given up for another. Default 3 s; heartbeats come
    /// each second.
    pub silence_timeout: Duration,
}

impl SubscribeOptions {
    /// A subscription to these patterns, from now on.
    pub fn new(patterns: impl IntoIterator<Item = impl Into<Bytes>>) -> Self {
        Self {
            patterns: patterns.into_iter().map(Into::into).collect(),
            start: Start::Live,
            key_partitions: Vec::new(),
            on_slow: OnSlow::DropOldest,
            credit: 0,
            silence_timeout: Duration::from_secs(3),
        }
    }

    /// Sets where to begin.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Narrows the subscription to these key_partitions.
    #[must_use]
    pub fn key_partitions(mut self, key_partitions: impl IntoIterator<Item = impl Into<Bytes>>) -> Self {
        self.key_partitions = key_partitions.into_iter().map(Into::into).collect();
        self
    }

    /// Sets what happens when we are too slow.
    #[must_use]
    pub fn on_slow(mut self, on_slow: OnSlow) -> Self {
        self.on_slow = on_slow;
        self
    }

    /// Limits how many messages may be sent ahead.
    #[must_use]
    pub fn credit(mut self, credit: u64) -> Self {
        self.credit = credit;
        self
    }

    /// Checks what can be checked here.
    pub(super) fn check(&self) -> Result<(), SubscribeError> {
        let refuse = |words: String| Err(SubscribeError::Options(words));
        if self.patterns.is_empty() {
            return refuse("no pattern".to_owned());
        }
        if self.patterns.len() > PATTERNS_MAX {
            return refuse(format!("{} patterns; the limit is {PATTERNS_MAX}", self.patterns.len()));
        }
        if let Some(long) = self.patterns.iter().find(|pattern| pattern.len() > PATTERN_BYTES_MAX) {
            return refuse(format!("a pattern of {} bytes; the limit is {PATTERN_BYTES_MAX}", long.len()));
        }
        if self.key_partitions.len() > KEY_PARTITIONS_MAX {
            return refuse(format!("{} key_partitions; the limit is {KEY_PARTITIONS_MAX}", self.key_partitions.len()));
        }
        Ok(())
    }

    /// Whether every message matches. Keys that begin with `!system` are the exception.
    pub(super) fn is_complete(&self) -> bool {
        self.key_partitions.is_empty() && self.patterns.iter().any(|pattern| &pattern[..] == b"*")
    }

    pub(super) fn to_open(&self, start: v1::Start) -> v1::Open {
        v1::Open {
            patterns: self.patterns.clone(),
            start: Some(start),
            group: String::new(),
            on_slow: self.on_slow.into(),
            credit: self.credit,
            key_partitions: self.key_partitions.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_beyond_a_limit_are_refused() {
        assert!(SubscribeOptions::new(Vec::<Bytes>::new()).check().is_err());
        assert!(SubscribeOptions::new([vec![b'a'; PATTERN_BYTES_MAX + 1]]).check().is_err());
        assert!(SubscribeOptions::new(vec!["a"; PATTERNS_MAX + 1]).check().is_err());
        assert!(SubscribeOptions::new(vec!["a"; PATTERNS_MAX]).check().is_ok());
    }

    #[test]
    fn token_survives_being_kept() {
        let token = ResumeToken::new(v1::Resume { cluster_id: vec![7; 16].into(), cursors: Vec::new() });
        assert_eq!(ResumeToken::from_bytes(token.as_bytes()), Ok(token.clone()));
        assert!(ResumeToken::from_bytes(&token.as_bytes()[1..]).is_err());
    }
}
