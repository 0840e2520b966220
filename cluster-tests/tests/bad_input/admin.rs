//! The admin HTTP, misused. It only reads, whatever is asked.

use broky_cluster_tests::grpc::Connection;
use broky_cluster_tests::http::{exchange, get, send};
use broky_cluster_tests::metrics::Metrics;
use broky_cluster_tests::with_one_and_three_workers;
use http::StatusCode;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::victim::Victim;

with_one_and_three_workers!(
    unknown_paths_are_404,
    other_methods_are_405,
    headers_over_the_limit_are_refused,
    what_is_no_http_is_refused,
    grpc_on_the_admin_port_finds_nothing,
    scrapes_at_the_same_time_all_parse,
);

async fn unknown_paths_are_404(workers: u16) {
    let victim = Victim::start(workers).await;
    for path in [
        "/",
        "/metric",
        "/metrics/",
        "//metrics",
        "/status/../metrics",
        "/..%2fmetrics",
        "/%00",
        "/metrics%00",
        "/healthz/x",
        "/broky.v1.Broker/Push",
        &format!("/{}", "x".repeat(8192)),
    ] {
        assert_eq!(get(victim.admin(), path).await.status, 404, "{path}");
    }
    assert_eq!(get(victim.admin(), &format!("/healthz?{}", "a=b&".repeat(10_000))).await.status, 200);
    victim.assert_unharmed().await;
}

async fn other_methods_are_405(workers: u16) {
    let victim = Victim::start(workers).await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"] {
        for path in ["/metrics", "/healthz", "/readyz", "/status"] {
            let request =
                format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}");
            assert_eq!(send(victim.admin(), request.as_bytes()).await.status, 405, "{method} {path}");
        }
    }
    let head = send(victim.admin(), b"HEAD /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    victim.assert_unharmed().await;
}

async fn headers_over_the_limit_are_refused(workers: u16) {
    let victim = Victim::start(workers).await;
    let huge = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(10 << 20));
    let many = format!("GET /metrics HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(10_000));
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(1 << 20));
    for request in [huge, many, long] {
        let answer = String::from_utf8(exchange(victim.admin(), request.as_bytes()).await).unwrap();
        // The answer may be lost when the connection is closed in the middle of what is sent.
        let is_refused = answer.is_empty() || answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 414");
        assert!(is_refused, "{answer}");
    }
    victim.assert_unharmed().await;
}

async fn what_is_no_http_is_refused(workers: u16) {
    let victim = Victim::start(workers).await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        &[0; 10_000],
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /status HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /status HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
    ] {
        let answer = String::from_utf8_lossy(&exchange(victim.admin(), bytes).await).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    victim.assert_unharmed().await;
}

async fn grpc_on_the_admin_port_finds_nothing(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = Connection::open(victim.admin()).await;
    let mut call = connection.call("Push").await;
    assert_eq!(call.end().await.http, StatusCode::NOT_FOUND);
    drop((call, connection));
    victim.assert_unharmed().await;
}

async fn scrapes_at_the_same_time_all_parse(workers: u16) {
    let victim = Victim::start(workers).await;
    // Some that say nothing are there as well.
    let mut silent = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(victim.admin()).await.unwrap();
        stream.write_all(b"GET /metr").await.unwrap();
        silent.push(stream);
    }
    let answers = futures_util::future::join_all((0..50).map(|_| get(victim.admin(), "/metrics"))).await;
    for answer in answers {
        assert_eq!(answer.status, 200);
        let metrics = Metrics::parse(&answer.body).unwrap();
        assert_eq!(metrics.get("broky_vbuckets_led"), 1024.0);
    }
    drop(silent);
    victim.assert_unharmed().await;
}
