//! Very many of something that is allowed once.

use broky_cluster_tests::wire::framed;
use broky_cluster_tests::with_one_and_three_workers;
use broky_proto::v1::subscribe_request::Request;
use broky_proto::v1::{Delivery, Open, SubscribeRequest};
use futures_util::future::join_all;

use crate::victim::{Victim, assert_committed, request};

with_one_and_three_workers!(
    cancel_storm_harms_nobody,
    calls_cancelled_after_they_began_leave_nothing,
    many_streams_of_one_connection_are_served,
    connections_that_come_and_go_leave_nothing,
);

async fn cancel_storm_harms_nobody(workers: u16) {
    let victim = Victim::start(workers).await;
    for method in ["PushStream", "Subscribe", "Push", "Topology", "NoSuch"] {
        let mut connection = victim.connect().await;
        let mut is_refused = false;
        // A node may end a connection that does this.
        for _ in 0..1000 {
            match connection.try_call(method).await {
                Some(call) => call.cancel(),
                None => is_refused = true,
            }
        }
        println!("{method}: refused: {is_refused}");
    }
    victim.assert_unharmed().await;
}

async fn calls_cancelled_after_they_began_leave_nothing(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    for _ in 0..300 {
        let mut subscribe = connection.call("Subscribe").await;
        let open = Open { patterns: vec!["*".into()], ..Open::default() };
        subscribe.send_message(&SubscribeRequest { request: Some(Request::Open(open)) });
        assert!(subscribe.next::<Delivery>().await.unwrap().confirmed.is_some());
        let mut push = connection.call("PushStream").await;
        push.send(framed(0, request(&["k", "l", "m"])).repeat(5));
        subscribe.cancel();
        push.cancel();
    }
    victim.until("broky_delivery_subscriptions", |open| open == 1.0).await;
    victim.until("broky_push_requests_waiting", |waiting| waiting == 0.0).await;
    drop(connection);
    victim.assert_unharmed().await;
}

async fn many_streams_of_one_connection_are_served(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    // As many as a node allows.
    let mut calls = Vec::new();
    for _ in 0..1024 {
        calls.push(connection.call("PushStream").await);
    }
    for call in &mut calls {
        call.send(framed(0, request(&["k"])));
    }
    join_all(calls.iter_mut().map(async |call| assert_committed(&call.next().await.unwrap(), 1))).await;
    drop((calls, connection));
    victim.assert_unharmed().await;
}

async fn connections_that_come_and_go_leave_nothing(workers: u16) {
    let victim = Victim::start(workers).await;
    for _ in 0..10 {
        let connections = join_all((0..20).map(|_| victim.connect())).await;
        let opened = connections.into_iter().map(async |mut connection| {
            let mut call = connection.call("Subscribe").await;
            let open = Open { patterns: vec!["*".into()], ..Open::default() };
            call.send_message(&SubscribeRequest { request: Some(Request::Open(open)) });
            assert!(call.next::<Delivery>().await.unwrap().confirmed.is_some());
        });
        join_all(opened).await;
    }
    victim.until("broky_delivery_interests", |interests| interests == 1.0).await;
    victim.assert_unharmed().await;
}
