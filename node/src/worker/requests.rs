//! Pushes that wait for their outcome.
//!
//! A lone node hands a request to its shards as it is: each takes what it owns. In a cluster the [`Router`] divides it
//! among the leaders of its vbuckets, wherever they are, and sends on what was refused by those who lead no longer.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use broky_proto::error::Refusal;
use broky_proto::v1::PushResponse;
use broky_proto::wire::{Push, scan_push};
use broky_shard::{Collector, Part, PartId, PartOutcome, Routed, Router, ShardId, Target, Ticket, shards_of};
use bytes::Bytes;
use slab::Slab;

use super::inbox::ToWorker;
use super::{Worker, now_unix_ns};

/// A request not all of whose messages have an outcome.
struct Request {
    collector: Collector,
    waker: Option<Waker>,
    /// Whoever pushed it has gone.
    is_abandoned: bool,
    /// Bytes noted as waiting at other shards.
    abroad_bytes: usize,
}

/// All waiting requests of a worker.
#[derive(Default)]
pub(super) struct Requests {
    table: Slab<Request>,
}

/// Bits of a ticket that name what waits; those above name the shard at which it waits.
const NUMBER_BITS: u32 = 48;
/// Set where a part waits that the router has handed out.
const PART: u64 = 1 << (NUMBER_BITS - 1);
/// Set where another node waits.
const FORWARDED: u64 = 1 << (NUMBER_BITS - 2);

/// Who waits for an outcome.
enum Waits {
    Request(usize),
    Part(PartId),
    Forwarded(usize),
}

fn ticket(shard: ShardId, waits: &Waits) -> Ticket {
    let number = match waits {
        Waits::Request(key) => *key as u64,
        Waits::Part(PartId(id)) => PART | id & (FORWARDED - 1),
        Waits::Forwarded(key) => FORWARDED | *key as u64,
    };
    Ticket(u64::from(shard.0) << NUMBER_BITS | number)
}

fn shard_of(ticket: Ticket) -> usize {
    usize::try_from(ticket.0 >> NUMBER_BITS).unwrap_or(usize::MAX)
}

fn waits(ticket: Ticket) -> Waits {
    let number = ticket.0 & (FORWARDED - 1);
    let key = usize::try_from(number).unwrap_or(usize::MAX);
    if ticket.0 & PART > 0 {
        Waits::Part(PartId(number))
    } else if ticket.0 & FORWARDED > 0 {
        Waits::Forwarded(key)
    } else {
        Waits::Request(key)
    }
}

impl Worker {
    /// Takes an encoded `PushRequest` and hands its messages to those who own them.
    ///
    /// # Errors
    /// The refusal of a request that is broken as a whole; nothing was stored.
    pub(crate) fn push(this: &Rc<Self>, request: Bytes) -> Result<PushTicket, Refusal> {
        let push = scan_push(&request, this.message_bytes_max).map_err(|(code, reason)| Refusal::new(code, reason))?;
        let collector = Collector::new(&push);
        let waiting = Request { collector, waker: None, is_abandoned: false, abroad_bytes: 0 };
        let key = this.requests.borrow_mut().table.insert(waiting);
        // Streams stop to be read long before that, but each may have one request on its way.
        let has_room = this.abroad_bytes.get().saturating_add(request.len()) <= 2 * this.waiting_bytes_max;
        // A lone node leads everything. What is left of the time when it was not goes first.
        let is_alone = this.is_alone.get() && this.router.borrow().is_clear(push.producer);
        if !has_room && !is_alone {
            this.route(|router, _, out| router.refuse(key as u64, push, "too many pushes wait for their outcome", out));
        } else if is_alone {
            let ticket = ticket(this.id(), &Waits::Request(key));
            let abroad = this.hand_out(&request, push, ticket);
            this.note_abroad(key, abroad);
        } else {
            this.note_abroad(key, request.len());
            this.route(|router, now, out| router.push(now, key as u64, request, push, out));
        }
        Ok(PushTicket { worker: this.clone(), key, is_done: false })
    }

    /// Hands a scanned request to the shards of this node that own its messages. Returns the bytes that wait elsewhere.
    pub(super) fn hand_out(&self, request: &Bytes, push: Push, ticket: Ticket) -> usize {
        let (own, vbuckets, shards) = {
            let shard = self.shard.borrow();
            let config = shard.config();
            (config.shard, config.vbuckets, config.shards)
        };
        let owners = shards_of(&push, vbuckets, shards);
        match owners.as_slice() {
            [] => 0,
            [owner] if *owner == own => {
                self.store(request, &push, ticket);
                0
            }
            owners => {
                let push = Arc::new(push);
                owners.iter().for_each(|owner| self.hand_to(*owner, request, &push, ticket));
                request.len()
            }
        }
    }

    /// Hands messages to a shard of this node.
    fn hand_to(&self, owner: ShardId, request: &Bytes, push: &Arc<Push>, ticket: Ticket) {
        if owner == self.id() {
            self.store(request, push, ticket);
        } else if let Some(inbox) = self.inboxes.get(usize::from(owner.0)) {
            // A worker only goes when the node stops, and then nobody waits for the outcome.
            let _ = inbox.send(ToWorker::Push { request: request.clone(), push: push.clone(), ticket });
        }
    }

    /// Stores this shard's part of a request.
    pub(super) fn store(&self, request: &[u8], push: &Push, ticket: Ticket) {
        let mut outbox = self.outbox.borrow_mut();
        self.shard.borrow_mut().push(now_unix_ns(), request, push, ticket, &mut outbox);
        let has_effects = !outbox.replies.is_empty() || !outbox.wake.is_empty() || !outbox.to_followers.is_empty();
        drop(outbox);
        if has_effects {
            self.dispatch();
        }
        self.request_flush();
    }

    /// Lets the router decide something, and carries that out.
    pub(super) fn route(&self, decide: impl FnOnce(&mut Router, broky_proto::time::Timestamp, &mut Routed)) {
        let mut routed = Routed::default();
        decide(&mut self.router.borrow_mut(), self.now(), &mut routed);
        for told in routed.told {
            self.tell(usize::try_from(told.request).unwrap_or(usize::MAX), told.outcome);
        }
        for Part { id, to, request, push } in routed.parts {
            match to {
                Target::Shard(owner) => self.hand_to(owner, &request, &push, ticket(self.id(), &Waits::Part(id))),
                Target::Node(member) => self.forward(member, id, &request, &push),
            }
        }
        if self.router.borrow().next_timeout().is_some() {
            self.rerouting.notify_one();
        }
    }

    /// Sends on what waits for a leader, when it is time.
    pub(super) async fn keep_rerouting(self: Rc<Self>) {
        loop {
            let next = self.router.borrow().next_timeout();
            match next {
                None => self.rerouting.notified().await,
                Some(at) => {
                    tokio::time::sleep(at.since(self.now()).max(REROUTE_MIN)).await;
                    self.route(|router, now, out| router.handle_timeout(now, out));
                }
            }
        }
    }

    /// Takes the outcome of messages, or passes it on to the worker where it is waited for.
    pub(super) fn reply(&self, ticket: Ticket, outcome: PartOutcome) {
        let home = shard_of(ticket);
        if home != usize::from(self.id().0) {
            if let Some(inbox) = self.inboxes.get(home) {
                let _ = inbox.send(ToWorker::Reply { ticket, outcome });
            }
            return;
        }
        match waits(ticket) {
            Waits::Request(key) => self.tell(key, outcome),
            Waits::Part(id) => self.route(|router, now, out| router.handle_outcome(now, id, outcome, out)),
            Waits::Forwarded(key) => self.tell_sender(key, outcome),
        }
    }

    /// The ticket under which another node waits.
    pub(super) fn forwarded_ticket(&self, key: usize) -> Ticket {
        ticket(self.id(), &Waits::Forwarded(key))
    }

    /// Tells whoever pushed a request what became of some of its messages.
    fn tell(&self, key: usize, outcome: PartOutcome) {
        let mut requests = self.requests.borrow_mut();
        let Some(request) = requests.table.get_mut(key) else { return };
        if !request.collector.take(outcome) {
            return;
        }
        self.abroad_bytes.set(self.abroad_bytes.get() - std::mem::take(&mut request.abroad_bytes));
        if request.is_abandoned {
            requests.table.remove(key);
        } else if let Some(waker) = request.waker.take() {
            waker.wake();
        }
    }

    fn note_abroad(&self, key: usize, bytes: usize) {
        if let Some(request) = self.requests.borrow_mut().table.get_mut(key).filter(|it| !it.collector.is_complete()) {
            request.abroad_bytes = bytes;
            self.abroad_bytes.set(self.abroad_bytes.get() + bytes);
        }
    }

    /// Whether more requests may be taken while there are some that wait.
    pub(crate) fn has_room_for_requests(&self) -> bool {
        self.abroad_bytes.get() < self.waiting_bytes_max
    }

    /// Pushes that wait for their outcome.
    pub(super) fn requests_waiting(&self) -> usize {
        self.requests.borrow().table.len()
    }
}

/// The shortest wait before something is sent on.
const REROUTE_MIN: std::time::Duration = std::time::Duration::from_millis(1);

/// A claim to the outcome of one push.
pub(crate) struct PushTicket {
    worker: Rc<Worker>,
    key: usize,
    is_done: bool,
}

impl PushTicket {
    /// The outcome, once. Polled again after that it stays pending.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<PushResponse> {
        let mut requests = self.worker.requests.borrow_mut();
        let Some(request) = requests.table.get_mut(self.key).filter(|_| !self.is_done) else { return Poll::Pending };
        if !request.collector.is_complete() {
            request.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.is_done = true;
        Poll::Ready(requests.table.remove(self.key).collector.into_response())
    }
}

impl Drop for PushTicket {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let mut requests = self.worker.requests.borrow_mut();
        let Some(request) = requests.table.get_mut(self.key) else { return };
        if request.collector.is_complete() {
            requests.table.remove(self.key);
        } else {
            request.is_abandoned = true;
        }
    }
}
