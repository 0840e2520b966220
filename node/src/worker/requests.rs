//! Pushes that wait for their outcome.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use broky_proto::error::Refusal;
use broky_proto::v1::PushResponse;
use broky_proto::wire::{Push, scan_push};
use broky_shard::{Collector, PartOutcome, ShardId, Ticket, shards_of};
use bytes::Bytes;
use slab::Slab;

use super::inbox::ToWorker;
use super::{Worker, now_unix_ns};

/// A request whose parts have not all reported.
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

/// Bits of a ticket that name the request; those above name the shard it came in at.
const REQUEST_BITS: u32 = 48;

fn ticket(shard: ShardId, key: usize) -> Ticket {
    Ticket(u64::from(shard.0) << REQUEST_BITS | key as u64)
}

fn shard_of(ticket: Ticket) -> usize {
    usize::try_from(ticket.0 >> REQUEST_BITS).unwrap_or(usize::MAX)
}

fn key_of(ticket: Ticket) -> usize {
    usize::try_from(ticket.0 & ((1 << REQUEST_BITS) - 1)).unwrap_or(usize::MAX)
}

impl Worker {
    /// Takes an encoded `PushRequest` and hands its messages to the shards that own them.
    ///
    /// # Errors
    /// The refusal of a request that is broken as a whole; nothing was stored.
    pub(crate) fn push(this: &Rc<Self>, request: Bytes) -> Result<PushTicket, Refusal> {
        let push = scan_push(&request, this.message_bytes_max).map_err(|(code, reason)| Refusal::new(code, reason))?;
        let (own, vbuckets, shards) = {
            let shard = this.shard.borrow();
            let config = shard.config();
            (config.shard, config.vbuckets, config.shards)
        };
        let owners = shards_of(&push, vbuckets, shards);
        let parts = u16::try_from(owners.len()).unwrap_or(u16::MAX);
        let collector = Collector::new(&push, parts);
        let is_abroad = owners.iter().any(|owner| *owner != own);
        let abroad_bytes = if is_abroad { request.len() } else { 0 };
        this.abroad_bytes.set(this.abroad_bytes.get() + abroad_bytes);
        let waiting = Request { collector, waker: None, is_abandoned: false, abroad_bytes };
        let key = this.requests.borrow_mut().table.insert(waiting);
        let ticket = ticket(own, key);
        if is_abroad {
            this.push_abroad(&owners, own, &request, push, ticket);
        } else if !owners.is_empty() {
            this.store(&request, &push, ticket);
        }
        Ok(PushTicket { worker: this.clone(), key, is_done: false })
    }

    fn push_abroad(&self, owners: &[ShardId], own: ShardId, request: &Bytes, push: Push, ticket: Ticket) {
        let push = Arc::new(push);
        for owner in owners {
            if *owner == own {
                self.store(request, &push, ticket);
            } else if let Some(inbox) = self.inboxes.get(usize::from(owner.0)) {
                // A worker only goes when the node stops, and then nobody waits for the outcome.
                let _ = inbox.send(ToWorker::Push { request: request.clone(), push: push.clone(), ticket });
            }
        }
    }

    /// Stores this shard's part of a request.
    pub(super) fn store(&self, request: &[u8], push: &Push, ticket: Ticket) {
        let mut outbox = self.outbox.borrow_mut();
        self.shard.borrow_mut().push(now_unix_ns(), request, push, ticket, &mut outbox);
        let has_effects = !outbox.replies.is_empty() || !outbox.wake.is_empty();
        drop(outbox);
        if has_effects {
            self.dispatch();
        }
        self.request_flush();
    }

    /// Takes the outcome of one part, or passes it on to the worker whose request it is.
    pub(super) fn reply(&self, ticket: Ticket, outcome: PartOutcome) {
        let home = shard_of(ticket);
        if home != usize::from(self.id().0) {
            if let Some(inbox) = self.inboxes.get(home) {
                let _ = inbox.send(ToWorker::Reply { ticket, outcome });
            }
            return;
        }
        let mut requests = self.requests.borrow_mut();
        let key = key_of(ticket);
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

    /// Pushes that wait for their outcome.
    pub(super) fn requests_waiting(&self) -> usize {
        self.requests.borrow().table.len()
    }
}

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
