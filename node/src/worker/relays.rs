//! Deliveries from and to other nodes: what clients here subscribe to and this node does not hold, and the other way
//! round.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use broky_delivery::RelayId;
use broky_proto::error::Refusal;
use broky_proto::id::Member;
use broky_proto::relay::{decode_history, decode_to_owner, decode_to_relay};
use broky_proto::v1::ErrorCode;
use broky_shard::{Frame, HistoryId, Outbox, UpstreamId};
use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Worker;
use super::peers::{BACKOFF_MAX, BACKOFF_MIN, DIAL_TIMEOUT};
use crate::data::{self, FrameQueue, Method, Outbound};

/// Deliveries of history that may wait for their subscriber.
const BACKLOG_MAX: usize = 2;
/// Streams of history that a worker has open at the same time. Raised, many subscriptions that are resumed at once
/// begin sooner, and take more memory.
const HISTORIES_MAX: usize = 128;
/// Streams beyond those that are open just for where history begins: a subscription is not confirmed before.
const BEGINNINGS_MAX: usize = 32;
/// Time a subscriber may take nothing before its stream is given up. It is opened again when the subscriber goes on.
const STALLED: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Relays {
    /// Links to those who relay something to this worker, or the attempts to get them.
    links: RefCell<BTreeMap<Member, AbortHandle>>,
    queues: RefCell<BTreeMap<UpstreamId, FrameQueue>>,
    next_id: Cell<u64>,
    /// Those whom this node relays something to, waiting for it.
    wakers: RefCell<HashMap<RelayId, Waker>>,
    /// A subscriber has taken something, or is gone.
    room: Notify,
    /// Streams of history that may still be opened.
    histories: Semaphore,
    beginnings: Semaphore,
}

impl Default for Relays {
    fn default() -> Self {
        Self {
            links: RefCell::default(),
            queues: RefCell::default(),
            next_id: Cell::default(),
            wakers: RefCell::default(),
            room: Notify::new(),
            histories: Semaphore::new(HISTORIES_MAX),
            beginnings: Semaphore::new(BEGINNINGS_MAX),
        }
    }
}

impl Worker {
    pub(super) fn has_upstreams(&self) -> bool {
        !self.relays.links.borrow().is_empty()
    }

    /// Dials whom the shard wants something relayed by, and gives up the links it wants no more.
    pub(super) fn link_upstreams(self: &Rc<Self>) {
        let wanted = self.shard.borrow().wanted_upstreams();
        let mut links = self.relays.links.borrow_mut();
        links.retain(|member, link| {
            let is_wanted = wanted.contains(member);
            if !is_wanted {
                link.abort();
            }
            is_wanted
        });
        for member in wanted {
            links
                .entry(member)
                .or_insert_with(|| tokio::task::spawn_local(self.clone().keep_upstream(member)).abort_handle());
        }
    }

    /// Keeps a link to an owner, for as long as the shard wants it.
    async fn keep_upstream(self: Rc<Self>, member: Member) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let Some(address) = self.peer_address(member) else { return };
            let queue = FrameQueue::default();
            let method = (Method::Relay, self.next_serial());
            match data::open(&address, &self.hello_to(member), method, &queue, DIAL_TIMEOUT).await {
                Ok(stream) => {
                    backoff = BACKOFF_MIN;
                    self.take_relayed(member, stream, queue).await;
                }
                Err(error) => {
                    tracing::debug!(%member, %address, %error, "an owner cannot be reached");
                    self.report_unreachable(member, error.is_gone());
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Takes what an owner relays until its stream ends.
    async fn take_relayed(self: &Rc<Self>, member: Member, mut stream: Outbound, queue: FrameQueue) {
        let id = UpstreamId(self.relays.next_id.replace(self.relays.next_id.get() + 1));
        self.relays.queues.borrow_mut().insert(id, queue);
        let guard = UpstreamGuard { worker: self, id };
        self.act(|shard, out| shard.handle_upstream_open(id, member, out));
        while let Some(message) = stream.next().await {
            let taken = message
                .and_then(decode_to_relay)
                .and_then(|frame| self.act(|shard, out| shard.handle_to_relay(id, frame, out)));
            if let Err(error) = taken {
                tracing::warn!(%member, %error, "a relayed stream begins anew");
                break;
            }
            self.spin.note_work();
        }
        drop(guard);
    }

    /// Carries out what concerns deliveries from and to other nodes.
    pub(super) fn dispatch_relays(&self, outbox: &mut Outbox) {
        for (id, frame) in outbox.to_owners.drain(..) {
            if let Some(queue) = self.relays.queues.borrow().get(&id) {
                queue.push(frame);
            }
        }
        for id in outbox.wake_relays.drain(..) {
            if let Some(waker) = self.relays.wakers.borrow_mut().remove(&id) {
                waker.wake();
            }
        }
        for (name, member, request) in outbox.histories.drain(..) {
            if let Some(this) = self.this.upgrade() {
                tokio::task::spawn_local(this.fetch_history(name, member, request));
            }
        }
    }

    /// Fetches history for a subscription, no faster than that is read.
    async fn fetch_history(self: Rc<Self>, name: HistoryId, member: Member, request: Bytes) {
        let is_whole = self.take_history(name, member, request).await;
        self.act(|shard, out| shard.handle_history_end(name, is_whole, out));
    }

    /// Whether all of it came.
    async fn take_history(&self, name: HistoryId, member: Member, request: Bytes) -> bool {
        let Relays { histories, beginnings, .. } = &self.relays;
        // Slow readers may hold all there are. Nobody is left unconfirmed for that: the rest is asked for later.
        let is_beginning = histories.available_permits() == 0 && self.shard.borrow().is_history_unheard(name);
        // None is ever closed.
        let permit = if is_beginning { beginnings.acquire().await } else { histories.acquire().await };
        let (Ok(_permit), Some(_)) = (permit, self.shard.borrow().history_backlog(name)) else { return false };
        let Some(address) = self.peer_address(member) else { return false };
        let queue = FrameQueue::default();
        queue.push(request.into());
        queue.close();
        let method = (Method::History, self.next_serial());
        let opened = data::open(&address, &self.hello_to(member), method, &queue, DIAL_TIMEOUT).await;
        let Ok(mut stream) = opened else { return false };
        let mut stalled_at = Instant::now() + STALLED;
        loop {
            let room = self.relays.room.notified();
            let backlog = self.shard.borrow().history_backlog(name);
            let Some(backlog) = backlog else { return false };
            if backlog >= BACKLOG_MAX {
                if tokio::time::timeout_at(stalled_at, room).await.is_err() {
                    return false;
                }
                continue;
            }
            stalled_at = Instant::now() + STALLED;
            let message = tokio::select! {
                biased;
                message = stream.next() => message,
                // Whoever waits for it may be gone.
                () = room => continue,
            };
            match message {
                // The mark behind the last delivery.
                Some(Ok(message)) if message.is_empty() => return true,
                Some(Ok(message)) => self.act(|shard, out| shard.handle_history(name, message, out)),
                Some(Err(_)) | None => return false,
            }
            if is_beginning {
                return false;
            }
        }
    }

    /// Notes that a subscriber has taken something, or is gone.
    pub(super) fn note_room(&self) {
        self.relays.room.notify_waiters();
    }

    /// Takes another node as a reader of what is led here.
    pub(crate) fn open_relay(&self) -> RelayId {
        self.shard.borrow_mut().open_relay()
    }

    /// Takes a message of such a node.
    pub(crate) fn take_from_relay(&self, id: RelayId, message: Bytes) -> Result<(), String> {
        let frame = decode_to_owner(message).map_err(|error| error.to_string())?;
        self.act(|shard, out| shard.handle_to_owner(id, frame, out)).map_err(|error| error.to_string())
    }

    /// What such a node is sent next.
    pub(crate) fn poll_relay(&self, id: RelayId, cx: &Context<'_>) -> Poll<Frame> {
        match self.shard.borrow_mut().poll_relay(id) {
            Some(frame) => Poll::Ready(frame),
            None => {
                self.relays.wakers.borrow_mut().insert(id, cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Ends such a node's reading.
    pub(crate) fn close_relay(&self, id: RelayId) {
        self.relays.wakers.borrow_mut().remove(&id);
        self.shard.borrow_mut().close_relay(id);
    }

    /// Opens history for a subscription at another node.
    pub(crate) fn open_history(&self, request: Bytes) -> Result<broky_delivery::SubscriptionId, Refusal> {
        let history = decode_history(request).map_err(|error| Refusal::new(ErrorCode::Malformed, error.to_string()))?;
        let id = self.shard.borrow_mut().open_history(&history)?;
        self.note_reader(id, None);
        Ok(id)
    }
}

/// Forgets a link to an owner when its task ends, also when it is aborted.
struct UpstreamGuard<'a> {
    worker: &'a Rc<Worker>,
    id: UpstreamId,
}

impl Drop for UpstreamGuard<'_> {
    fn drop(&mut self) {
        self.worker.relays.queues.borrow_mut().remove(&self.id);
        let id = self.id;
        self.worker.act(|shard, out| shard.handle_upstream_closed(id, out));
    }
}
