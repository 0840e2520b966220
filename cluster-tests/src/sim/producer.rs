//! Producers: each pushes one message after the other, as the client library does, until its outcome is known.
//!
//! What was not committed goes again under its sequence, in order, before anything new, in another epoch, once everything
//! on the way has been answered. It may be divided into other requests than before. Who has waited too long gives up: the
//! outcome is what is known by then, and nobody has to wait for it any more. What is still on its way then must not be
//! stored behind what comes later.

use std::collections::VecDeque;
use std::time::Duration;

use broky_proto::frame;
use broky_proto::id::{Token, VBucketId};
use broky_proto::time::Timestamp;
use broky_proto::v1::{self, Acks, OutcomeKind, PushResponse};
use bytes::Bytes;
use prost::Message as _;

use super::checks::Place as Position;
use super::message::MessageId;
use super::network::Place;
use super::streams::{Item, Kind, Side, StreamId};
use super::world::{Event, World};

/// Requests on their way on one connection.
const PIPELINE: usize = 4;
/// Messages that have no outcome yet; more are not begun.
const OPEN_MAX: usize = 64;
/// A request is answered within this time, or its connection given up.
const SILENCE: Duration = Duration::from_secs(3);
/// After this the outcome of a message is what is known by then.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(12);
/// Between attempts.
const RETRY: Duration = Duration::from_millis(20);
const RECONNECT: Duration = Duration::from_millis(50);

/// A message without an outcome.
#[derive(Clone, Debug)]
struct Message {
    id: MessageId,
    key: Bytes,
    begun: Timestamp,
    /// An attempt may have stored it.
    is_in_doubt: bool,
}

/// A request on its way.
#[derive(Debug)]
struct Sent {
    messages: Vec<Message>,
    at: Timestamp,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Producer {
    id: u64,
    sequence: u64,
    epoch: u32,
    stream: Option<StreamId>,
    is_connected: bool,
    /// To be pushed, ascending.
    queue: VecDeque<Message>,
    /// On their way, in order.
    sent: VecDeque<Sent>,
    /// Something has to go again, before anything new does.
    is_holding: bool,
    /// Not before then.
    resumes: Timestamp,
}

impl Producer {
    /// Whether every message has an outcome.
    pub(super) fn is_done(&self) -> bool {
        self.queue.is_empty() && self.sent.is_empty()
    }

    fn push_again(&mut self, message: Message) {
        self.is_holding = true;
        let at = self.queue.partition_point(|other| other.id < message.id);
        self.queue.insert(at, message);
    }
}

impl World {
    pub(super) fn add_producer(&mut self) {
        let at = self.producers.len();
        let (id, now) = (at as u64 + 1, self.now());
        let (queue, sent) = (VecDeque::new(), VecDeque::new());
        self.producers.push(Producer {
            id,
            sequence: 0,
            epoch: 0,
            stream: None,
            is_connected: false,
            queue,
            sent,
            is_holding: false,
            resumes: now,
        });
        self.schedule.after(Duration::from_millis(at as u64), Event::Producer(at));
    }

    /// A producer's turn.
    pub(super) fn produce(&mut self, at: usize) {
        let every = Duration::from_millis(self.options.push_every_ms);
        let wait = self.work.around(every);
        self.schedule.after(wait.max(Duration::from_micros(100)), Event::Producer(at));
        let now = self.now();
        let this = &self.producers[at];
        let oldest = this.sent.front().map(|sent| sent.at);
        let begun = this.sent.iter().flat_map(|sent| &sent.messages).chain(&this.queue).map(|it| it.begun).min();
        let is_late = begun.is_some_and(|begun| now.since(begun) > DELIVERY_TIMEOUT);
        if let Some(stream) = this.stream.filter(|_| oldest.is_some_and(|sent| now.since(sent) > SILENCE)) {
            self.close(stream, Side::Dialler, true);
        }
        if is_late && !self.is_calm {
            return self.give_up(at);
        }
        let open =
            self.producers[at].queue.len() + self.producers[at].sent.iter().map(|it| it.messages.len()).sum::<usize>();
        if !self.is_calm && open < OPEN_MAX {
            for _ in 0..=self.work.below(self.options.batch_max) {
                self.add_message(at);
            }
        }
        self.push_on(at);
    }

    fn add_message(&mut self, at: usize) {
        let all: Vec<VBucketId> = self.vbuckets.iter().collect();
        let vbucket = self.work.pick(&all).unwrap();
        let which = self.work.below(2);
        let (now, vbuckets) = (self.now(), self.vbuckets);
        let this = &mut self.producers[at];
        this.sequence += 1;
        let id = MessageId { producer: this.id, sequence: this.sequence };
        let key = id.key(vbuckets, vbucket, which);
        this.queue.push_back(Message { id, key: key.clone(), begun: now, is_in_doubt: false });
        self.record_push(id, &key);
        self.checks.note_pushed(id, vbucket);
    }

    /// Sends what may be sent.
    pub(super) fn push_on(&mut self, at: usize) {
        let now = self.now();
        let this = &mut self.producers[at];
        if !this.is_connected {
            if this.stream.is_none() && !this.queue.is_empty() {
                self.connect(at);
            }
            return;
        }
        if this.is_holding && (!this.sent.is_empty() || now < this.resumes) {
            return;
        }
        this.epoch += u32::from(std::mem::take(&mut this.is_holding));
        while self.producers[at].sent.len() < PIPELINE && !self.producers[at].queue.is_empty() {
            let count = 1 + self.work.below(self.options.batch_max);
            let this = &mut self.producers[at];
            let first = this.queue[0].id.sequence;
            let is_next = |(message, sequence): &(&Message, u64)| message.id.sequence == *sequence;
            let run = this.queue.iter().zip(first..).take(usize::try_from(count).unwrap()).take_while(is_next).count();
            let messages: Vec<Message> = this.queue.drain(..run).collect();
            let padding = usize::try_from(self.options.payload_bytes).unwrap();
            let encoded = messages.iter().map(|message| v1::Message {
                key: message.key.clone(),
                payload: message.id.payload(padding),
                ..v1::Message::default()
            });
            let request = v1::PushRequest {
                messages: encoded.collect(),
                acks: Acks::Committed.into(),
                producer_id: this.id,
                sequence: first,
                want_positions: true,
                producer_epoch: this.epoch,
            };
            this.sent.push_back(Sent { messages, at: now });
            let stream = this.stream.unwrap();
            self.send(stream, Side::Listener, Item::Frame(frame::encode(&request)));
        }
    }

    /// Connects to the leader of what is next, or to anybody.
    fn connect(&mut self, at: usize) {
        let token = Token::of(b"", &self.producers[at].queue[0].key);
        let leader = self.metadata.map().vbucket(self.vbuckets.vbucket_of(token)).and_then(|vbucket| vbucket.leader);
        let known = leader.and_then(|leader| self.node_of(leader)).filter(|_| self.work.chance(700));
        let any = self.work.below(self.nodes.len() as u64);
        let to = known.unwrap_or(usize::try_from(any).unwrap());
        let id = self.dial(Kind::Push { producer: at }, Place::Client(at), Place::Node(to));
        self.producers[at].stream = Some(id);
    }

    pub(super) fn connected(&mut self, at: usize, id: StreamId) {
        let this = &mut self.producers[at];
        if this.stream == Some(id) {
            (this.is_connected, this.is_holding) = (true, true);
            self.push_on(at);
        }
    }

    /// A connection is gone: nobody can tell what became of what was sent on it.
    pub(super) fn disconnected(&mut self, at: usize, id: StreamId) {
        let this = &mut self.producers[at];
        if this.stream != Some(id) {
            return;
        }
        (this.stream, this.is_connected) = (None, false);
        for message in std::mem::take(&mut this.sent).into_iter().flat_map(|sent| sent.messages) {
            this.push_again(Message { is_in_doubt: true, ..message });
        }
        self.schedule.after(RECONNECT, Event::PushOn(at));
    }

    pub(super) fn take_response(&mut self, at: usize, id: StreamId, bytes: Bytes) {
        let response = PushResponse::decode(super::frames::deframed(bytes)).unwrap();
        let this = &mut self.producers[at];
        if this.stream != Some(id) {
            return;
        }
        let Some(Sent { messages, .. }) = this.sent.pop_front() else {
            return self.fail("outcomes", "an answer to nothing");
        };
        let mut outcomes = vec![None; messages.len()];
        for outcome in &response.outcomes {
            for index in outcome.first..outcome.first + outcome.count {
                let place = outcomes.get_mut(index as usize);
                if place.is_none_or(|place| place.replace((outcome.kind(), outcome)).is_some()) {
                    return self.fail("outcomes", format!("message {index} of {} has two outcomes", messages.len()));
                }
            }
        }
        for (index, (message, outcome)) in (0..).zip(messages.into_iter().zip(outcomes)) {
            let position = response.positions.iter().find(|it| (it.first..it.first + it.count).contains(&index));
            let position = position.map(|it| Position {
                vbucket: VBucketId(u16::try_from(it.vbucket).unwrap()),
                lineage: it.lineage,
                epoch: it.epoch,
                offset: it.offset + u64::from(index - it.first),
            });
            match outcome {
                Some((OutcomeKind::Committed, _)) => self.acknowledged(message.id, position),
                Some((OutcomeKind::Rejected, told)) => {
                    self.say(|| {
                        format!("producer {at}: {:?} is rejected, {:?}: {}", message.id, told.code(), told.reason)
                    });
                    self.retry(at, message);
                }
                Some((OutcomeKind::Unknown, told)) => {
                    self.say(|| {
                        format!("producer {at}: {:?} is unknown, {:?}: {}", message.id, told.code(), told.reason)
                    });
                    self.retry(at, Message { is_in_doubt: true, ..message });
                }
                Some((OutcomeKind::Unspecified, _)) | None => {
                    return self.fail("outcomes", format!("{:?} has no outcome", message.id));
                }
            }
        }
        self.push_on(at);
    }

    /// Pushes a message again, a little later.
    fn retry(&mut self, at: usize, message: Message) {
        let this = &mut self.producers[at];
        this.resumes = self.schedule.now().plus(RETRY);
        this.push_again(message);
        self.schedule.after(RETRY, Event::PushOn(at));
    }

    /// Ends the wait for what has waited too long: what may be stored is unknown, what is not is rejected.
    fn give_up(&mut self, at: usize) {
        if let Some(stream) = self.producers[at].stream {
            self.close(stream, Side::Dialler, true);
        }
        let now = self.now();
        let this = &mut self.producers[at];
        let late = this.queue.iter().take_while(|message| now.since(message.begun) > DELIVERY_TIMEOUT).count();
        let messages: Vec<Message> = this.queue.drain(..late).collect();
        self.say(|| format!("producer {at} gives up {} messages", messages.len()));
        for message in messages {
            self.checks.note_end(message.id, message.is_in_doubt);
            self.record_given_up(message.id, message.is_in_doubt);
        }
    }
}
