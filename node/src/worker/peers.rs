//! A worker's share of the cluster: the map it goes by, its links to other nodes, and what it asks of the control
//! plane.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broky_proto::id::{Member, NodeId};
use broky_proto::peer::{Hello, Purpose};
use broky_proto::replicate::{decode_to_follower, decode_to_leader};
use broky_proto::time::Timestamp;
use broky_ring::command::Command;
use broky_ring::map::ClusterMap;
use broky_shard::{InboundId, NOTICE_DELAY, Outbox, SessionId, TICK};
use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::Worker;
use crate::control::How;
use crate::data::{self, FrameQueue, Method, Outbound};

/// What a worker asks of the control thread.
#[derive(Debug)]
pub(crate) enum FromWorker {
    /// To propose a command in this process's name.
    Propose { command: Command },
    /// To look at a member that cannot be reached.
    Unreachable { member: Member, how: How },
}

/// Time a follower has to answer when it is dialled.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_millis(800);
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(20);
pub(super) const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// A link to a follower, or the attempts to get one.
struct Link {
    task: AbortHandle,
}

/// One open stream, seen from its other end.
struct Stream {
    queue: FrameQueue,
    /// Dropped, it ends whoever reads the stream.
    _ended: oneshot::Sender<()>,
}

/// See the module.
pub(super) struct Peers {
    started: Instant,
    map: RefCell<Arc<ClusterMap>>,
    to_control: mpsc::UnboundedSender<FromWorker>,
    links: RefCell<BTreeMap<Member, Link>>,
    sessions: RefCell<BTreeMap<SessionId, Stream>>,
    inbound: RefCell<BTreeMap<InboundId, Stream>>,
    next_id: Cell<u64>,
    /// Woken when there is something to tick for.
    has_company: Notify,
    /// Woken when followers are to hear, a little later, what is committed.
    has_late_notices: Notify,
}

impl Peers {
    pub(super) fn new(to_control: mpsc::UnboundedSender<FromWorker>) -> Self {
        Self {
            started: Instant::now(),
            map: RefCell::default(),
            to_control,
            links: RefCell::default(),
            sessions: RefCell::default(),
            inbound: RefCell::default(),
            // Zero stands for "just started" in the shard.
            next_id: Cell::new(1),
            has_company: Notify::new(),
            has_late_notices: Notify::new(),
        }
    }

    /// Numbers what it is asked for.
    fn next_id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

    fn address_of(&self, node: NodeId) -> Option<String> {
        self.map.borrow().node(node).map(|node| node.addresses.peer.clone())
    }
}

impl Worker {
    /// This worker's monotonic clock. It begins a day after zero, so that "long ago" can be said.
    pub(super) fn now(&self) -> Timestamp {
        Timestamp(0).plus(Duration::from_secs(86_400) + self.peers.started.elapsed())
    }

    /// Takes a newer cluster map.
    pub(super) fn take_map(self: &Rc<Self>, map: Arc<ClusterMap>) {
        self.act(|shard, out| shard.handle_map(&map, out));
        *self.peers.map.borrow_mut() = map.clone();
        // A lone node leads everything, and what it refuses is refused for good.
        self.is_alone.set(map.nodes().count() <= 1);
        self.route(|router, now, out| router.handle_map(now, &map, out));
        self.prune_forwards();
        self.link_up();
        self.link_upstreams();
        self.peers.has_company.notify_one();
    }

    /// Lets the shard do something, and carries out what comes of it.
    pub(super) fn act<T>(&self, act: impl FnOnce(&mut broky_shard::Shard, &mut Outbox) -> T) -> T {
        let done = act(&mut self.shard.borrow_mut(), &mut self.outbox.borrow_mut());
        self.dispatch();
        self.request_flush();
        done
    }

    /// Where another process is reached by its peers.
    pub(super) fn peer_address(&self, member: Member) -> Option<String> {
        self.peers.address_of(member.node).filter(|_| self.is_current(member))
    }

    /// How this worker greets another process.
    pub(super) fn hello_to(&self, member: Member) -> Hello {
        let shard = self.shard.borrow();
        let config = shard.config();
        let (cluster, from, to) = (Some(config.cluster), Some(config.me), Some(member));
        Hello { purpose: Purpose::Data, shard: config.shard.0, cluster, from, to }
    }

    /// Numbers the streams that this worker opens.
    pub(super) fn next_serial(&self) -> u64 {
        self.peers.next_id()
    }

    /// Has links looked after from now on.
    pub(super) fn note_company(&self) {
        self.peers.has_company.notify_one();
    }

    /// Whether this is the current process of a node.
    pub(super) fn is_current(&self, member: Member) -> bool {
        self.peers.map.borrow().is_current(member)
    }

    /// Whether a node has a later process than this.
    pub(super) fn is_replaced(&self, member: Member) -> bool {
        self.peers.map.borrow().node(member.node).is_some_and(|node| node.incarnation > member.incarnation)
    }

    /// Whether this is the current process of a node, and takes part.
    pub(super) fn is_alive(&self, member: Member) -> bool {
        self.peers.map.borrow().is_alive(member)
    }

    /// Tells the control plane that a process cannot be reached. `is_refused` when nothing listens there any more.
    pub(super) fn report_unreachable(&self, member: Member, is_refused: bool) {
        let how = if is_refused { How::Refused } else { How::Silent };
        // The control thread ends last.
        let _ = self.peers.to_control.send(FromWorker::Unreachable { member, how });
    }

    /// Dials whom the shard wants a link to, and gives up the links it wants no more.
    fn link_up(self: &Rc<Self>) {
        let wanted = self.shard.borrow().wanted_sessions().to_vec();
        let mut links = self.peers.links.borrow_mut();
        links.retain(|member, link| {
            let is_wanted = wanted.contains(member);
            if !is_wanted {
                link.task.abort();
            }
            is_wanted
        });
        for member in wanted {
            links.entry(member).or_insert_with(|| {
                let task = tokio::task::spawn_local(self.clone().keep_link(member));
                Link { task: task.abort_handle() }
            });
        }
    }

    /// Keeps a link to a follower, for as long as the shard wants it.
    async fn keep_link(self: Rc<Self>, member: Member) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let Some(address) = self.peers.address_of(member.node) else { return };
            let queue = FrameQueue::default();
            let method = (Method::Replicate, self.next_serial());
            match data::open(&address, &self.hello_to(member), method, &queue, DIAL_TIMEOUT).await {
                Ok(stream) => {
                    backoff = BACKOFF_MIN;
                    self.lead(member, stream, queue).await;
                }
                Err(error) => {
                    let is_refused = error.is_gone();
                    tracing::debug!(%member, %address, %error, "a follower cannot be reached");
                    self.shard.borrow_mut().note_absent(member, is_refused);
                    self.report_unreachable(member, is_refused);
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Replicates to a follower until its stream ends.
    async fn lead(self: &Rc<Self>, member: Member, mut stream: Outbound, queue: FrameQueue) {
        let id = SessionId(self.peers.next_id());
        let (ended, mut is_ended) = oneshot::channel();
        self.peers.sessions.borrow_mut().insert(id, Stream { queue, _ended: ended });
        let guard = SessionGuard { worker: self, id };
        let now = self.now();
        self.act(|shard, out| shard.handle_session_open(now, id, member, out));
        let is_broken = loop {
            let message = tokio::select! {
                biased;
                _ = &mut is_ended => break false,
                message = stream.next() => message,
            };
            let Some(message) = message else { break true };
            let now = self.now();
            let taken = message
                .and_then(decode_to_leader)
                .and_then(|frame| self.act(|shard, out| shard.handle_to_leader(now, id, frame, out)));
            if let Err(error) = taken {
                tracing::warn!(%member, %error, "a follower breaks the protocol");
                break false;
            }
            self.spin.note_work();
        };
        drop(guard);
        if is_broken {
            // Whether the process is gone, the next attempt to dial tells.
            tracing::info!(%member, "the link to a follower broke");
        }
    }

    /// Takes a leader's connection.
    pub(super) fn serve_peer(self: &Rc<Self>, stream: std::net::TcpStream, hello: &Hello) {
        let (Some(leader), Ok(stream)) = (hello.from, tokio::net::TcpStream::from_std(stream)) else { return };
        tokio::task::spawn_local(data::serve(self.clone(), leader, stream));
    }

    /// Begins a stream from a leader. The receiver ends when the shard wants no more of it.
    pub(crate) fn open_inbound(&self, leader: Member, queue: FrameQueue) -> (InboundId, oneshot::Receiver<()>) {
        let id = InboundId(self.peers.next_id());
        let (ended, is_ended) = oneshot::channel();
        self.peers.inbound.borrow_mut().insert(id, Stream { queue, _ended: ended });
        self.act(|shard, out| shard.handle_inbound_open(id, leader, out));
        self.peers.has_company.notify_one();
        (id, is_ended)
    }

    /// Takes a leader's message.
    pub(crate) fn take_from_leader(&self, id: InboundId, message: Bytes) -> Result<(), String> {
        let frame = decode_to_follower(message).map_err(|error| error.to_string())?;
        let now = self.now();
        self.spin.note_work();
        self.act(|shard, out| shard.handle_to_follower(now, id, frame, out)).map_err(|error| error.to_string())
    }

    /// Ends a stream from a leader.
    pub(crate) fn close_inbound(&self, id: InboundId) {
        self.peers.inbound.borrow_mut().remove(&id);
        self.shard.borrow_mut().handle_inbound_closed(id);
    }

    /// Carries out what concerns other nodes.
    pub(super) fn dispatch_to_peers(&self, outbox: &mut Outbox) {
        for (id, frame) in outbox.to_followers.drain(..) {
            if let Some(stream) = self.peers.sessions.borrow().get(&id) {
                stream.queue.push(frame);
            }
        }
        if std::mem::take(&mut outbox.has_late_notices) {
            self.peers.has_late_notices.notify_one();
        }
        for (id, frame) in outbox.to_leaders.drain(..) {
            if let Some(stream) = self.peers.inbound.borrow().get(&id) {
                stream.queue.push(frame);
            }
        }
        for id in outbox.close_sessions.drain(..) {
            self.peers.sessions.borrow_mut().remove(&id);
        }
        for (id, reason) in outbox.close_inbound.drain(..) {
            tracing::debug!(reason, "a leader's link is closed");
            self.peers.inbound.borrow_mut().remove(&id);
        }
        let me = self.shard.borrow().config().me;
        let propose = |command| drop(self.peers.to_control.send(FromWorker::Propose { command }));
        if !outbox.isr_changes.is_empty() {
            propose(Command::AlterIsr { leader: me, changes: std::mem::take(&mut outbox.isr_changes) });
        }
        if !outbox.resign.is_empty() {
            propose(Command::Resign { leader: me, vbuckets: std::mem::take(&mut outbox.resign) });
        }
        for (vbucket, epoch, end) in outbox.extend.drain(..) {
            propose(Command::ExtendLineage { leader: me, vbucket, epoch, end });
        }
    }

    /// Tells followers without readers what is committed, soon after it was.
    pub(super) async fn keep_noticing(self: Rc<Self>) {
        loop {
            self.peers.has_late_notices.notified().await;
            tokio::time::sleep(NOTICE_DELAY).await;
            self.act(|shard, out| shard.send_late_notices(out));
        }
    }

    /// Looks after links and ISRs while there are other nodes.
    pub(super) async fn keep_ticking(self: Rc<Self>) {
        loop {
            let is_alone = {
                let peers = &self.peers;
                let has_links = !peers.links.borrow().is_empty() || !peers.inbound.borrow().is_empty();
                !has_links && !self.has_upstreams() && !self.shard.borrow().has_histories()
            };
            if is_alone {
                self.peers.has_company.notified().await;
                continue;
            }
            tokio::time::sleep(TICK).await;
            let now = self.now();
            self.act(|shard, out| shard.handle_tick(now, out));
        }
    }
}

/// Forgets a session when its task ends, also when it is aborted.
struct SessionGuard<'a> {
    worker: &'a Worker,
    id: SessionId,
}

impl Drop for SessionGuard<'_> {
    fn drop(&mut self) {
        let worker = self.worker;
        worker.peers.sessions.borrow_mut().remove(&self.id);
        let now = worker.now();
        worker.shard.borrow_mut().handle_session_closed(now, self.id, false);
    }
}
