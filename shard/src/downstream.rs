//! What this node relays to others: deliveries for subscribers at nodes that do not hold what is led here.
//!
//! Each link is one reader of this node's feeds ([`broky_delivery::RelayId`]), which pulls when its transport has room.
//! Beside it, a node asks for history that one of its subscriptions needs; that is a subscription here, with an end.

use broky_delivery::{InterestKey, Range, RelayId, Relayed, SubscriptionId};
use broky_proto::data_v1::{
    History, HistoryRange, Left, Passed, RelayedBlock, RelayedGap, Spans, Wanted, Watching, to_owner, to_relay,
};
use broky_proto::error::Refusal;
use broky_proto::frame::PREFIX_LEN;
use broky_proto::id::{Lineage, Offset};
use broky_proto::relay::{Span, encode_relayed, encode_to_relay};
use broky_proto::replicate::{PeerError, vbucket as vbucket_of};

use crate::outbox::{Frame, Outbox};
use crate::shard::Shard;

impl Shard {
    /// Takes a link on which another node wants deliveries.
    pub fn open_relay(&mut self) -> RelayId {
        self.delivery.open_relay()
    }

    /// Takes the end of such a link.
    pub fn close_relay(&mut self, id: RelayId) {
        self.delivery.close_relay(id);
    }

    /// Takes a frame from a node that relays what is led here.
    ///
    /// # Errors
    /// The node breaks the protocol: close the link.
    pub fn handle_to_owner(&mut self, id: RelayId, frame: to_owner::Frame, out: &mut Outbox) -> Result<(), PeerError> {
        match frame {
            to_owner::Frame::Want(want) => {
                let key = InterestKey::parse(&want.patterns, &want.key_partitions).map_err(malformed)?;
                self.delivery.add_relay_interest(id, want.interest, key);
            }
            to_owner::Frame::Unwant(unwant) => self.delivery.remove_relay_interest(id, unwant.interest),
            to_owner::Frame::Watch(watch) => {
                for asked in watch.vbuckets {
                    let vbucket = vbucket_of(asked.vbucket, self.config.vbuckets)?;
                    let from = asked.has_position.then_some((Lineage(asked.lineage), Offset(asked.offset)));
                    self.delivery.watch(id, vbucket, asked.watch, from).map_err(malformed)?;
                }
            }
            to_owner::Frame::Unwatch(unwatch) => {
                for number in unwatch.vbuckets {
                    self.delivery.unwatch(id, vbucket_of(number, self.config.vbuckets)?);
                }
            }
        }
        self.wake_relays(out);
        Ok(())
    }

    /// The next frame for a relay; `None` when it will be woken.
    pub fn poll_relay(&mut self, id: RelayId) -> Option<Frame> {
        Some(frame_of(self.delivery.poll_relay(id)?))
    }

    pub(crate) fn wake_relays(&mut self, out: &mut Outbox) {
        out.wake_relays.append(&mut self.delivery.take_woken_relays());
    }

    /// Opens history for a subscription at another node, to be read as a subscription is.
    ///
    /// # Errors
    /// It cannot be had here.
    pub fn open_history(&mut self, history: &History) -> Result<SubscriptionId, Refusal> {
        let key = InterestKey::parse(&history.patterns, &history.key_partitions)?;
        let range = |it: &HistoryRange| {
            let vbucket = vbucket_of(it.vbucket, self.config.vbuckets).ok()?;
            let from = it.has_from.then_some(Offset(it.from));
            Some((vbucket, Range { lineage: Lineage(it.lineage), from, to: Offset(it.to) }))
        };
        let ranges: Vec<_> = history.ranges.iter().filter_map(range).collect();
        self.delivery.open_part(key, &ranges)
    }
}

fn malformed(refusal: Refusal) -> PeerError {
    PeerError::Malformed(refusal.reason)
}

fn spans_of(spans: &[Span]) -> Spans {
    let mut all = Spans::default();
    spans.iter().for_each(|span| all.push(*span));
    all
}

fn frame_of(relayed: Relayed) -> Frame {
    let frame = match relayed {
        Relayed::Block { framed, messages, has_system, spans } => {
            let body = framed.slice(PREFIX_LEN.min(framed.len())..);
            let meta = RelayedBlock {
                spans: Some(spans_of(&spans)),
                count: messages,
                has_system,
                crc32: crc32fast::hash(&body),
                messages: bytes::Bytes::new(),
            };
            return Frame { head: encode_relayed(&meta, body.len()), body };
        }
        Relayed::Wanted(interest, passed) => {
            to_relay::Frame::Wanted(Wanted { interest, passed: Some(spans_of(&passed)) })
        }
        Relayed::Passed(spans) => to_relay::Frame::Passed(Passed { spans: Some(spans_of(&spans)) }),
        Relayed::Watching { vbucket, watch, history, next, gaps } => {
            let gap = |gap: broky_proto::v1::Gap| RelayedGap {
                lineage: gap.lineage,
                from: gap.from,
                to: gap.to,
                reason: gap.reason,
            };
            to_relay::Frame::Watching(Watching {
                vbucket: u32::from(vbucket.0),
                watch,
                lineage: history.lineage.0,
                epoch: history.epoch.0,
                base: history.base.0,
                next: next.0,
                gaps: gaps.into_iter().map(gap).collect(),
            })
        }
        Relayed::Left(vbucket, watch) => to_relay::Frame::Left(Left { vbucket: u32::from(vbucket.0), watch }),
    };
    encode_to_relay(frame).into()
}
