//! One batch in one call: for whoever pushes once in a while and wants no producer.

use std::sync::Arc;

use broky_proto::frame::{PREFIX_LEN, prefix};
use broky_proto::id::{ProducerEpoch, ProducerId, Sequence};
use broky_proto::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX};
use broky_proto::v1::{Acks, ErrorCode, OutcomeKind, PushResponse};
use bytes::Bytes;
use prost::Message as _;

use super::answer::check_coverage;
use super::error::PushError;
use super::ticket::{Outcomes, Receipt, Settled, Ticket};
use crate::client::Shared;
use crate::encode::{Encoder, Options, append_options};
use crate::message::AsMessage;
use crate::transport::{CallError, Dialing, Method, RequestBody};

/// What became of each message of a batch.
pub(crate) type Results = Vec<Result<Receipt, PushError>>;

/// Pushes a batch, once: without deduplication a second attempt could store it twice.
pub(crate) async fn push(shared: &Shared, messages: &[impl AsMessage]) -> Result<Results, PushError> {
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let request = request(messages)?;
    let found = shared.pool.connection(Dialing::Shared, None, None).await;
    let (connection, place) = found.map_err(|error| PushError::NotSent { reason: error.to_string().into() })?;
    let call = async {
        let body = RequestBody::Once(Some(request));
        let mut responses = connection.call(Method::Push, body, place).await?;
        let response = responses.next().await.transpose()?;
        let response = response.ok_or_else(|| CallError::Invalid("no answer in the response".to_owned()))?;
        PushResponse::decode(response).map_err(|error| CallError::Invalid(error.to_string()))
    };
    let limit = shared.connect_timeout;
    let response = tokio::time::timeout(limit, call).await.unwrap_or(Err(CallError::TimedOut(limit)));
    let response = response.map_err(|error| {
        if !matches!(error, CallError::Refused { .. }) {
            connection.suspect();
        }
        failed(&error)
    })?;
    results(messages.len(), response)
}

fn request(messages: &[impl AsMessage]) -> Result<Bytes, PushError> {
    let bytes: usize = messages.iter().map(|message| Encoder::new(message.as_message()).field_len()).sum();
    if bytes > BATCH_BYTES_MAX || messages.len() > BATCH_MESSAGES_MAX {
        return Err(PushError::MessageTooLarge { bytes, bytes_max: BATCH_BYTES_MAX });
    }
    let mut buffer = Vec::with_capacity(PREFIX_LEN + bytes + crate::encode::OPTIONS_BYTES_MAX);
    buffer.extend_from_slice(&[0; PREFIX_LEN]);
    messages.iter().for_each(|message| Encoder::new(message.as_message()).append(&mut buffer));
    let (producer, epoch, sequence) = (ProducerId(0), ProducerEpoch(0), Sequence(0));
    let (acks, want_positions) = (Acks::Committed, true);
    append_options(&mut buffer, Options { acks, producer, sequence, want_positions, epoch });
    let header = prefix(buffer.len() - PREFIX_LEN);
    if let Some(place) = buffer.first_chunk_mut() {
        *place = header;
    }
    Ok(buffer.into())
}

/// What a failed call means for every message.
fn failed(error: &CallError) -> PushError {
    match error {
        CallError::Refused { code, message, .. } if *code != ErrorCode::Unspecified => {
            PushError::Rejected { code: *code, reason: message.as_str().into(), retry: error.is_retryable() }
        }
        CallError::Refused { .. } | CallError::Connection(_) | CallError::Invalid(_) | CallError::TimedOut(_) => {
            PushError::Unknown { reason: error.to_string().into() }
        }
    }
}

fn results(messages: usize, response: PushResponse) -> Result<Results, PushError> {
    let messages = u32::try_from(messages).unwrap_or(u32::MAX);
    check_coverage(&response, messages).map_err(|error| PushError::Unknown { reason: error.to_string().into() })?;
    let outcomes = Arc::new(Outcomes::default());
    outcomes.add_positions(response.positions);
    for outcome in response.outcomes {
        let reason: Arc<str> = outcome.reason.as_str().into();
        let settled = match outcome.kind() {
            OutcomeKind::Committed => Settled::Committed { duplicate: outcome.duplicate },
            OutcomeKind::Rejected => {
                Settled::Failed(PushError::Rejected { code: outcome.code(), reason, retry: outcome.retry })
            }
            OutcomeKind::Unknown | OutcomeKind::Unspecified => Settled::Failed(PushError::Unknown { reason }),
        };
        outcomes.settle(outcome.first, outcome.count, messages, &settled);
    }
    // The coverage was checked.
    let missing = || Err(PushError::Unknown { reason: "no outcome".into() });
    Ok((0..messages).map(|index| Ticket::new(&outcomes, index).outcome().unwrap_or_else(missing)).collect())
}
