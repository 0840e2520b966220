//! The data plane between nodes: replication over HTTP/2, served and driven by the shards' own threads.
//!
//! A shard dials every process that holds copies of what it leads, one connection each, and keeps one stream on it:
//! down go blocks, up come acknowledgements. On another connection a worker forwards the pushes that a process leads,
//! as they come; up come their outcomes. On others again a node reads what it relays to its own clients. What the
//! frames mean is the shard's affair; here they are moved.

mod frames;
mod inbound;
mod outbound;
mod relay;

use std::time::Duration;

pub(crate) use frames::FrameQueue;
use frames::Frames;
pub(crate) use inbound::serve;
pub(crate) use outbound::{Outbound, open};

/// What a stream is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Method {
    /// Blocks for a follower.
    Replicate,
    /// Pushes for a leader.
    Forward,
    /// Deliveries from an owner.
    Relay,
    /// History from an owner, for one subscription.
    History,
}

impl Method {
    const ALL: [Self; 4] = [Self::Replicate, Self::Forward, Self::Relay, Self::History];

    /// What a stream may be sent before its reader has taken it, in bytes.
    fn window(self) -> u32 {
        match self {
            Self::Replicate | Self::Forward | Self::Relay => STREAM_WINDOW_BYTES,
            // There may be many, and their readers may be slow.
            Self::History => HISTORY_WINDOW_BYTES,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Replicate => "/broky.data.v1.Data/Replicate",
            Self::Forward => "/broky.data.v1.Data/Forward",
            Self::Relay => "/broky.data.v1.Data/Relay",
            Self::History => "/broky.data.v1.Data/History",
        }
    }
}

/// The header that numbers the streams of one worker: later ones have higher numbers, in whichever order they arrive.
const SERIAL: &str = "broky-serial";

/// Frames of this size are taken in one piece.
const FRAME_BYTES_MAX: u32 = 4 << 20;
/// What a follower may be sent before it has read: several blocks, so that the next is there when one was taken.
const STREAM_WINDOW_BYTES: u32 = 32 << 20;
const HISTORY_WINDOW_BYTES: u32 = 256 << 10;
/// HTTP/2's own sign of life, for whoever dialled: links that carry pushes and relayed deliveries have no other.
/// Leaders and followers ping one another far more often.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Silence after a ping that ends the link.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// The same for whoever was dialled. What comes on a link that was silent for so long is not taken any more: most likely
/// whoever pushed it has given it up since.
const SERVED_KEEP_ALIVE: Duration = Duration::from_secs(2);
const SERVED_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
