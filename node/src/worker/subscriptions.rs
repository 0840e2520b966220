//! Subscriptions of this worker's connections.

use std::task::Context;

use broky_delivery::{Poll, SubscriptionId};
use broky_proto::error::Refusal;
use broky_proto::v1::{ErrorCode, Open};

use super::{ConnectionId, Worker};

impl Worker {
    /// Opens a subscription.
    pub(crate) fn open_subscription(&self, connection: ConnectionId, open: &Open) -> Result<SubscriptionId, Refusal> {
        if self.stop.is_stopping() {
            return Err(Refusal::new(ErrorCode::ShuttingDown, "the node is shutting down"));
        }
        let id = self.act(|shard, out| shard.open_subscription(open, out))?;
        self.note_reader(id, Some(connection));
        self.look_after_upstreams();
        Ok(id)
    }

    /// Notes who reads a subscription.
    pub(super) fn note_reader(&self, id: SubscriptionId, connection: Option<ConnectionId>) {
        let mut readers = self.readers.borrow_mut();
        if readers.len() <= id.index() {
            readers.resize_with(id.index() + 1, Default::default);
        }
        if let Some(reader) = readers.get_mut(id.index()) {
            *reader = super::Reader { waker: None, connection, is_open: true };
        }
        self.subscribed.notify_one();
    }

    /// Dials whom what is subscribed to has to come from.
    pub(super) fn look_after_upstreams(&self) {
        // A lone node holds everything.
        if !self.is_alone.get()
            && let Some(this) = self.this.upgrade()
        {
            this.link_upstreams();
            self.note_company();
        }
    }

    /// Whether a subscription has begun.
    pub(crate) fn has_begun(&self, id: SubscriptionId) -> bool {
        self.shard.borrow().delivery().has_begun(id)
    }

    /// What a subscription is sent next; its reader is woken when there is more.
    pub(crate) fn poll_subscription(&self, id: SubscriptionId, cx: &Context<'_>) -> Poll {
        let poll = self.shard.borrow_mut().delivery_mut().poll(id);
        if self.shard.borrow().has_histories() {
            self.note_room();
        }
        if matches!(poll, Poll::Pending)
            && let Some(reader) = self.readers.borrow_mut().get_mut(id.index())
            && !reader.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            reader.waker = Some(cx.waker().clone());
        }
        poll
    }

    /// Allows a subscription this many messages more. Called from its reader, which polls it next.
    pub(crate) fn add_credit(&self, id: SubscriptionId, credit: u64) {
        self.shard.borrow_mut().delivery_mut().add_credit(id, credit);
    }

    /// Ends a subscription at its reader's wish.
    pub(crate) fn close_subscription(&self, id: SubscriptionId) {
        self.act(|shard, out| shard.close_subscription(id, out));
        self.look_after_upstreams();
        self.note_room();
        let mut readers = self.readers.borrow_mut();
        if let Some(reader) = readers.get_mut(id.index()) {
            *reader = super::Reader::default();
        }
        while readers.last().is_some_and(|reader| !reader.is_open) {
            readers.pop();
        }
    }

    /// Ends every subscription because the node stops.
    pub(super) fn end_subscriptions(&self) {
        self.shard.borrow_mut().delivery_mut().end_all(
            &Refusal::new(ErrorCode::ShuttingDown, "the node is shutting down"),
            &mut self.outbox.borrow_mut().wake,
        );
        self.dispatch();
    }
}
