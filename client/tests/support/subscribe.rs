//! Subscriptions to the fake broker.

use std::collections::HashMap;

use broky_proto::frame::{PREFIX_LEN, encode, prefix};
use broky_proto::v1::{Confirmed, Cursor, Delivery, ErrorCode, Heartbeat, Open, SubscribeRequest};
use broky_proto::v1::{start::Start, subscribe_request::Request};
use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::log::{EPOCH, VBUCKETS};
use super::serve::{Requests, Sender};
use super::{Broker, LINEAGE, State};

/// Messages in one delivery.
const DELIVERY_MESSAGES: usize = 16;

pub(crate) async fn serve(broker: Broker, mut requests: Requests, answer: Sender) {
    let Some(first) = requests.next().await else { return };
    let Some(Request::Open(open)) = SubscribeRequest::decode(first).unwrap().request else {
        return answer.end(ErrorCode::ProtocolViolation, "open comes first").await;
    };
    let opened = {
        let mut state = broker.lock();
        state.opens.push(open.clone());
        state.opened_at.push(broker.place);
        match state.refuse_opens.pop_front() {
            Some(code) => Err(code),
            None => confirm(&mut state, &open),
        }
    };
    broker.touch();
    let (confirmation, next) = match opened {
        Ok(opened) => opened,
        Err(code) => return answer.end(code, "as the test asks").await,
    };
    answer.send(confirmation).await;
    if broker.lock().mute > 0 {
        broker.lock().mute -= 1;
        answer.closed().await;
        return;
    }
    tokio::select! {
        () = deliver(&broker, &answer, &open, next) => {}
        () = take_credit(&broker, &mut requests) => {}
    }
    broker.lock().ended_subscriptions += 1;
    broker.touch();
    answer.end_well().await;
}

async fn take_credit(broker: &Broker, requests: &mut Requests) {
    while let Some(request) = requests.next().await {
        if let Some(Request::Credit(credit)) = SubscribeRequest::decode(request).unwrap().request {
            broker.lock().credits.push(credit);
            broker.touch();
        }
    }
}

fn confirm(state: &mut State, open: &Open) -> Result<(Bytes, HashMap<u16, u64>), ErrorCode> {
    let mut next: HashMap<u16, u64> = HashMap::new();
    for vbucket in 0..u16::try_from(VBUCKETS).unwrap() {
        let offset = match open.start.as_ref().and_then(|start| start.start.as_ref()) {
            None | Some(Start::Live(_)) => state.log.next(vbucket),
            Some(Start::Earliest(_)) => 0,
            Some(Start::Resume(resume)) => {
                if resume.cluster_id[..] != state.cluster_id {
                    return Err(ErrorCode::ForeignCluster);
                }
                let cursor = resume.cursors.iter().find(|cursor| cursor.vbucket == u32::from(vbucket));
                cursor.map_or(state.log.next(vbucket), |cursor| cursor.offset.saturating_sub(state.repeat))
            }
        };
        next.insert(vbucket, offset);
    }
    let confirmed = Confirmed {
        cluster_id: state.cluster_id.to_vec().into(),
        map_version: 1,
        vbuckets: VBUCKETS,
        node_incarnation: 1,
    };
    let cursors = cursors(&next);
    let gaps = std::mem::take(&mut state.gaps);
    let heartbeat = Some(Heartbeat { map_version: 1 });
    Ok((encode(&Delivery { messages: Vec::new(), gaps, cursors, confirmed: Some(confirmed), heartbeat }), next))
}

fn cursors(next: &HashMap<u16, u64>) -> Vec<Cursor> {
    let cursor = |(vbucket, offset): (&u16, &u64)| Cursor {
        vbucket: (*vbucket).into(),
        lineage: LINEAGE,
        epoch: EPOCH,
        offset: *offset,
    };
    next.iter().map(cursor).collect()
}

async fn deliver(broker: &Broker, answer: &Sender, open: &Open, mut next: HashMap<u16, u64>) {
    let mut changed = broker.changed.subscribe();
    let mut seen = 0;
    loop {
        broker.gate().await;
        let (block, is_cut) = {
            let mut state = broker.lock();
            gather(&mut state, open, &mut seen, &mut next)
        };
        if let Some(block) = block {
            if !answer.send(block).await {
                return;
            }
        } else if changed.changed().await.is_err() {
            return;
        }
        if is_cut {
            // Let what was sent arrive: a cut connection may take it along otherwise, which is allowed, but then the
            // test would not say what it means to.
            tokio::task::yield_now().await;
            broker.cut_all();
            return;
        }
    }
}

fn gather(state: &mut State, open: &Open, seen: &mut usize, next: &mut HashMap<u16, u64>) -> (Option<Bytes>, bool) {
    let mut block = BytesMut::zeroed(PREFIX_LEN);
    let mut count = 0;
    let mut is_cut = false;
    while count < DELIVERY_MESSAGES && !is_cut {
        let Some(stored) = state.log.all().get(*seen) else { break };
        *seen += 1;
        let cursor = next.get_mut(&stored.vbucket).unwrap();
        if stored.offset < *cursor {
            continue;
        }
        *cursor = stored.offset + 1;
        if !open.patterns.iter().any(|pattern| matches(pattern, &stored.key)) {
            continue;
        }
        stored.append(&mut block, state.damage == Some(count));
        count += 1;
        if let Some(left) = &mut state.cut_after {
            *left -= 1;
            is_cut = *left == 0;
        }
    }
    if is_cut {
        state.cut_after = None;
    }
    if count == 0 {
        return (None, is_cut);
    }
    let len = block.len() - PREFIX_LEN;
    block[..PREFIX_LEN].copy_from_slice(&prefix(len));
    (Some(block.freeze()), is_cut)
}

fn matches(pattern: &[u8], key: &[u8]) -> bool {
    match pattern.strip_suffix(b"*") {
        Some(start) => key.starts_with(start),
        None => pattern == key,
    }
}
