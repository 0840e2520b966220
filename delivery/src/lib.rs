//! Who reads what, without I/O: patterns and their index, subscriptions, cursors, gaps, credit.
//!
//! Committed blocks come in through [`Delivery::handle_block`]; each reader pulls framed deliveries with
//! [`Delivery::poll`] at its own pace. A block is matched once for all readers that ask for the same, and sent as
//! shared bytes. There is no queue per reader: what a reader has not read stands in the feed, and when it is evicted
//! there the reader is told what it missed.

#![deny(missing_docs)]

mod chunked;
mod delivery;
mod evict;
mod feed;
mod fill;
mod history;
pub mod index;
mod interest;
mod matching;
mod news;
mod open;
pub mod pattern;
mod poll;
mod relay;
mod subscription;
mod view;

pub use delivery::{Delivery, DeliveryConfig, DeliveryStats, HEARTBEAT_SLOTS};
pub use feed::{ArenaId, Block, BlockSeq, Entry, FeedId, Run};
pub use fill::Range;
pub use interest::InterestKey;
pub use news::{Want, WantId};
pub use pattern::{Pattern, PatternError, is_system_key};
pub use poll::Poll;
pub use relay::{RelayId, Relayed};
pub use subscription::SubscriptionId;
pub use view::{History, Kind};
