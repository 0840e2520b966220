//! HTTP/2 itself, misused: frames by hand.

use broky_cluster_tests::wait::in_time;
use broky_cluster_tests::with_one_and_three_workers;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::victim::Victim;

with_one_and_three_workers!(
    broken_frames_end_the_connection,
    more_data_than_a_window_allows_ends_the_stream,
    floods_of_frames_end_or_are_borne,
);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const FLOW_CONTROL_ERROR: [u8; 4] = [0, 0, 0, 3];

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

/// The headers of a call, without Huffman and without the table.
fn headers(method: &str) -> Vec<u8> {
    let path = format!("/broky.v1.Broker/{method}");
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &path),
        (":authority", "a"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let literal = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], literal(name), literal(value)].concat()).collect()
}

/// A connection that has begun as it should, and then sends this.
async fn send(victim: &Victim, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(victim.address()).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    // The node may close before it has everything.
    let _ = stream.write_all(bytes).await;
    stream
}

async fn assert_closed(name: &str, mut stream: TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _ = in_time(&format!("{name} ends the connection"), stream.read_to_end(&mut rest)).await;
}

async fn broken_frames_end_the_connection(workers: u16) {
    let victim = Victim::start(workers).await;
    let cases = [
        ("data on stream 0", frame(DATA, 0, 0, b"x")),
        ("headers on stream 0", frame(HEADERS, END_HEADERS, 0, &headers("Push"))),
        ("headers on an even stream", frame(HEADERS, END_HEADERS, 2, &headers("Push"))),
        ("headers that are no HPACK", frame(HEADERS, END_HEADERS, 1, &[0xff; 40])),
        ("data on a stream that never was", frame(DATA, 0, 5, b"x")),
        ("a frame over the limit", [&[0x7f, 0xff, 0xff, DATA, 0][..], &[0, 0, 0, 1], &[0; 4096]].concat()),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("settings with a window of 2^32-1", frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("a window update of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a window beyond 2^31", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(2)),
        ("a reset of a stream that never was", frame(RST_STREAM, 0, 7, &[0; 4])),
        ("a continuation of nothing", frame(CONTINUATION, 0, 1, &[0; 4])),
        ("another frame inside headers", [frame(HEADERS, 0, 1, &headers("Push")), frame(PING, 0, 0, &[0; 8])].concat()),
        ("a goodbye", frame(GOAWAY, 0, 0, &[0; 8])),
    ];
    for (name, bytes) in cases {
        assert_closed(name, send(&victim, &bytes).await).await;
    }
    victim.assert_unharmed().await;
}

async fn more_data_than_a_window_allows_ends_the_stream(workers: u16) {
    let victim = Victim::start(workers).await;
    let call = frame(HEADERS, END_HEADERS, 1, &headers("PushStream"));
    // Empty requests: they are read on until the answers, which nobody takes, are too many.
    let data = frame(DATA, 0, 1, &[0; 16_000]).repeat(600);
    let mut stream = send(&victim, &[call, data].concat()).await;
    let is_ended = in_time("the stream or the connection ends", async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return true;
            }
            let [a, b, c, kind, _, stream_id @ ..] = head;
            let mut body = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            if stream.read_exact(&mut body).await.is_err() || kind == GOAWAY {
                return true;
            }
            if kind == RST_STREAM && u32::from_be_bytes(stream_id) == 1 {
                return body == FLOW_CONTROL_ERROR;
            }
        }
    });
    assert!(is_ended.await, "the stream was reset for something else");
    drop(stream);
    victim.assert_unharmed().await;
}

async fn floods_of_frames_end_or_are_borne(workers: u16) {
    let victim = Victim::start(workers).await;
    let call = frame(HEADERS, END_HEADERS, 1, &headers("PushStream"));
    let resets = (0..5000).flat_map(|number| {
        let stream = 2 * number + 1;
        [frame(HEADERS, END_HEADERS, stream, &headers("PushStream")), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])]
            .concat()
    });
    let floods = [
        ("continuations", [frame(HEADERS, 0, 1, &[]), frame(CONTINUATION, 0, 1, &[]).repeat(100_000)].concat()),
        (
            "long continuations",
            [
                frame(HEADERS, 0, 1, &headers("Push")),
                frame(CONTINUATION, 0, 1, &headers("Push").repeat(50)).repeat(300),
            ]
            .concat(),
        ),
        ("resets", resets.collect()),
        ("pings", frame(PING, 0, 0, &[7; 8]).repeat(50_000)),
        ("settings", frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(50_000)),
        ("data of one byte", [call.clone(), frame(DATA, 0, 1, &[0]).repeat(50_000)].concat()),
        ("data of no byte", [call.clone(), frame(DATA, 0, 1, &[]).repeat(50_000)].concat()),
        ("unknown frames", frame(0xee, 0xff, 0, &[1; 100]).repeat(20_000)),
    ];
    let mut open = Vec::new();
    for (name, bytes) in floods {
        // Nobody reads what the node answers.
        let sent = tokio::time::timeout(std::time::Duration::from_secs(2), send(&victim, &bytes)).await;
        println!("{name}: {}", if sent.is_ok() { "taken" } else { "held back" });
        open.extend(sent);
        victim.metrics().await;
    }
    drop(open);
    victim.assert_unharmed().await;
}
