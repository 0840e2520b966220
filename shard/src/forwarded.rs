//! Outcomes of forwarded parts, as they go between nodes.

use broky_proto::data_v1::{ForwardException, ForwardPosition, Forwarded};
use broky_proto::v1::{ErrorCode, OutcomeKind, Position};

use crate::outcome::{Exception, ExceptionKind, PartOutcome};
use crate::router::PartId;

impl PartOutcome {
    /// How the node that stored a part tells the one that forwarded it what became of it.
    #[must_use]
    pub fn into_forwarded(self, part: u64) -> Forwarded {
        let exception = |Exception { index, kind }| {
            let (kind, code, reason) = match kind {
                ExceptionKind::Duplicate => (OutcomeKind::Committed, ErrorCode::Unspecified, String::new()),
                ExceptionKind::Rejected { code, reason } => (OutcomeKind::Rejected, code, reason),
                ExceptionKind::Unknown { code, reason } => (OutcomeKind::Unknown, code, reason),
            };
            ForwardException { index, kind: kind.into(), code: code.into(), reason }
        };
        let position = |it: Position| ForwardPosition {
            first: it.first,
            count: it.count,
            vbucket: it.vbucket,
            lineage: it.lineage,
            epoch: it.epoch,
            offset: it.offset,
        };
        let mut exceptions: Vec<ForwardException> = self.exceptions.into_iter().map(exception).collect();
        exceptions.sort_unstable_by_key(|exception| exception.index);
        Forwarded {
            part,
            exceptions,
            positions: self.positions.into_iter().map(position).collect(),
            messages: self.messages,
        }
    }

    /// What a part's outcome is, as another node tells it. A kind that is not known leaves open what became of a
    /// message.
    #[must_use]
    pub fn of_forwarded(told: Forwarded) -> (PartId, Self) {
        let exception = |it: ForwardException| {
            let code = ErrorCode::try_from(it.code).unwrap_or_default();
            let kind = match OutcomeKind::try_from(it.kind).unwrap_or_default() {
                OutcomeKind::Committed => ExceptionKind::Duplicate,
                OutcomeKind::Rejected => ExceptionKind::Rejected { code, reason: it.reason },
                OutcomeKind::Unknown | OutcomeKind::Unspecified => ExceptionKind::Unknown { code, reason: it.reason },
            };
            Exception { index: it.index, kind }
        };
        let position = |it: ForwardPosition| Position {
            first: it.first,
            count: it.count,
            vbucket: it.vbucket,
            lineage: it.lineage,
            epoch: it.epoch,
            offset: it.offset,
        };
        let outcome = Self {
            messages: told.messages,
            exceptions: told.exceptions.into_iter().map(exception).collect(),
            positions: told.positions.into_iter().map(position).collect(),
        };
        (PartId(told.part), outcome)
    }
}
