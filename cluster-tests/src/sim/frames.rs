//! What frames mean: each is taken by the shard or router that it is for, and readers are sent what there is.

use std::time::Duration;

use broky_delivery::Poll;
use broky_proto::relay::{decode_to_owner, decode_to_relay};
use broky_proto::replicate::{decode_to_follower, decode_to_leader};
use broky_proto::{forward, frame};
use broky_shard::{Frame, InboundId, PartOutcome};
use bytes::{BufMut, Bytes, BytesMut};

use super::network::Place;
use super::streams::{Item, Kind, Side, StreamId};
use super::world::{Event, World};

/// A frame's bytes as they go over the wire.
pub(super) fn joined(frame: &Frame) -> Bytes {
    if frame.body.is_empty() {
        return frame.head.clone();
    }
    let mut bytes = BytesMut::with_capacity(frame.head.len() + frame.body.len());
    bytes.put_slice(&frame.head);
    bytes.put_slice(&frame.body);
    bytes.freeze()
}

/// The message in a frame.
pub(super) fn deframed(bytes: Bytes) -> Bytes {
    let mut deframer = frame::Deframer::new(usize::MAX);
    deframer.push(bytes);
    deframer.next_message().unwrap().unwrap()
}

impl World {
    /// Takes a frame.
    pub(super) fn take(&mut self, id: StreamId, side: Side, bytes: Bytes) {
        let stream = self.streams.get(id).unwrap();
        let (kind, place) = (stream.kind.clone(), stream.end(side).place);
        let Place::Node(at) = place else {
            match kind {
                Kind::Push { producer } => self.take_response(producer, id, bytes),
                Kind::Subscribe { reader, .. } => self.take_delivery(reader, id, bytes),
                _ => {}
            }
            return;
        };
        let message = deframed(bytes);
        let is_sound = match (kind, side) {
            (Kind::Replicate { inbound, .. }, Side::Listener) => self.take_block(at, inbound, message),
            (Kind::Replicate { session, .. }, Side::Dialler) => {
                let frame = decode_to_leader(message).unwrap();
                self.act(at, |shard, out, now| shard.handle_to_leader(now, session, frame, out)).unwrap().is_ok()
            }
            (Kind::Forward { .. }, Side::Listener) => self.take_forwarded(at, id, message),
            (Kind::Forward { .. }, Side::Dialler) => {
                let (part, outcome) = PartOutcome::of_forwarded(forward::decode_outcome(message).unwrap());
                self.route(at, |router, now, out| router.handle_outcome(now, part, outcome, out));
                true
            }
            (Kind::Relay { relay: Some(relay), .. }, Side::Listener) => {
                let frame = decode_to_owner(message).unwrap();
                // Whoever asks is answered without being woken.
                self.schedule.after(Duration::ZERO, Event::Pump(id));
                self.act(at, |shard, out, _| shard.handle_to_owner(relay, frame, out)).unwrap().is_ok()
            }
            (Kind::Relay { upstream, .. }, Side::Dialler) => {
                let frame = decode_to_relay(message).unwrap();
                self.send(id, Side::Listener, Item::Room);
                self.checks.coverage.relayed += 1;
                self.act(at, |shard, out, _| shard.handle_to_relay(upstream, frame, out)).unwrap().is_ok()
            }
            (Kind::History { name, .. }, Side::Dialler) => {
                self.send(id, Side::Listener, Item::Room);
                self.act(at, |shard, out, _| shard.handle_history(name, message, out));
                true
            }
            (Kind::Push { .. }, Side::Listener) => self.take_push(at, id, message),
            (Kind::Relay { .. } | Kind::History { .. } | Kind::Subscribe { .. } | Kind::Push { .. }, _) => true,
        };
        if !is_sound {
            self.close(id, side, false);
        }
    }

    /// Takes a leader's frame. An error in it ends the link, and is no fault: a leader that has been deposed sends
    /// such.
    fn take_block(&mut self, at: usize, inbound: InboundId, message: Bytes) -> bool {
        let frame = decode_to_follower(message).unwrap();
        self.act(at, |shard, out, now| shard.handle_to_follower(now, inbound, frame, out)).unwrap().is_ok()
    }

    /// The dialler has taken a frame: there is room for another.
    pub(super) fn make_room(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(id) {
            stream.unread = stream.unread.saturating_sub(1);
            self.pump(id);
        }
    }

    /// Sends whoever reads here what there is, as far as there is room.
    pub(super) fn pump(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(id) else { return };
        let end = stream.end(Side::Listener);
        let Place::Node(at) = end.place else { return };
        if !end.is_open || end.life != self.nodes[at].life || self.nodes[at].process.is_none() {
            return;
        }
        if self.nodes[at].is_paused {
            return self.nodes[at].deferred.push(Event::Pump(id));
        }
        loop {
            let stream = self.streams.get_mut(id).unwrap();
            if stream.unread >= self.options.window {
                return;
            }
            let shard = &mut self.nodes[at].process.as_mut().unwrap().shard;
            let frame = match &stream.kind {
                Kind::Relay { relay: Some(relay), .. } => match shard.poll_relay(*relay) {
                    Some(frame) => joined(&frame),
                    None => return,
                },
                Kind::History { subscription: Some(read), .. } | Kind::Subscribe { subscription: Some(read), .. } => {
                    match shard.delivery_mut().poll(*read) {
                        Poll::Frame(frame) => frame,
                        Poll::Pending => return,
                        Poll::Yield => return self.schedule.after(Duration::ZERO, Event::Pump(id)),
                        Poll::Done => {
                            self.send(id, Side::Dialler, Item::Done);
                            return self.close(id, Side::Listener, false);
                        }
                        Poll::Ended(refusal) => {
                            self.say(|| format!("{id:?} ended: {refusal:?}"));
                            return self.close(id, Side::Listener, false);
                        }
                    }
                }
                _ => return,
            };
            stream.unread += 1;
            self.send(id, Side::Dialler, Item::Frame(frame));
        }
    }
}
