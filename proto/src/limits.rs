//! Limits of the protocol and their defaults. A node may lower or raise those that have a flag; the rest are fixed, so
//! that every client can rely on them.

/// Default limit of one encoded message: 1 MiB. `--message-max` changes it.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The most `--message-max` may be set to: what still fits a batch.
pub const MESSAGE_BYTES_HARD_MAX: usize = BATCH_BYTES_MAX - 1024;
/// Limit of one encoded `PushRequest`: 4 MiB.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// A `Delivery` does not exceed this many bytes unless a single message does: 2 MiB. Standard clients refuse more than
/// 4 MiB unless told otherwise.
pub const DELIVERY_BYTES_MAX: usize = 2 << 20;
/// Most messages in one `PushRequest`. A batch of empty messages could otherwise hold two million.
pub const BATCH_MESSAGES_MAX: usize = 65_536;
/// Limit of one encoded `SubscribeRequest`: 4 MiB.
pub const SUBSCRIBE_REQUEST_BYTES_MAX: usize = 4 << 20;
/// Most patterns in one subscription.
pub const PATTERNS_MAX: usize = 4_096;
/// Most bytes in one pattern.
pub const PATTERN_BYTES_MAX: usize = 1_024;
/// Most key_partitions one subscription may be narrowed to.
pub const KEY_PARTITIONS_MAX: usize = 4_096;
/// Most bytes in a message's `key` or `key_partition`: what matching a pattern against a key may cost depends on it.
pub const KEY_BYTES_MAX: usize = 4_096;
/// Bytes of a KSUID.
pub const UID_BYTES: usize = 20;
