//! Stopping: who has to be woken when the node shuts down.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::Worker;

/// Whether the worker stops, and who waits for that.
#[derive(Default)]
pub(super) struct Stop {
    is_stopping: Cell<bool>,
    waiting: RefCell<Slab<Option<Waker>>>,
}

impl Stop {
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.get()
    }

    pub(super) fn stop(&self) {
        self.is_stopping.set(true);
        for (_, waker) in self.waiting.borrow_mut().iter_mut() {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }
}

/// One task's interest in the worker's end.
pub(crate) struct StopWatch {
    worker: Rc<Worker>,
    key: usize,
}

impl StopWatch {
    pub(crate) fn new(worker: Rc<Worker>) -> Self {
        let key = worker.stop.waiting.borrow_mut().insert(None);
        Self { worker, key }
    }

    /// Ready once the worker stops.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.worker.stop.is_stopping() {
            return Poll::Ready(());
        }
        let mut waiting = self.worker.stop.waiting.borrow_mut();
        if let Some(slot) = waiting.get_mut(self.key)
            && !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *slot = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for StopWatch {
    fn drop(&mut self) {
        self.worker.stop.waiting.borrow_mut().try_remove(self.key);
    }
}
