//! Subscriptions that are opened wrongly, and what may not follow.

use broky_cluster_tests::grpc::{Call, Connection, End};
use broky_cluster_tests::wire::{Wire, framed};
use broky_cluster_tests::with_one_and_three_workers;
use broky_proto::v1::subscribe_request::Request;
use broky_proto::v1::{Delivery, ErrorCode, Open, SubscribeRequest};

use crate::victim::Victim;

with_one_and_three_workers!(
    wrong_order_of_requests_is_a_violation,
    open_that_is_no_protobuf_is_refused,
    unknown_fields_within_unknown_fields_are_passed_over,
    bad_patterns_are_refused,
    too_much_to_ask_for_is_refused,
    groups_are_refused_by_name,
    unknown_way_of_being_slow_is_the_default,
    half_closed_subscription_goes_on,
    costly_patterns_do_not_stop_the_node,
);

fn open(patterns: &[&[u8]]) -> SubscribeRequest {
    let patterns = patterns.iter().map(|pattern| pattern.to_vec().into()).collect();
    SubscribeRequest { request: Some(Request::Open(Open { patterns, ..Open::default() })) }
}

fn credit(credit: u64) -> SubscribeRequest {
    SubscribeRequest { request: Some(Request::Credit(credit)) }
}

async fn confirmed(call: &mut Call) {
    assert!(call.next::<Delivery>().await.unwrap().confirmed.is_some());
}

/// How a subscription ends of which this is the first request.
async fn refusal(connection: &mut Connection, request: impl AsRef<[u8]>) -> End {
    let mut call = connection.call("Subscribe").await;
    call.send(framed(0, request));
    call.end().await
}

/// How an open subscription ends, heartbeats aside.
async fn end_of(call: &mut Call) -> End {
    loop {
        match call.next::<Delivery>().await {
            Ok(delivery) => assert!(delivery.messages.is_empty() && delivery.gaps.is_empty()),
            Err(end) => return end,
        }
    }
}

async fn wrong_order_of_requests_is_a_violation(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    for (first, words) in [(credit(1), "must be `open`"), (SubscribeRequest::default(), "must be `open`")] {
        let mut call = connection.call("Subscribe").await;
        call.send_message(&first);
        call.end().await.assert_refused(ErrorCode::ProtocolViolation, words);
    }
    let mut call = connection.call("Subscribe").await;
    call.half_close();
    call.end().await.assert_refused(ErrorCode::ProtocolViolation, "without opening");
    for (second, words) in
        [(open(&[b"*"]), "open already"), (credit(1), "opened without"), (SubscribeRequest::default(), "holds nothing")]
    {
        let mut call = connection.call("Subscribe").await;
        call.send_message(&open(&[b"never"]));
        confirmed(&mut call).await;
        call.send_message(&second);
        end_of(&mut call).await.assert_refused(ErrorCode::ProtocolViolation, words);
    }
    drop((call, connection));
    victim.assert_unharmed().await;
}

async fn open_that_is_no_protobuf_is_refused(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let open = Wire::new().bytes(1, "*");
    let groups = (0..2000).fold(Wire::new(), |groups, _| groups.tag(20, 3));
    for (name, request) in [
        ("garbage", Wire::new().raw(b"\xff\xff")),
        ("an open cut short", Wire::new().tag(1, 2).number(100).raw(b"x")),
        ("an open that is a number", Wire::new().varint(1, 5)),
        ("a group that is not UTF-8", Wire::new().bytes(1, open.clone().bytes(3, b"\xff"))),
        ("groups within groups", Wire::new().bytes(1, open.clone().raw(groups.as_ref()))),
    ] {
        let end = refusal(&mut connection, request).await;
        assert_eq!((end.code, end.status), (ErrorCode::Malformed, Some(3)), "{name}: {end:?}");
    }
    // Behind an open subscription as well.
    let mut call = connection.call("Subscribe").await;
    call.send(framed(0, Wire::new().bytes(1, open)));
    confirmed(&mut call).await;
    call.send(framed(0, b"\xff"));
    let end = loop {
        if let Err(end) = call.next_bytes().await {
            break end;
        }
    };
    end.assert_refused(ErrorCode::Malformed, "");
    drop((call, connection));
    victim.assert_unharmed().await;
}

async fn unknown_fields_within_unknown_fields_are_passed_over(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    // A live start holds nothing, so what is in it is unknown: bytes, however deep they claim to be.
    let nested = (0..2000).fold(Wire::new(), |inner, _| Wire::new().bytes(1, inner));
    let mut call = connection.call("Subscribe").await;
    call.send(framed(0, Wire::new().bytes(1, Wire::new().bytes(1, "*").bytes(2, nested))));
    confirmed(&mut call).await;
    drop((call, connection));
    victim.assert_unharmed().await;
}

async fn bad_patterns_are_refused(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let long = [b'a'; 1025];
    let cases: [(&[&[u8]], &str); 4] =
        [(&[], "at least one"), (&[b"a\\"], "a\\\\"), (&[b"good", b"\\"], "pattern"), (&[&long], "1024")];
    for (patterns, words) in cases {
        let mut call = connection.call("Subscribe").await;
        call.send_message(&open(patterns));
        call.end().await.assert_refused(ErrorCode::BadPattern, words);
    }
    for good in [&[b'a'; 1024][..], b"", b"\\\\", b"\xff*\x00", b"**??**"] {
        let mut call = connection.call("Subscribe").await;
        call.send_message(&open(&[good]));
        confirmed(&mut call).await;
    }
    drop(connection);
    victim.assert_unharmed().await;
}

async fn too_much_to_ask_for_is_refused(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let with_patterns =
        |count: usize| Wire::new().bytes(1, Wire::new().raw(&Wire::new().bytes(1, "a").0.repeat(count)));
    for count in [4097, 1_000_000] {
        let end = refusal(&mut connection, with_patterns(count)).await;
        end.assert_refused(ErrorCode::LimitExceeded, &format!("{count} patterns"));
    }
    let partitions = Wire::new().bytes(6, "p").0.repeat(4097);
    let end = refusal(&mut connection, Wire::new().bytes(1, Wire::new().bytes(1, "a").raw(&partitions))).await;
    end.assert_refused(ErrorCode::LimitExceeded, "4097 key_partitions");
    let end = refusal(&mut connection, Wire::new().bytes(1, vec![0; 4 << 20])).await;
    end.assert_refused(ErrorCode::LimitExceeded, "4194304");
    let mut call = connection.call("Subscribe").await;
    call.send(framed(0, with_patterns(4096)));
    confirmed(&mut call).await;
    drop((call, connection));
    victim.assert_unharmed().await;
}

async fn groups_are_refused_by_name(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let end = refusal(&mut connection, Wire::new().bytes(1, Wire::new().bytes(1, "*").bytes(3, "my-group"))).await;
    end.assert_refused(ErrorCode::Unimplemented, "groups");
    assert!(end.words.contains("my-group"), "{}", end.words);
    drop(connection);
    victim.assert_unharmed().await;
}

async fn unknown_way_of_being_slow_is_the_default(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let mut call = connection.call("Subscribe").await;
    call.send(framed(0, Wire::new().bytes(1, Wire::new().bytes(1, "*").varint(4, 77).bytes(2, Wire::new()))));
    confirmed(&mut call).await;
    drop((call, connection));
    victim.assert_unharmed().await;
}

async fn half_closed_subscription_goes_on(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let mut call = connection.call("Subscribe").await;
    call.send_message(&open(&[b"k"]));
    call.half_close();
    confirmed(&mut call).await;
    crate::victim::push_bytes(&mut connection, crate::victim::request(&["k"])).await.unwrap();
    while call.next::<Delivery>().await.unwrap().messages.is_empty() {}
    call.cancel();
    drop(connection);
    victim.assert_unharmed().await;
}

async fn costly_patterns_do_not_stop_the_node(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    // Each of these goes through the key many times before it fails.
    let patterns: Vec<Vec<u8>> =
        (0..64).map(|number| [format!("*{number}").as_bytes(), &b"*a?".repeat(330), b"*b"].concat()).collect();
    let patterns: Vec<&[u8]> = patterns.iter().map(Vec::as_slice).collect();
    let mut call = connection.call("Subscribe").await;
    call.send_message(&open(&patterns));
    confirmed(&mut call).await;
    let key = "a".repeat(4095) + "c";
    crate::victim::push_bytes(&mut connection, crate::victim::request(&[&key, &key, &key])).await.unwrap();
    drop((call, connection));
    victim.assert_unharmed().await;
}
