//! Bodies that are no sequence of messages.

use broky_cluster_tests::wire::{claimed, framed};
use broky_cluster_tests::with_one_and_three_workers;
use broky_proto::limits::BATCH_BYTES_MAX;
use broky_proto::v1::{ErrorCode, PushResponse};
use http::StatusCode;

use crate::victim::{Victim, assert_committed, nothing, push_good, request};

with_one_and_three_workers!(
    compressed_message_is_refused,
    length_over_the_limit_is_refused_before_it_is_sent,
    message_cut_short_is_refused,
    what_came_before_a_broken_message_is_answered_first,
    messages_may_be_cut_anywhere_and_joined,
    call_cancelled_inside_a_message_leaves_nothing,
    connection_lost_inside_a_message_leaves_nothing,
);

const METHODS: [&str; 3] = ["Push", "PushStream", "Subscribe"];

async fn compressed_message_is_refused(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    for method in METHODS {
        for flag in [1, 2, 255] {
            let mut call = connection.call(method).await;
            call.send(framed(flag, request(&["k"])));
            let end = call.end().await;
            // The status is the one that gRPC asks for.
            assert_eq!((end.http, end.code, end.status), (StatusCode::OK, ErrorCode::Malformed, Some(12)), "{method}");
            assert!(end.words.contains(&format!("compression flag {flag}")), "{}", end.words);
        }
    }
    drop(connection);
    assert_eq!(victim.metrics().await.get("broky_push_messages_total"), 0.0);
    victim.assert_unharmed().await;
}

async fn length_over_the_limit_is_refused_before_it_is_sent(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let codes = [ErrorCode::BatchTooLarge, ErrorCode::BatchTooLarge, ErrorCode::LimitExceeded];
    for (method, code) in METHODS.into_iter().zip(codes) {
        for len in [u32::try_from(BATCH_BYTES_MAX).unwrap() + 1, u32::MAX] {
            let mut call = connection.call(method).await;
            call.send(claimed(0, len));
            call.end().await.assert_refused(code, &format!("{len} bytes"));
        }
    }
    drop(connection);
    victim.assert_unharmed().await;
}

async fn message_cut_short_is_refused(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let whole = framed(0, request(&["k"]));
    for method in METHODS {
        for len in 1..whole.len() {
            let mut call = connection.call(method).await;
            call.send(whole[..len].to_vec());
            call.half_close();
            call.end().await.assert_refused(ErrorCode::Malformed, "ended inside a message");
        }
        let mut call = connection.call(method).await;
        call.send(claimed(0, 1 << 20));
        call.half_close();
        call.end().await.assert_refused(ErrorCode::Malformed, "ended inside a message");
    }
    drop(connection);
    assert_eq!(victim.metrics().await.get("broky_push_messages_total"), 0.0);
    victim.assert_unharmed().await;
}

async fn what_came_before_a_broken_message_is_answered_first(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let broken = [framed(0, b"\xff\xff\xff"), framed(1, b""), claimed(0, u32::MAX), claimed(0, 9)];
    for broken in broken {
        let mut call = connection.call("PushStream").await;
        // In one breath.
        let good = framed(0, request(&["before", "before"]));
        call.send([good.repeat(20), broken, good].concat());
        call.half_close();
        for _ in 0..20 {
            assert_committed(&call.next::<PushResponse>().await.unwrap(), 2);
        }
        let end = call.end().await;
        assert!(end.status != Some(0) && end.code != ErrorCode::Unspecified, "{end:?}");
    }
    // Nothing of what came behind.
    victim.stored("before", 4 * 40).await;
    assert_eq!(victim.metrics().await.get("broky_push_messages_total"), 160.0);
    drop(connection);
    victim.assert_unharmed().await;
}

async fn messages_may_be_cut_anywhere_and_joined(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let three = framed(0, request(&["k", "longer", ""])).repeat(3);
    for step in [1, 2, 4, 5, 6, 7, 11, three.len()] {
        let mut call = connection.call("PushStream").await;
        for chunk in three.chunks(step) {
            call.send(chunk.to_vec());
        }
        call.half_close();
        for _ in 0..3 {
            assert_committed(&call.next().await.unwrap(), 3);
        }
        assert_eq!(call.end().await.status, Some(0), "step {step}");
    }
    // Empty frames say nothing.
    let mut call = connection.call("PushStream").await;
    for _ in 0..50 {
        call.send(Vec::new());
    }
    push_good(&mut call, "k").await;
    call.send_message(&nothing());
    assert!(call.next::<PushResponse>().await.unwrap().outcomes.is_empty());
    drop((call, connection));
    victim.assert_unharmed().await;
}

async fn call_cancelled_inside_a_message_leaves_nothing(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let mut calls = Vec::new();
    for method in METHODS {
        let mut call = connection.call(method).await;
        call.send([claimed(0, 1 << 20), vec![0; 10_000]].concat());
        calls.push(call);
    }
    victim.until("broky_push_inbound_bytes", |bytes| bytes == 30_015.0).await;
    calls.into_iter().for_each(broky_cluster_tests::grpc::Call::cancel);
    victim.until("broky_push_inbound_bytes", |bytes| bytes == 0.0).await;
    let mut call = connection.call("PushStream").await;
    push_good(&mut call, "k").await;
    drop((call, connection));
    victim.assert_unharmed().await;
}

async fn connection_lost_inside_a_message_leaves_nothing(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let mut call = connection.call("PushStream").await;
    push_good(&mut call, "k").await;
    call.send([claimed(0, 1 << 20), vec![0; 10_000]].concat());
    victim.until("broky_push_inbound_bytes", |bytes| bytes == 10_005.0).await;
    drop((call, connection));
    victim.assert_unharmed().await;
}
