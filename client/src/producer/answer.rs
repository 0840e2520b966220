//! What the answer to one batch means: which messages it settles, and what has to go again.
//!
//! Pure. "Rejected" is told only when every attempt was answered with a refusal and none will follow; see
//! [`super::window`], which decides when a batch goes again and when it is given up.

use broky_proto::v1::{ErrorCode, OutcomeKind, PushResponse};

use super::batch::Batch;
use super::error::PushError;
use super::ticket::Settled;

/// Counts of settled messages since the producer was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FlushSummary {
    /// Stored as `acks` asks for; includes `duplicates`.
    pub committed: u64,
    /// Provably not stored, and given up.
    pub rejected: u64,
    /// May have been stored.
    pub unknown: u64,
    /// Of the committed: those that an earlier attempt had stored, each once.
    pub duplicates: u64,
}

/// An answer that breaks the protocol. The stream is of no further use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid push response: {0}")]
pub(crate) struct Violation(pub(super) &'static str);

/// What an answer asks for.
pub(super) struct Answer {
    pub(super) wants_retry: bool,
    pub(super) wants_leave: bool,
}

/// Checks that the outcomes cover each message of a request once, in order.
pub(super) fn check_coverage(response: &PushResponse, messages: u32) -> Result<(), Violation> {
    let mut covered = 0_u32;
    for outcome in &response.outcomes {
        if outcome.first != covered || outcome.count == 0 {
            return Err(Violation("outcomes do not cover each message once, in order"));
        }
        if outcome.kind() == OutcomeKind::Unspecified {
            return Err(Violation("an outcome is neither committed nor rejected nor unknown"));
        }
        covered = covered.checked_add(outcome.count).ok_or(Violation("outcomes cover more than the request"))?;
    }
    if covered == messages { Ok(()) } else { Err(Violation("outcomes do not cover the request")) }
}

/// Settles what the answer settles: what is committed, and, unless the batch has to go again, what is refused for good.
/// If it has to, another node may take what this one refused, so that only the last answer can be told.
pub(super) fn apply(batch: &mut Batch, response: PushResponse, summary: &mut FlushSummary) -> Answer {
    let mut answer = Answer { wants_retry: false, wants_leave: false };
    let was_in_doubt = batch.is_in_doubt;
    for outcome in &response.outcomes {
        let is_unknown = outcome.kind() == OutcomeKind::Unknown;
        let is_refused = outcome.kind() == OutcomeKind::Rejected;
        if (is_unknown || is_refused) && outcome.retry {
            answer.wants_retry = true;
        }
        batch.is_in_doubt |= is_unknown;
        if is_refused {
            batch.refusal = Some(rejected(outcome.code(), &outcome.reason, outcome.retry));
            answer.wants_leave |= outcome.code() == ErrorCode::ShuttingDown;
        }
    }
    batch.outcomes.add_positions(response.positions);
    for outcome in response.outcomes {
        let settled = match outcome.kind() {
            OutcomeKind::Committed => Settled::Committed { duplicate: outcome.duplicate },
            OutcomeKind::Rejected if answer.wants_retry || outcome.retry => continue,
            OutcomeKind::Rejected if was_in_doubt => {
                let code = outcome.code().name();
                let words = format!("{code}: {}, after an attempt without an answer", outcome.reason);
                Settled::Failed(PushError::Unknown { reason: words.into() })
            }
            OutcomeKind::Rejected => Settled::Failed(rejected(outcome.code(), &outcome.reason, false)),
            OutcomeKind::Unknown if !answer.wants_retry => {
                let words = format!("{}: {}", outcome.code().name(), outcome.reason);
                Settled::Failed(PushError::Unknown { reason: words.into() })
            }
            OutcomeKind::Unknown | OutcomeKind::Unspecified => continue,
        };
        let count = batch.settle_run(outcome.first, outcome.count, &settled);
        summary.add(&settled, count);
    }
    batch.outcomes.wake();
    answer
}

/// Settles what is left of a batch that is tried no longer.
pub(super) fn give_up(batch: &mut Batch, is_unanswered: bool, reason: &str, summary: &mut FlushSummary) {
    let error = match batch.refusal.take() {
        _ if !batch.was_sent() => PushError::NotSent { reason: reason.into() },
        Some(refusal) if !batch.is_in_doubt && !is_unanswered => refusal,
        Some(_) | None => PushError::Unknown { reason: reason.into() },
    };
    let settled = Settled::Failed(error);
    let count = batch.settle_rest(settled.clone());
    summary.add(&settled, count);
    batch.outcomes.wake();
}

fn rejected(code: ErrorCode, reason: &str, retry: bool) -> PushError {
    PushError::Rejected { code, reason: reason.into(), retry }
}

impl FlushSummary {
    fn add(&mut self, settled: &Settled, count: u32) {
        let count = u64::from(count);
        match settled {
            Settled::Committed { duplicate } => {
                self.committed += count;
                self.duplicates += if *duplicate { count } else { 0 };
            }
            Settled::Failed(PushError::Unknown { .. }) => self.unknown += count,
            Settled::Failed(
                PushError::MessageTooLarge { .. }
                | PushError::WouldBlock
                | PushError::Closed
                | PushError::Rejected { .. }
                | PushError::NotSent { .. },
            ) => self.rejected += count,
        }
    }

    /// Adds the counts of another.
    pub(super) fn merge(&mut self, other: &Self) {
        self.committed += other.committed;
        self.rejected += other.rejected;
        self.unknown += other.unknown;
        self.duplicates += other.duplicates;
    }

    /// Counts of what was settled since an earlier summary of the same producer.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            committed: self.committed.saturating_sub(earlier.committed),
            rejected: self.rejected.saturating_sub(earlier.rejected),
            unknown: self.unknown.saturating_sub(earlier.unknown),
            duplicates: self.duplicates.saturating_sub(earlier.duplicates),
        }
    }
}
