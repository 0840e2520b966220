//! Pushes that other nodes' shards have to store, and those that other nodes have sent here.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use broky_proto::forward::{ForwardError, decode, decode_outcome, encode};
use broky_proto::frame;
use broky_proto::id::Member;
use broky_proto::wire::Push;
use broky_shard::{Collector, PartId, PartOutcome};
use bytes::Bytes;
use slab::Slab;
use tokio::task::AbortHandle;

use super::Worker;
use crate::data::{self, FrameQueue, Method};

/// A link on which pushes are forwarded to another process.
struct Link {
    queue: FrameQueue,
    task: AbortHandle,
}

/// A part that another node waits for.
struct Waiting {
    part: u64,
    collector: Collector,
    answers: FrameQueue,
}

/// A stream on which the worker of this one's number forwards in another process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForwardLink {
    pub(crate) from: Member,
    /// Higher than that of the links before it.
    pub(crate) serial: u64,
}

/// The newest link of each process that forwards to this worker, by its serial.
#[derive(Default)]
struct Newest(BTreeMap<Member, u64>);

impl Newest {
    /// Whether no link that is newer than this one is known; it is known from now on.
    fn is_newest(&mut self, link: ForwardLink) -> bool {
        let newest = self.0.entry(link.from).or_default();
        *newest = link.serial.max(*newest);
        *newest == link.serial
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Forwards {
    links: RefCell<BTreeMap<Member, Link>>,
    newest: RefCell<Newest>,
    waiting: RefCell<Slab<Waiting>>,
}

impl Worker {
    /// Sends messages on to the process that leads their vbuckets.
    pub(super) fn forward(&self, member: Member, id: PartId, request: &Bytes, push: &Push) {
        let Some(this) = self.this.upgrade() else { return };
        let mut links = self.forwards.links.borrow_mut();
        let link = links.entry(member).or_insert_with(|| {
            let queue = FrameQueue::default();
            let task = tokio::task::spawn_local(this.keep_forwarding(member, queue.clone()));
            Link { queue, task: task.abort_handle() }
        });
        link.queue.push(encode(id.0, request, push).into());
    }

    /// Forwards to one process until the link breaks.
    async fn keep_forwarding(self: Rc<Self>, member: Member, queue: FrameQueue) {
        if let Some(mut stream) = self.dial_forward(member, &queue).await {
            while let Some(Ok(message)) = stream.next().await {
                let Ok((id, outcome)) = outcome_of(message) else { break };
                self.spin.note_work();
                self.route(|router, now, out| router.handle_outcome(now, id, outcome, out));
            }
        }
        self.forwards.links.borrow_mut().remove(&member);
        queue.abandon();
        self.route(|router, now, out| {
            // A peer that does not answer may have taken what it was sent.
            let unsent = if queue.has_given() { Vec::new() } else { router.unanswered_at(member) };
            router.handle_link_down(now, member, &unsent, out);
        });
    }

    async fn dial_forward(&self, member: Member, queue: &FrameQueue) -> Option<data::Outbound> {
        let address = self.peer_address(member)?;
        let method = (Method::Forward, self.next_serial());
        match data::open(&address, &self.hello_to(member), method, queue, super::peers::DIAL_TIMEOUT).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(%member, %address, %error, "a leader cannot be reached");
                self.report_unreachable(member, error.is_gone());
                None
            }
        }
    }

    /// Gives up links to processes that are no longer in the map or count as dead: what they owe goes to whoever leads
    /// now.
    pub(super) fn prune_forwards(&self) {
        let mut gone = Vec::new();
        self.forwards.links.borrow_mut().retain(|member, link| {
            let is_alive = self.is_alive(*member);
            if !is_alive {
                link.task.abort();
                link.queue.abandon();
                gone.push(*member);
            }
            is_alive
        });
        self.forwards.newest.borrow_mut().0.retain(|member, _| !self.is_replaced(*member));
        for member in gone {
            self.route(|router, now, out| router.handle_link_down(now, member, &[], out));
        }
    }

    /// Whether what comes on a link is still wanted: no later one has begun.
    pub(crate) fn is_newest(&self, link: ForwardLink) -> bool {
        self.forwards.newest.borrow_mut().is_newest(link)
    }

    /// Stores what another node has forwarded; the outcome goes to `answers`.
    pub(crate) fn take_forwarded(&self, message: Bytes, answers: &FrameQueue) -> Result<(), ForwardError> {
        let (part, request, push) = decode(message)?;
        self.spin.note_work();
        let collector = Collector::new(&push);
        let waiting = Waiting { part, collector, answers: answers.clone() };
        let key = self.forwards.waiting.borrow_mut().insert(waiting);
        self.hand_out(&request, push, self.forwarded_ticket(key));
        Ok(())
    }

    /// Tells another node what became of the messages it has forwarded.
    pub(super) fn tell_sender(&self, key: usize, outcome: PartOutcome) {
        let mut waiting = self.forwards.waiting.borrow_mut();
        let Some(known) = waiting.get_mut(key) else { return };
        if known.collector.take(outcome) {
            let Waiting { part, collector, answers } = waiting.remove(key);
            answers.push(frame::encode(&collector.into_part().into_forwarded(part)).into());
        }
    }
}

fn outcome_of(message: Bytes) -> Result<(PartId, PartOutcome), ForwardError> {
    decode_outcome(message).map(PartOutcome::of_forwarded)
}

#[cfg(test)]
mod tests {
    use broky_proto::id::{Incarnation, NodeId};

    use super::*;

    #[test]
    fn link_is_not_read_on_once_its_successor_has_begun_in_whichever_order_they_arrive() {
        let mut newest = Newest::default();
        let member = |node| Member { node: NodeId(node), incarnation: Incarnation(1) };
        let link = |node, serial| ForwardLink { from: member(node), serial };
        assert!(newest.is_newest(link(0, 4)) && newest.is_newest(link(1, 3)));
        assert!(newest.is_newest(link(0, 7)));
        assert!(!newest.is_newest(link(0, 4)) && newest.is_newest(link(1, 3)) && newest.is_newest(link(0, 7)));
        assert!(!newest.is_newest(link(0, 6)), "it was under way for longer than the next");
    }
}
