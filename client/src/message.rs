//! What is pushed: [`Message`], which owns its bytes, and [`MessageRef`], which borrows them.
//!
//! A producer takes either, by value or by reference, through [`AsMessage`]: whoever pushes the same key millions of
//! times, or has the payload in a buffer of its own, builds no owned message for it.

use std::time::SystemTime;

use bytes::Bytes;
use svix_ksuid::{Ksuid, KsuidLike as _};

pub(crate) const UID_BYTES: usize = broky_proto::limits::UID_BYTES;

/// A message to push. All byte fields are opaque: empty, NUL and non-UTF-8 are fine.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Message {
    key_partition: Bytes,
    key: Bytes,
    payload: Bytes,
    ts_producer: i64,
    uid: Option<[u8; UID_BYTES]>,
    headers: Vec<(String, Bytes)>,
    retain: bool,
    ttl_ms: u32,
}

impl Message {
    /// A message with this key, which subscriptions match, and this payload.
    pub fn new(key: impl Into<Bytes>, payload: impl Into<Bytes>) -> Self {
        Self { key: key.into(), payload: payload.into(), ..Self::default() }
    }

    /// Sets what decides the vbucket: messages of one `key_partition` keep their order. Empty, the default: the key.
    #[must_use]
    pub fn key_partition(mut self, key_partition: impl Into<Bytes>) -> Self {
        self.key_partition = key_partition.into();
        self
    }

    /// Adds a header, or replaces the one of this name.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        let (name, value) = (name.into(), value.into());
        match self.headers.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.headers.push((name, value)),
        }
        self
    }

    /// Gives the message a new KSUID. It takes randomness from the system, about a microsecond.
    #[must_use]
    pub fn with_uid(self) -> Self {
        let mut uid = [0; UID_BYTES];
        let ksuid = Ksuid::new(None::<SystemTime>, None);
        uid.copy_from_slice(ksuid.bytes());
        self.uid(uid)
    }

    /// Sets the KSUID.
    #[must_use]
    pub fn uid(mut self, uid: [u8; UID_BYTES]) -> Self {
        self.uid = Some(uid);
        self
    }

    /// Sets the producer's timestamp, in nanoseconds since the Unix epoch. Zero, the default: none.
    #[must_use]
    pub fn ts_producer(mut self, unix_ns: i64) -> Self {
        self.ts_producer = unix_ns;
        self
    }

    /// Sets the `retain` flag, which the broker carries as given.
    #[must_use]
    pub fn retain(mut self, retain: bool) -> Self {
        self.retain = retain;
        self
    }

    /// Sets the `ttl_ms` field, in milliseconds, which the broker carries as given. Zero, the default: none.
    #[must_use]
    pub fn ttl_ms(mut self, ttl_ms: u32) -> Self {
        self.ttl_ms = ttl_ms;
        self
    }
}

/// A message to push that borrows its bytes: the cheapest way to push from a buffer. Fields as in [`Message`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MessageRef<'a> {
    /// Decides the vbucket. Empty: the key does.
    pub key_partition: &'a [u8],
    /// What subscriptions match.
    pub key: &'a [u8],
    /// The content.
    pub payload: &'a [u8],
    /// Nanoseconds since the Unix epoch; zero for none.
    pub ts_producer: i64,
    /// A KSUID.
    pub uid: Option<&'a [u8; UID_BYTES]>,
    /// Names and values. Of entries with the same name a reader gets the last.
    pub headers: &'a [(String, Bytes)],
    /// Carried as given.
    pub retain: bool,
    /// Milliseconds; carried as given.
    pub ttl_ms: u32,
}

impl<'a> MessageRef<'a> {
    /// A message with this key and this payload.
    #[must_use]
    pub fn new(key: &'a [u8], payload: &'a [u8]) -> Self {
        Self { key, payload, ..Self::default() }
    }
}

/// Whatever can be pushed: [`Message`], [`MessageRef`], and references to them.
pub trait AsMessage {
    /// The message's fields, borrowed.
    fn as_message(&self) -> MessageRef<'_>;
}

impl AsMessage for Message {
    #[inline]
    fn as_message(&self) -> MessageRef<'_> {
        MessageRef {
            key_partition: &self.key_partition,
            key: &self.key,
            payload: &self.payload,
            ts_producer: self.ts_producer,
            uid: self.uid.as_ref(),
            headers: &self.headers,
            retain: self.retain,
            ttl_ms: self.ttl_ms,
        }
    }
}

impl AsMessage for MessageRef<'_> {
    #[inline]
    fn as_message(&self) -> MessageRef<'_> {
        *self
    }
}

impl<M: AsMessage + ?Sized> AsMessage for &M {
    #[inline]
    fn as_message(&self) -> MessageRef<'_> {
        (**self).as_message()
    }
}
