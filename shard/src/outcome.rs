//! Outcomes: what became of each message of a request, told briefly.
//!
//! Most messages are committed, so a part of a request reports only the exceptions. When every part has reported, the
//! collector fills in the rest: each message gets exactly one outcome.

use broky_proto::v1::{self, ErrorCode, OutcomeKind};
use broky_proto::wire::{Push, Rejected};
use broky_replication::Append;

/// Why a message is not simply committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExceptionKind {
    /// An earlier attempt stored it.
    Duplicate,
    /// Provably never stored.
    Rejected {
        /// Stable code.
        code: ErrorCode,
        /// The facts, in words.
        reason: String,
    },
    /// Stored or not, nobody can tell.
    Unknown {
        /// Stable code.
        code: ErrorCode,
        /// The facts, in words.
        reason: String,
    },
}

/// One message that is not simply committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exception {
    /// Index of the message in its request.
    pub index: u32,
    /// Why.
    pub kind: ExceptionKind,
}

/// What became of one shard's part of a request: all committed, but for the exceptions.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct PartOutcome {
    /// How many messages it is about.
    pub messages: u32,
    /// Ascending by index.
    pub exceptions: Vec<Exception>,
    /// Where messages were stored, if that was asked for.
    pub positions: Vec<v1::Position>,
}

/// The exception that an [`Append`] is, if it is one.
pub(crate) fn exception(index: u32, append: Append) -> Option<Exception> {
    let rejected = |code, reason: &str| ExceptionKind::Rejected { code, reason: reason.to_owned() };
    let kind = match append {
        Append::Stored(_) => return None,
        Append::Duplicate(_) => ExceptionKind::Duplicate,
        Append::OutOfSequence => {
            rejected(ErrorCode::OutOfSequence, "an earlier message of this producer was refused or never came")
        }
        Append::Forgotten => {
            let reason = "the sequence is behind what is still known of its producer".to_owned();
            ExceptionKind::Unknown { code: ErrorCode::SequenceForgotten, reason }
        }
        Append::NotEnoughReplicas => rejected(ErrorCode::NotEnoughReplicas, "fewer in-sync replicas than min_isr"),
        Append::NotLeader => rejected(ErrorCode::NotLeader, "this node does not lead the vbucket"),
    };
    Some(Exception { index, kind })
}

/// Puts the outcomes of a request's parts together.
#[derive(Debug)]
pub struct Collector {
    messages: u32,
    /// Messages whose outcome is not known.
    missing: u32,
    exceptions: Vec<Exception>,
    positions: Vec<v1::Position>,
}

impl Collector {
    /// A collector for a scanned request.
    #[must_use]
    pub fn new(push: &Push) -> Self {
        let exceptions = push.rejected.iter().map(|Rejected { index, code, reason }| Exception {
            index: *index,
            kind: ExceptionKind::Rejected { code: *code, reason: reason.clone() },
        });
        Self {
            messages: u32::try_from(push.messages()).unwrap_or(u32::MAX),
            missing: u32::try_from(push.entries.len()).unwrap_or(u32::MAX),
            exceptions: exceptions.collect(),
            positions: Vec::new(),
        }
    }

    /// Takes what became of some of the messages. Returns whether that was all.
    pub fn take(&mut self, part: PartOutcome) -> bool {
        self.exceptions.extend(part.exceptions);
        self.positions.extend(part.positions);
        self.missing = self.missing.saturating_sub(part.messages);
        self.is_complete()
    }

    /// Whether every message has an outcome.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// What has come together so far, as one part.
    #[must_use]
    pub fn into_part(self) -> PartOutcome {
        let messages = self.messages - self.missing;
        PartOutcome { messages, exceptions: self.exceptions, positions: self.positions }
    }

    /// The response: every message's outcome once, in order.
    #[must_use]
    pub fn into_response(mut self) -> v1::PushResponse {
        self.exceptions.sort_unstable_by_key(|exception| exception.index);
        self.positions.sort_unstable_by_key(|position| position.first);
        let mut outcomes: Vec<v1::Outcome> = Vec::with_capacity(1 + 2 * self.exceptions.len().min(64));
        let mut next = 0;
        for exception in self.exceptions {
            push_committed(&mut outcomes, next, exception.index);
            next = exception.index + 1;
            push_exception(&mut outcomes, exception);
        }
        push_committed(&mut outcomes, next, self.messages);
        let positions = match outcomes.as_slice() {
            [only] if only.kind() == OutcomeKind::Committed => self.positions,
            _ => committed_positions(&outcomes, &self.positions),
        };
        v1::PushResponse { outcomes, positions }
    }
}

/// Where committed messages are. What was stored and then lost its leader is not there any more, or not for certain.
fn committed_positions(outcomes: &[v1::Outcome], positions: &[v1::Position]) -> Vec<v1::Position> {
    let mut kept = Vec::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.kind() == OutcomeKind::Committed) {
        let outcome_end = outcome.first + outcome.count;
        // Positions are sorted, and do not overlap.
        let from = positions.partition_point(|position| position.first + position.count <= outcome.first);
        for position in positions.iter().skip(from).take_while(|position| position.first < outcome_end) {
            let first = position.first.max(outcome.first);
            let count = (position.first + position.count).min(outcome_end) - first;
            let offset = position.offset + u64::from(first - position.first);
            kept.push(v1::Position { first, count, offset, ..*position });
        }
    }
    kept
}

fn push_committed(outcomes: &mut Vec<v1::Outcome>, first: u32, end: u32) {
    if end > first {
        let kind = OutcomeKind::Committed.into();
        outcomes.push(v1::Outcome { first, count: end - first, kind, ..v1::Outcome::default() });
    }
}

fn push_exception(outcomes: &mut Vec<v1::Outcome>, Exception { index, kind }: Exception) {
    let mut next = v1::Outcome { first: index, count: 1, ..v1::Outcome::default() };
    match kind {
        ExceptionKind::Duplicate => {
            next.kind = OutcomeKind::Committed.into();
            next.duplicate = true;
        }
        ExceptionKind::Rejected { code, reason } => {
            next.kind = OutcomeKind::Rejected.into();
            (next.retry, next.code, next.reason) = (code.is_retryable(), code.into(), reason);
        }
        ExceptionKind::Unknown { code, reason } => {
            next.kind = OutcomeKind::Unknown.into();
            (next.retry, next.code, next.reason) = (code.is_retryable(), code.into(), reason);
        }
    }
    if let Some(last) = outcomes.last_mut()
        && last.first + last.count == next.first
        && same_but_for_place(last, &next)
    {
        last.count += 1;
    } else {
        outcomes.push(next);
    }
}

fn same_but_for_place(a: &v1::Outcome, b: &v1::Outcome) -> bool {
    (a.kind, a.code, a.retry, a.duplicate) == (b.kind, b.code, b.retry, b.duplicate) && a.reason == b.reason
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(messages: u32) -> Push {
        let rejected = |index| Rejected { index, code: ErrorCode::MessageTooLarge, reason: "large".to_owned() };
        Push { rejected: (0..messages).map(rejected).collect(), ..Push::default() }
    }

    fn duplicates(indices: &[u32]) -> PartOutcome {
        let exceptions = indices.iter().map(|index| Exception { index: *index, kind: ExceptionKind::Duplicate });
        PartOutcome { messages: 5, exceptions: exceptions.collect(), positions: Vec::new() }
    }

    fn spans(collector: Collector) -> Vec<(u32, u32, bool)> {
        let outcomes = collector.into_response().outcomes;
        outcomes.iter().map(|outcome| (outcome.first, outcome.count, outcome.duplicate)).collect()
    }

    #[test]
    fn every_message_has_one_outcome() {
        let mut collector = Collector { messages: 10, missing: 10, exceptions: Vec::new(), positions: Vec::new() };
        assert!(!collector.take(duplicates(&[5, 9])));
        assert!(collector.take(duplicates(&[4])));
        assert_eq!(spans(collector), [(0, 4, false), (4, 2, true), (6, 3, false), (9, 1, true)]);
    }

    #[test]
    fn only_what_is_committed_has_a_position() {
        let kind = ExceptionKind::Unknown { code: ErrorCode::NotLeader, reason: String::new() };
        let exceptions = vec![Exception { index: 2, kind }];
        let positions = vec![v1::Position { first: 0, count: 5, offset: 10, ..v1::Position::default() }];
        let collector = Collector { messages: 5, missing: 0, exceptions, positions };
        let kept = collector.into_response().positions;
        let kept: Vec<_> = kept.iter().map(|position| (position.first, position.count, position.offset)).collect();
        assert_eq!(kept, [(0, 2, 10), (3, 2, 13)]);
    }

    #[test]
    fn request_of_rejected_messages_only_needs_no_part() {
        let collector = Collector::new(&push(3));
        assert!(collector.is_complete());
        let response = collector.into_response();
        assert_eq!(response.outcomes.len(), 1);
        assert_eq!(response.outcomes[0].count, 3);
        assert!(!response.outcomes[0].retry);
    }

    #[test]
    fn empty_request_has_no_outcomes() {
        assert!(Collector::new(&push(0)).into_response().outcomes.is_empty());
    }
}
