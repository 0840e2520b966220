//! Pushes to the fake broker.

use broky_proto::frame::encode;
use broky_proto::id::Sequence;
use broky_proto::v1::{ErrorCode, Outcome, OutcomeKind, Position, PushResponse};
use broky_proto::wire::{Entry, Push, scan_push};
use bytes::Bytes;

use super::log::{EPOCH, vbucket_of};
use super::serve::{Requests, Sender};
use super::{Arrived, Broker, LINEAGE, PushFault, State};

pub(crate) async fn serve(broker: Broker, mut requests: Requests, answer: Sender) {
    while let Some(request) = requests.next().await {
        broker.gate().await;
        let fault = {
            let mut state = broker.lock();
            let fault = state.push_faults.pop_front().unwrap_or(PushFault::None);
            handle(&mut state, &request, fault, broker.place)
        };
        broker.touch();
        match fault {
            Reply::Answer(response) => drop(answer.send(encode(&response)).await),
            Reply::Nothing => {}
            Reply::Cut => {
                broker.cut_all();
                return;
            }
            Reply::End(code) => {
                answer.end(code, "as the test asks").await;
                return;
            }
        }
    }
    broker.lock().ended_push_streams += 1;
    broker.touch();
    answer.end_well().await;
}

enum Reply {
    Answer(PushResponse),
    Nothing,
    Cut,
    End(ErrorCode),
}

fn handle(state: &mut State, request: &Bytes, fault: PushFault, node: usize) -> Reply {
    let push = scan_push(request, 1 << 20).unwrap();
    let vbucket = push.entries.first().map_or(u16::MAX, |entry| vbucket_of(entry.token));
    let (producer, sequence) = (push.producer.0, push.sequence.0);
    state.arrived.push(Arrived { producer, sequence, messages: push.messages(), node, vbucket });
    match fault {
        PushFault::None => Reply::Answer(store(state, &push, request, |_| None)),
        PushFault::CutBeforeStoring => Reply::Cut,
        PushFault::CutBeforeAnswering => {
            store(state, &push, request, |_| None);
            Reply::Cut
        }
        PushFault::Reject { vbucket, code, retry } => Reply::Answer(store(state, &push, request, |at| {
            vbucket.is_none_or(|vbucket| vbucket == at).then_some((code, retry))
        })),
        PushFault::StoreAndAnswerUnknown => {
            store(state, &push, request, |_| None);
            Reply::Answer(PushResponse { outcomes: vec![unknown(push.messages())], positions: Vec::new() })
        }
        PushFault::Ignore => Reply::Nothing,
        PushFault::AnswerTooMuch => {
            Reply::Answer(PushResponse { outcomes: vec![unknown(push.messages() + 1)], positions: Vec::new() })
        }
        PushFault::EndStream(code) => Reply::End(code),
    }
}

fn unknown(messages: usize) -> Outcome {
    let (count, kind) = (u32::try_from(messages).unwrap(), OutcomeKind::Unknown.into());
    Outcome { count, kind, retry: true, ..Outcome::default() }
}

fn store(
    state: &mut State,
    push: &Push,
    request: &[u8],
    refuse: impl Fn(u16) -> Option<(ErrorCode, bool)>,
) -> PushResponse {
    let mut response = PushResponse::default();
    for entry in &push.entries {
        let outcome = store_one(state, push, entry, request, &refuse, &mut response.positions);
        response.outcomes.push(outcome);
    }
    if !push.want_positions {
        response.positions.clear();
    }
    response
}

fn store_one(
    state: &mut State,
    push: &Push,
    entry: &Entry,
    request: &[u8],
    refuse: impl Fn(u16) -> Option<(ErrorCode, bool)>,
    positions: &mut Vec<Position>,
) -> Outcome {
    let producer = push.producer.0;
    let sequence = push.sequence.0 + u64::from(entry.index);
    let vbucket = vbucket_of(entry.token);
    let rejected = |code: ErrorCode, retry| Outcome {
        first: entry.index,
        count: 1,
        kind: OutcomeKind::Rejected.into(),
        code: code.into(),
        reason: "as the test asks".to_owned(),
        retry,
        duplicate: false,
    };
    let name = (push.producer_epoch, Sequence(sequence));
    let known = state.log.is_stored(producer, sequence).filter(|_| producer != 0).cloned();
    let duplicate = known.is_some();
    if !duplicate {
        if let Some((code, retry)) = refuse(vbucket) {
            if retry {
                state.log.refuse(producer, vbucket, name);
            }
            return rejected(code, retry);
        }
        if !state.log.admits(producer, vbucket, name) {
            return rejected(ErrorCode::OutOfSequence, true);
        }
    }
    let stored = known.unwrap_or_else(|| state.log.store(entry, request, push));
    positions.push(Position {
        first: entry.index,
        count: 1,
        vbucket: vbucket.into(),
        lineage: LINEAGE,
        epoch: EPOCH,
        offset: stored.offset,
    });
    let kind = OutcomeKind::Committed.into();
    Outcome { first: entry.index, count: 1, kind, duplicate, ..Outcome::default() }
}
