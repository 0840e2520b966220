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
        let id = self.shard.borrow_mut().delivery_mut().open(open)?;
        let mut readers = self.readers.borrow_mut();
        if readers.len() <= id.index() {
            readers.resize_with(id.index() + 1, Default::default);
        }
        if let Some(reader) = readers.get_mut(id.index()) {
            reader.connection = Some(connection);
        }
        self.subscribed.notify_one();
        Ok(id)
    }

    /// Has a task woken when subscriptions that could not be opened may be tried again.
    pub(crate) fn wait_for_ready(&self, cx: &Context<'_>) {
        let mut waiting = self.waiting_for_ready.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }

    /// What a subscription is sent next; its reader is woken when there is more.
    pub(crate) fn poll_subscription(&self, id: SubscriptionId, cx: &Context<'_>) -> Poll {
        let poll = self.shard.borrow_mut().delivery_mut().poll(id);
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
        self.shard.borrow_mut().delivery_mut().close(id);
        let mut readers = self.readers.borrow_mut();
        if let Some(reader) = readers.get_mut(id.index()) {
            *reader = super::Reader::default();
        }
        while readers.last().is_some_and(|reader| reader.connection.is_none()) {
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
