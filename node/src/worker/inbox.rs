//! What reaches a worker from other threads.

use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;

use broky_delivery::{BlockSeq, DeliveryStats, FeedId};
use broky_proto::wire::Push;
use broky_shard::{MirrorBlock, PartOutcome, ShardId, ShardStats, Ticket};
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
    /// Another shard's committed blocks, how many of its oldest are gone, and up to which their holders must go.
    Mirror { from: ShardId, blocks: Vec<MirrorBlock>, evicted: u64, cut: Option<BlockSeq> },
    /// Wants to know how the worker is doing.
    Stats(oneshot::Sender<WorkerStats>),
    /// Wants the worker to end.
    Stop,
}

/// How a worker is doing.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct WorkerStats {
    pub(crate) shard: ShardStats,
    pub(crate) delivery: DeliveryStats,
    pub(crate) led: usize,
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
                ToWorker::Mirror { from, blocks, evicted, cut } => self.take_mirror(from, blocks, evicted, cut),
                // Whoever asked may have stopped waiting.
                ToWorker::Stats(answer) => drop(answer.send(self.stats())),
                ToWorker::Stop => return,
            }
        }
    }

    fn take_mirror(&self, from: ShardId, blocks: Vec<MirrorBlock>, evicted: u64, cut: Option<BlockSeq>) {
        let feed = FeedId(from.0);
        {
            let (mut shard, mut outbox) = (self.shard.borrow_mut(), self.outbox.borrow_mut());
            for MirrorBlock { block, entries } in blocks {
                shard.handle_mirrored(feed, block, &entries, &mut outbox);
            }
            shard.handle_mirror_evicted(feed, evicted);
            if let Some(through) = cut {
                shard.handle_mirror_cut(feed, through, &mut outbox);
            }
        }
        self.dispatch();
    }

    fn stats(&self) -> WorkerStats {
        let shard = self.shard.borrow();
        WorkerStats {
            shard: shard.stats(),
            delivery: shard.delivery_stats(),
            led: shard.led(),
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
