//! What reaches a worker from other threads.

use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;

use broky_delivery::{BlockSeq, DeliveryStats, FeedId};
use broky_proto::id::{Lineage, Offset, VBucketId};
use broky_proto::peer::Hello;
use broky_proto::wire::Push;
use broky_ring::map::ClusterMap;
use broky_shard::{Mirror, PartOutcome, ShardId, ShardStats, Ticket};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::Worker;
use crate::listener::Admission;

/// A worker's inbox. What it holds is bounded by what its senders have in flight: a pushing stream is not read on while
/// too much of it waits for outcomes.
pub(crate) type Inbox = mpsc::UnboundedSender<ToWorker>;

/// What reaches a worker from other threads.
pub(crate) enum ToWorker {
    /// A connection to serve.
    Connection { stream: TcpStream, admission: Admission },
    /// A request of which this shard owns a part.
    Push { request: Bytes, push: Arc<Push>, ticket: Ticket },
    /// The outcome of another shard's part of a request.
    Reply { ticket: Ticket, outcome: PartOutcome },
    /// What another shard has done to what readers see of it, and up to which block its holders must go.
    Mirror { from: ShardId, news: Vec<Mirror>, cut: Option<BlockSeq> },
    /// A newer cluster map.
    Map(Arc<ClusterMap>),
    /// A leader's connection.
    Peer { stream: TcpStream, hello: Hello },
    /// Wants to know how the worker is doing.
    Stats(oneshot::Sender<WorkerStats>),
    /// Wants to know which logs the worker holds.
    Logs(oneshot::Sender<Vec<HeldLog>>),
    /// Wants the worker to end.
    Stop,
}

/// One log that a worker holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldLog {
    pub(crate) vbucket: VBucketId,
    pub(crate) lineage: Lineage,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
}

/// How a worker is doing.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct WorkerStats {
    pub(crate) shard: ShardStats,
    pub(crate) delivery: DeliveryStats,
    pub(crate) led: usize,
    pub(crate) followed: usize,
    pub(crate) connections: usize,
    pub(crate) subscriptions: usize,
    pub(crate) interests: usize,
    pub(crate) requests_waiting: usize,
    pub(crate) blocks: usize,
    pub(crate) memory_used_bytes: usize,
    pub(crate) memory_pinned_bytes: usize,
    pub(crate) inbound_bytes: usize,
}

impl Worker {
    /// Handles what arrives, until the inbox closes or the worker has to end.
    pub(super) async fn keep_receiving(self: &Rc<Self>, inbox: &mut mpsc::UnboundedReceiver<ToWorker>) {
        while let Some(message) = inbox.recv().await {
            match message {
                ToWorker::Connection { stream, admission } => self.serve(stream, admission),
                ToWorker::Push { request, push, ticket } => self.store(&request, &push, ticket),
                ToWorker::Reply { ticket, outcome } => self.reply(ticket, outcome),
                ToWorker::Mirror { from, news, cut } => self.take_mirror(from, news, cut),
                ToWorker::Map(map) => self.take_map(map),
                ToWorker::Peer { stream, hello } => self.serve_peer(stream, &hello),
                // Whoever asked may have stopped waiting.
                ToWorker::Stats(answer) => drop(answer.send(self.stats())),
                ToWorker::Logs(answer) => drop(answer.send(self.logs())),
                ToWorker::Stop => return,
            }
        }
    }

    fn take_mirror(&self, from: ShardId, news: Vec<Mirror>, cut: Option<BlockSeq>) {
        let feed = FeedId(from.0);
        // What another worker's readers ask for may have to come from other nodes.
        let has_wants = news.iter().any(|mirror| matches!(mirror, Mirror::Wants { .. }));
        self.act(|shard, out| {
            for mirror in news {
                shard.handle_mirror(feed, mirror, out);
            }
            if let Some(through) = cut {
                shard.handle_mirror_cut(feed, through, out);
            }
        });
        if has_wants {
            self.look_after_upstreams();
        }
    }

    fn logs(&self) -> Vec<HeldLog> {
        let shard = self.shard.borrow();
        let held = |vbucket| {
            let log = shard.log(vbucket)?;
            Some(HeldLog { vbucket, lineage: log.lineage(), start: log.start(), end: log.end() })
        };
        shard.config().vbuckets.iter().filter_map(held).collect()
    }

    fn stats(&self) -> WorkerStats {
        let shard = self.shard.borrow();
        WorkerStats {
            shard: shard.stats(),
            delivery: shard.delivery_stats(),
            led: shard.led(),
            followed: shard.followed(),
            connections: self.connections.borrow().len(),
            subscriptions: shard.delivery().subscriptions(),
            interests: shard.delivery().interests(),
            requests_waiting: self.requests_waiting(),
            blocks: shard.delivery().blocks(),
            memory_used_bytes: shard.memory_used(),
            memory_pinned_bytes: shard.pinned_bytes(),
            inbound_bytes: self.inbound_bytes.get(),
        }
    }
}
