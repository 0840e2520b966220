//! How a producer behaves.

use std::time::Duration;

use broky_proto::limits::{BATCH_BYTES_MAX, MESSAGE_BYTES_HARD_MAX, MESSAGE_BYTES_MAX};
use broky_proto::v1::Acks;

/// How a producer behaves. The defaults are right for most.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProducerOptions {
    /// When a push is answered. Default: [`Acks::Committed`], once every in-sync replica holds the message. With
    /// `Leader` an acked message may be lost in a failover; with `None` failures are not told.
    pub acks: Acks,
    /// A batch is closed at this size, in bytes. Default 128 KiB, 1 KiB to 4 MiB less 1 KiB. It is a bound, not a goal:
    /// on an idle stream a batch goes at once. Raised, throughput of large messages grows and so does the latency under
    /// load.
    pub batch_bytes_max: usize,
    /// Bytes of unsettled messages, for all nodes together; beyond it `push` waits. Default 4 MiB, at least 1. Raised,
    /// more is in memory and has to be sent again after a break.
    pub in_flight_bytes_max: usize,
    /// Requests to one node without an answer at which a batch for it that is not full waits for the next answer
    /// instead of being sent. Default 1, at least 1. Raised, batches under load are smaller, and both sides spend more
    /// on each message.
    pub unanswered_requests_max: usize,
    /// How long a message is tried before it fails. Default 30 s, at least 1 ms. Raised, longer failures of the cluster
    /// are bridged, and `push` waits longer before errors show.
    pub delivery_timeout: Duration,
    /// With requests unanswered and nothing heard for this long, the stream is given up for another node. Default 3 s,
    /// at least 1 ms. Lowered below what a failover takes, requests are sent more than once for nothing.
    pub silence_timeout: Duration,
    /// Largest encoded message taken, in bytes; should equal the nodes' `--message-max`. Default 1 MiB, up to 4 MiB
    /// less 1 KiB.
    pub message_bytes_max: usize,
    /// Whether receipts tell where messages were stored. Default false: it costs bytes in each answer.
    pub want_positions: bool,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            acks: Acks::Committed,
            batch_bytes_max: 128 << 10,
            in_flight_bytes_max: 4 << 20,
            unanswered_requests_max: 1,
            delivery_timeout: Duration::from_secs(30),
            silence_timeout: Duration::from_secs(3),
            message_bytes_max: MESSAGE_BYTES_MAX,
            want_positions: false,
        }
    }
}

const TIMEOUT_MIN: Duration = Duration::from_millis(1);
const BATCH_BYTES_MIN: usize = 1 << 10;
/// Room for the request's options behind its messages.
const BATCH_BYTES_HARD_MAX: usize = BATCH_BYTES_MAX - 1024;

impl ProducerOptions {
    /// The options with every value within its range.
    pub(crate) fn clamped(self) -> Self {
        Self {
            batch_bytes_max: self.batch_bytes_max.clamp(BATCH_BYTES_MIN, BATCH_BYTES_HARD_MAX),
            in_flight_bytes_max: self.in_flight_bytes_max.max(1),
            unanswered_requests_max: self.unanswered_requests_max.max(1),
            delivery_timeout: self.delivery_timeout.max(TIMEOUT_MIN),
            silence_timeout: self.silence_timeout.max(TIMEOUT_MIN),
            message_bytes_max: self.message_bytes_max.min(MESSAGE_BYTES_HARD_MAX),
            ..self
        }
    }
}
