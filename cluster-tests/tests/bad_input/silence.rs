//! Clients that say nothing, or do not listen.

use std::time::{Duration, Instant};

use broky_client::Message;
use broky_cluster_tests::node::TestNode;
use broky_cluster_tests::wait::in_time;
use broky_cluster_tests::wire::claimed;
use broky_cluster_tests::with_one_and_three_workers;
use broky_proto::v1::subscribe_request::Request;
use broky_proto::v1::{Delivery, ErrorCode, Open, SubscribeRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::victim::Victim;

with_one_and_three_workers!(
    silent_connections_are_closed,
    stream_without_a_request_times_out,
    subscriber_that_never_reads_harms_nobody,
    credit_that_never_comes_holds_nothing,
);

async fn silent_connections_are_closed(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut silent = Vec::new();
    for bytes in [&b""[..], b"PRI", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
        for _ in 0..30 {
            let mut stream = TcpStream::connect(victim.address()).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            silent.push(stream);
        }
    }
    victim.until("broky_connections_open", |open| open >= 90.0).await;
    for mut stream in silent {
        let read = in_time("the node closes", stream.read(&mut [0; 16])).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    victim.assert_unharmed().await;
}

async fn stream_without_a_request_times_out(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let started = Instant::now();
    let mut silent = connection.call("Subscribe").await;
    // A beginning is no request.
    let mut begun = connection.call("Subscribe").await;
    begun.send([claimed(0, 100), vec![0; 50]].concat());
    // A push stream has all the time it wants.
    let mut idle = connection.call("PushStream").await;
    silent.end().await.assert_refused(ErrorCode::TimedOut, "10 s");
    begun.end().await.assert_refused(ErrorCode::TimedOut, "10 s");
    assert!(started.elapsed() >= Duration::from_secs(10), "{:?}", started.elapsed());
    crate::victim::push_good(&mut idle, "k").await;
    drop((silent, begun, idle, connection));
    victim.assert_unharmed().await;
}

/// A node with as little memory as there may be, filled several times over.
async fn small(workers: u16) -> Victim {
    Victim::of(TestNode::start_with(workers, |config| config.memory_bytes = (16 << 20) * usize::from(workers))).await
}

async fn fill(victim: &Victim, workers: u16) {
    let client = broky_cluster_tests::node::client_of(victim.address()).await;
    let payload = vec![0; 16 << 10];
    for _ in 0..34 * u32::from(workers) {
        let batch: Vec<_> = (0..60).map(|number| Message::new(format!("fill.{number}"), payload.clone())).collect();
        assert!(client.push(&batch).await.unwrap().iter().all(Result::is_ok));
    }
    client.close().await;
}

fn open(credit: u64) -> SubscribeRequest {
    let open = Open { patterns: vec!["fill.*".into()], credit, ..Open::default() };
    SubscribeRequest { request: Some(Request::Open(open)) }
}

async fn subscriber_that_never_reads_harms_nobody(workers: u16) {
    let victim = small(workers).await;
    let mut connection = victim.connect().await;
    let mut calls = Vec::new();
    for _ in 0..20 {
        let mut call = connection.call("Subscribe").await;
        call.send_message(&open(0));
        calls.push(call);
    }
    victim.until("broky_delivery_subscriptions", |open| open >= 21.0).await;
    fill(&victim, workers).await;
    let metrics = victim.metrics().await;
    let allowed = metrics.get("broky_memory_max_bytes") * 1.3;
    assert!(metrics.get("broky_memory_used_bytes") <= allowed, "{}", metrics.get("broky_memory_used_bytes"));
    drop((calls, connection));
    victim.assert_unharmed().await;
}

async fn credit_that_never_comes_holds_nothing(workers: u16) {
    let victim = small(workers).await;
    let mut connection = victim.connect().await;
    let mut call = connection.call("Subscribe").await;
    call.send_message(&open(1));
    assert!(call.next::<Delivery>().await.unwrap().confirmed.is_some());
    fill(&victim, workers).await;
    // One message, as allowed; then gaps, which need no credit.
    let (mut messages, mut missed) = (0, 0);
    while missed == 0 {
        let delivery: Delivery = call.next().await.unwrap();
        messages += delivery.messages.len();
        missed += delivery.gaps.iter().map(|gap| gap.to - gap.from).sum::<u64>();
    }
    assert_eq!(messages, 1);
    drop((call, connection));
    victim.assert_unharmed().await;
}
