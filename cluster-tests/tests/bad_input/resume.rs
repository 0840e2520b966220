//! Forged resume positions.

use broky_cluster_tests::grpc::{Call, Connection};
use broky_cluster_tests::with_one_and_three_workers;
use broky_proto::v1::subscribe_request::Request;
use broky_proto::v1::{Cursor, Delivery, ErrorCode, Open, Resume, Start, SubscribeRequest, start};

use crate::victim::{Victim, push_bytes, request};

with_one_and_three_workers!(
    positions_of_no_cluster_are_foreign,
    positions_that_never_were_are_ahead,
    positions_may_be_told_twice
);

async fn resume(connection: &mut Connection, resume: Resume) -> Call {
    let mut call = connection.call("Subscribe").await;
    let start = Some(Start { start: Some(start::Start::Resume(resume)) });
    let open = Open { patterns: vec!["*".into()], start, ..Open::default() };
    call.send_message(&SubscribeRequest { request: Some(Request::Open(open)) });
    call
}

/// The cluster's id, as a subscriber learns it, and where the vbuckets stand.
async fn confirmed(connection: &mut Connection) -> (Vec<u8>, Vec<Cursor>) {
    let mut call = connection.call("Subscribe").await;
    let open = Open { patterns: vec!["*".into()], ..Open::default() };
    call.send_message(&SubscribeRequest { request: Some(Request::Open(open)) });
    let delivery: Delivery = call.next().await.unwrap();
    (delivery.confirmed.unwrap().cluster_id.to_vec(), delivery.cursors)
}

async fn positions_of_no_cluster_are_foreign(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let (ours, cursors) = confirmed(&mut connection).await;
    let mut other = ours.clone();
    other[0] ^= 1;
    for cluster_id in [other, Vec::new(), ours[..15].to_vec(), [&ours[..], &[0]].concat(), vec![0; 1 << 20]] {
        let mut call =
            resume(&mut connection, Resume { cluster_id: cluster_id.into(), cursors: cursors.clone() }).await;
        call.end().await.assert_refused(ErrorCode::ForeignCluster, "not of this cluster");
    }
    drop(connection);
    victim.assert_unharmed().await;
}

async fn positions_that_never_were_are_ahead(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let (ours, cursors) = confirmed(&mut connection).await;
    let real = cursors[7];
    for cursor in [
        Cursor { offset: u64::MAX, ..real },
        Cursor { offset: 1 << 63, ..real },
        Cursor { lineage: u64::MAX, ..real },
        Cursor { vbucket: 1024, ..real },
        Cursor { vbucket: 65_536, ..real },
        Cursor { vbucket: u32::MAX, ..real },
    ] {
        let cursors = vec![real, cursor];
        let mut call = resume(&mut connection, Resume { cluster_id: ours.clone().into(), cursors }).await;
        call.end().await.assert_refused(ErrorCode::PositionAhead, "");
    }
    drop(connection);
    victim.assert_unharmed().await;
}

async fn positions_may_be_told_twice(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let (ours, cursors) = confirmed(&mut connection).await;
    push_bytes(&mut connection, request(&["k"])).await.unwrap();
    let many = cursors.repeat(20);
    let mut call = resume(&mut connection, Resume { cluster_id: ours.into(), cursors: many }).await;
    let mut messages = 0;
    while messages == 0 {
        let delivery: Delivery = call.next().await.unwrap();
        assert!(delivery.gaps.is_empty());
        messages += delivery.messages.len();
    }
    assert_eq!(messages, 1);
    drop((call, connection));
    victim.assert_unharmed().await;
}
