//! A worker: one thread with a shard and its share of the connections. Nothing here is shared with another thread; what
//! crosses to another worker goes as whole blocks and requests through its inbox.

mod connection;
mod forward;
mod inbox;
mod peers;
mod relays;
mod requests;
mod spin;
mod stop;
mod subscriptions;
mod thread;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::{SystemTime, UNIX_EPOCH};

use broky_proto::v1::TopologyResponse;
use broky_shard::{Outbox, Router, Shard, ShardId};
use slab::Slab;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tonic::service::Routes;

pub(crate) use connection::LocalExecutor;
pub(crate) use forward::ForwardLink;
pub(crate) use inbox::{HeldLog, Inbox, ToWorker, WorkerStats};
pub(crate) use peers::FromWorker;
pub(crate) use requests::PushTicket;
pub(crate) use stop::StopWatch;
pub(crate) use thread::{WorkerConfig, spawn};

use forward::Forwards;
use peers::Peers;
use relays::Relays;
use requests::Requests;
use spin::Spin;
use stop::Stop;

/// A connection of this worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ConnectionId(usize);

/// Who reads a subscription.
#[derive(Default)]
struct Reader {
    waker: Option<Waker>,
    /// `None` when it is another node.
    connection: Option<ConnectionId>,
    is_open: bool,
}

/// One thread's state.
pub(crate) struct Worker {
    /// This very worker, for tasks that it spawns.
    this: Weak<Self>,
    shard: RefCell<Shard>,
    outbox: RefCell<Outbox>,
    requests: RefCell<Requests>,
    /// By subscription index.
    readers: RefCell<Vec<Reader>>,
    connections: RefCell<Slab<Option<AbortHandle>>>,
    /// Bytes of messages that have begun to arrive.
    inbound_bytes: Cell<usize>,
    inbound_bytes_max: usize,
    /// Bytes of requests that may wait for other shards, here or at other nodes, before streams are not read on.
    waiting_bytes_max: usize,
    message_bytes_max: usize,
    is_flush_due: Cell<bool>,
    flush_due: Notify,
    subscribed: Notify,
    /// Inboxes of all workers, this one's among them.
    inboxes: Vec<Inbox>,
    /// Bytes of requests that wait at other shards.
    abroad_bytes: Cell<usize>,
    topology: watch::Receiver<TopologyResponse>,
    /// Health, reflection, and the answer to unknown methods.
    routes: Routes,
    spin: Spin,
    stop: Stop,
    peers: Peers,
    router: RefCell<Router>,
    /// Something waits to be sent on.
    rerouting: Notify,
    forwards: Forwards,
    relays: Relays,
    /// No other node is registered.
    is_alone: Cell<bool>,
}

impl Worker {
    pub(crate) fn new(config: &WorkerConfig, shard: Shard, this: Weak<Self>) -> Self {
        Self {
            this,
            inbound_bytes_max: (shard.config().memory_bytes / 4).max(INBOUND_BYTES_MIN),
            waiting_bytes_max: (shard.config().memory_bytes / 4).max(INBOUND_BYTES_MIN),
            shard: RefCell::new(shard),
            outbox: RefCell::default(),
            requests: RefCell::default(),
            readers: RefCell::default(),
            connections: RefCell::default(),
            inbound_bytes: Cell::new(0),
            message_bytes_max: config.message_bytes_max,
            is_flush_due: Cell::new(false),
            flush_due: Notify::new(),
            subscribed: Notify::new(),
            inboxes: config.inboxes.clone(),
            abroad_bytes: Cell::new(0),
            topology: config.topology.clone(),
            routes: config.routes.clone(),
            spin: Spin::default(),
            stop: Stop::default(),
            peers: Peers::new(config.to_control.clone()),
            router: RefCell::new(Router::new(config.shard.me, config.shard.shards, config.shard.vbuckets)),
            rerouting: Notify::new(),
            forwards: Forwards::default(),
            relays: Relays::default(),
            is_alone: Cell::new(true),
        }
    }

    fn id(&self) -> ShardId {
        self.shard.borrow().config().shard
    }

    /// Notes that a half-arrived message grew or shrank. Returns whether all of them together fit.
    pub(crate) fn note_inbound(&self, before: usize, now: usize) -> bool {
        let total = self.inbound_bytes.get() - before + now;
        self.inbound_bytes.set(total);
        total <= self.inbound_bytes_max
    }

    /// The cluster map in the form that clients get.
    pub(crate) fn topology(&self) -> watch::Receiver<TopologyResponse> {
        self.topology.clone()
    }

    /// Has the open block sealed once the tasks that are ready now have run.
    fn request_flush(&self) {
        if self.shard.borrow().needs_flush() && !self.is_flush_due.replace(true) {
            self.flush_due.notify_one();
        }
    }

    /// Seals and commits whenever something was pushed.
    async fn keep_flushing(self: Rc<Self>) {
        loop {
            self.flush_due.notified().await;
            self.is_flush_due.set(false);
            self.spin.note_work();
            self.shard.borrow_mut().flush(&mut self.outbox.borrow_mut());
            self.dispatch();
        }
    }

    /// Marks heartbeats as due while anybody is subscribed.
    async fn keep_heartbeats(self: Rc<Self>) {
        loop {
            if self.shard.borrow().delivery().subscriptions() == 0 {
                self.subscribed.notified().await;
            }
            tokio::time::sleep(HEARTBEAT_PERIOD / HEARTBEAT_PARTS).await;
            self.shard.borrow_mut().delivery_mut().handle_heartbeat(&mut self.outbox.borrow_mut().wake);
            self.dispatch();
        }
    }

    /// Carries out what the shard wants done. Readers are woken before pushers: a message is on its way to whoever
    /// waits for it before a system call is spent on telling that it was stored.
    fn dispatch(&self) {
        let mut outbox = std::mem::take(&mut *self.outbox.borrow_mut());
        self.mirror(&mut outbox);
        let mut readers = self.readers.borrow_mut();
        for id in outbox.wake.drain(..) {
            if let Some(waker) = readers.get_mut(id.index()).and_then(|reader| reader.waker.take()) {
                waker.wake();
            }
        }
        for id in outbox.cut.drain(..) {
            let connection = readers.get(id.index()).and_then(|reader| reader.connection);
            self.cut(connection);
        }
        drop(readers);
        self.dispatch_to_peers(&mut outbox);
        self.dispatch_relays(&mut outbox);
        for reply in outbox.replies.drain(..) {
            self.reply(reply.ticket, reply.outcome);
        }
        // The lists are used again, unless an outcome has led to something that is still to be carried out.
        let mut current = self.outbox.borrow_mut();
        if current.is_empty() {
            *current = outbox;
        }
    }

    fn mirror(&self, outbox: &mut Outbox) {
        let cut = outbox.mirror_cut.take();
        if outbox.mirror.is_empty() && cut.is_none() {
            return;
        }
        let news = std::mem::take(&mut outbox.mirror);
        for (at, inbox) in self.inboxes.iter().enumerate() {
            if at != usize::from(self.id().0) {
                let message = ToWorker::Mirror { from: self.id(), news: news.clone(), cut };
                // A worker that is gone reads nothing any more.
                let _ = inbox.send(message);
            }
        }
    }
}

/// Messages may always take this much while they arrive, and as much while they wait for other shards: 32 MiB.
const INBOUND_BYTES_MIN: usize = 32 << 20;
/// A subscription hears of its node at least this often.
const HEARTBEAT_PERIOD: std::time::Duration = std::time::Duration::from_millis(900);
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const HEARTBEAT_PARTS: u32 = broky_delivery::HEARTBEAT_SLOTS as u32;

/// The wall clock, in Unix nanoseconds.
fn now_unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
