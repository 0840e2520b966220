//! What became of the messages pushed.

use std::collections::VecDeque;

use broky_client::{PushError, Ticket};
use futures_util::FutureExt as _;

/// Failures shown in full.
const SHOWN_MAX: u64 = 10;

/// Tickets that wait for their outcome, oldest first: as many as the in-flight window holds.
#[derive(Default)]
pub(super) struct Outcomes {
    waiting: VecDeque<(u64, Ticket)>,
    failed: u64,
}

impl Outcomes {
    pub(super) fn add(&mut self, number: u64, ticket: Ticket) {
        self.waiting.push_back((number, ticket));
    }

    pub(super) fn fail(&mut self, number: u64, error: &PushError) {
        self.failed += 1;
        if self.failed <= SHOWN_MAX {
            eprintln!("broky: message {number}: {error}");
        }
    }

    /// Takes the outcomes that are known.
    pub(super) fn settle(&mut self) {
        while let Some((number, ticket)) = self.waiting.front_mut() {
            let number = *number;
            let Some(outcome) = ticket.now_or_never() else { return };
            self.waiting.pop_front();
            if let Err(error) = outcome {
                self.fail(number, &error);
            }
        }
    }

    /// How many failed; says so when they were not all shown.
    pub(super) fn report(&self) -> u64 {
        if self.failed > SHOWN_MAX {
            eprintln!("broky: ... and {} more", self.failed - SHOWN_MAX);
        }
        self.failed
    }
}
