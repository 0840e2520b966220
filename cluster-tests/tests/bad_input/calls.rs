//! What is not a gRPC call, or not one of ours.

use broky_cluster_tests::http::{exchange, send};
use broky_cluster_tests::wire::framed;
use broky_cluster_tests::with_one_and_three_workers;
use broky_proto::v1::ErrorCode;
use http::{Method, Request, StatusCode};

use crate::victim::{Victim, assert_committed, push_bytes, request};

with_one_and_three_workers!(
    http1_is_answered_with_505_and_words,
    what_is_no_http_is_dropped,
    unknown_methods_are_unimplemented,
    other_content_types_are_415,
    other_methods_are_405,
    odd_but_valid_metadata_does_no_harm,
    headers_over_the_limit_are_refused,
    call_without_a_request_is_refused,
);

async fn http1_is_answered_with_505_and_words(workers: u16) {
    let victim = Victim::start(workers).await;
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"GET /metrics HTTP/1.0\r\n\r\n",
        b"POST /broky.v1.Broker/Push HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello",
        // Not the preface, though it begins like it.
        b"PRI * HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ] {
        let answer = send(victim.address(), bytes).await;
        assert_eq!(answer.status, 505, "{}", answer.head);
        assert!(answer.body.contains("gRPC") && answer.body.contains("admin port"), "{}", answer.body);
    }
    victim.assert_unharmed().await;
}

async fn what_is_no_http_is_dropped(workers: u16) {
    let victim = Victim::start(workers).await;
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 600]].concat();
    for bytes in [&hello[..], &[0; 65_536], &[0xff; 65_536], b"\r\n\r\n", b"p"] {
        assert!(exchange(victim.address(), bytes).await.is_empty());
    }
    victim.assert_unharmed().await;
}

async fn unknown_methods_are_unimplemented(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    for path in ["/broky.v1.Broker/NoSuch", "/broky.v2.Broker/Push", "/", "/a/b/c", "/broky.v1.Broker/Push/", "/%00"] {
        let mut call = connection.call_path(path).await;
        call.try_send(framed(0, request(&["k"])));
        call.half_close();
        let end = call.end().await;
        assert_eq!((end.http, end.status), (StatusCode::OK, Some(12)), "{path}: {end:?}");
    }
    drop(connection);
    victim.assert_unharmed().await;
}

async fn other_content_types_are_415(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let begin = || Request::post("http://test/broky.v1.Broker/PushStream").header("te", "trailers");
    for wrong in ["application/json", "application/grpcx", "application/grpc-web", "text/plain", ""] {
        let mut call = connection.request(begin().header("content-type", wrong).body(()).unwrap()).await;
        assert_eq!(call.end().await.http, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{wrong}");
    }
    let mut call = connection.request(begin().body(()).unwrap()).await;
    assert_eq!(call.end().await.http, StatusCode::UNSUPPORTED_MEDIA_TYPE, "none");
    for right in ["application/grpc+proto", "application/grpc;charset=utf-8"] {
        let mut call = connection.request(begin().header("content-type", right).body(()).unwrap()).await;
        call.send(framed(0, request(&["k"])));
        assert_committed(&call.next().await.unwrap(), 1);
    }
    drop((call, connection));
    victim.assert_unharmed().await;
}

async fn other_methods_are_405(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::HEAD, Method::OPTIONS, Method::TRACE] {
        let request = Request::builder().method(method.clone()).uri("http://test/broky.v1.Broker/Push");
        let request = request.header("content-type", "application/grpc").body(()).unwrap();
        assert_eq!(connection.request(request).await.end().await.http, StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
    drop(connection);
    victim.assert_unharmed().await;
}

async fn odd_but_valid_metadata_does_no_harm(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let odd: [(&str, &[u8]); 7] = [
        ("grpc-timeout", b"0n"),
        ("grpc-timeout", b"-1S"),
        ("grpc-timeout", b"99999999999999999999H"),
        ("grpc-encoding", b"gzip"),
        ("x-not-utf8", b"\xff\xfe"),
        ("x-bin", b"no base64 at all!"),
        ("authorization", b"Bearer nonsense"),
    ];
    for (name, value) in odd {
        let request_head = Request::post("http://test/broky.v1.Broker/PushStream");
        let request_head = request_head.header("content-type", "application/grpc").header(name, value);
        let mut call = connection.request(request_head.body(()).unwrap()).await;
        call.send(framed(0, request(&["k"])));
        call.half_close();
        assert_committed(&call.next().await.unwrap(), 1);
        assert_eq!(call.end().await.status, Some(0), "{name}");
    }
    drop(connection);
    victim.assert_unharmed().await;
}

async fn headers_over_the_limit_are_refused(workers: u16) {
    let victim = Victim::start(workers).await;
    let begin = || {
        let request = Request::post("http://test/broky.v1.Broker/PushStream");
        request.header("content-type", "application/grpc")
    };
    let huge = begin().header("x", "y".repeat(64 << 10)).body(()).unwrap();
    let many = (0..1000).fold(begin(), |request, n| request.header(format!("x-{n}"), "y")).body(()).unwrap();
    for head in [huge, many] {
        let mut connection = victim.connect().await;
        let end = connection.request(head).await.end().await;
        assert!(end.http == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE || end.reset.is_some(), "{end:?}");
    }
    victim.assert_unharmed().await;
}

async fn call_without_a_request_is_refused(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let mut call = connection.call("Push").await;
    call.half_close();
    call.end().await.assert_refused(ErrorCode::ProtocolViolation, "no request");
    // A stream of none is a stream.
    call = connection.call("PushStream").await;
    call.half_close();
    assert_eq!(call.end().await.status, Some(0));
    // One request is what this method takes; what follows is not looked at.
    call = connection.call("Push").await;
    call.send([framed(0, request(&["k"])), framed(0, b"garbage")].concat());
    call.half_close();
    assert_committed(&call.next().await.unwrap(), 1);
    assert_eq!(call.end().await.status, Some(0));
    assert!(push_bytes(&mut connection, b"").await.unwrap().outcomes.is_empty());
    drop((call, connection));
    victim.assert_unharmed().await;
}
