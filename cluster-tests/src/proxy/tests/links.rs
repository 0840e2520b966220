//! Without faults it is as if it were not there.

use std::io::ErrorKind;
use std::process::{Command, Stdio};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::stand::{LINK, NOBODY, PEERS, Stand, datagram, pattern, read, write};
use crate::proxy::{Party, Strangers};
use crate::wait::{in_time, until};

async fn error_of(stream: &mut TcpStream) -> Option<ErrorKind> {
    in_time("it ends", stream.read_u8()).await.err().map(|error| error.kind())
}

#[tokio::test]
async fn bytes_go_both_ways() {
    let stand = Stand::new(0).await;
    let (mut client, mut node) = stand.connect().await;
    write(&mut client, b"there").await;
    assert_eq!(read(&mut node, 5).await, b"there");
    write(&mut node, b"back").await;
    assert_eq!(read(&mut client, 4).await, b"back");
    let counts = stand.until("bytes are counted", LINK, |counts| counts.bytes == 5).await;
    assert_eq!((counts.connections, counts.connections_open, counts.bytes_held), (1, 1, 0));
    assert_eq!(stand.proxy.strangers(), Strangers::default());
}

#[tokio::test]
async fn sender_waits_for_a_receiver_that_does_not_read() {
    const MUCH: usize = 64 << 20;
    let stand = Stand::new(1).await;
    let (mut client, mut node) = stand.connect().await;
    let sending = tokio::spawn(async move {
        client.write_all(&pattern(MUCH)).await.unwrap();
        client.shutdown().await.unwrap();
    });
    // What is under way is bounded, so the sender has not got rid of it when the receiver begins.
    let first = read(&mut node, 1).await;
    // The same in so many looks: a sender without a bound would have got rid of everything by then.
    let (mut seen, mut same) = (0, 0);
    let looks = async || {
        let now = stand.counts(LINK).bytes;
        (same, seen) = (if now == seen { same + 1 } else { 0 }, now);
        (same, seen)
    };
    let (_, passed) = until("nothing more passes", looks, |(same, passed)| *same >= 60 && *passed > 0).await;
    assert!(!sending.is_finished() && passed < MUCH as u64 / 2);
    let mut bytes = first;
    in_time("the rest comes", node.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(bytes, pattern(MUCH));
    sending.await.unwrap();
}

#[tokio::test]
async fn end_of_one_direction_leaves_the_other() {
    let stand = Stand::new(2).await;
    let (mut client, mut node) = stand.connect().await;
    write(&mut client, b"last").await;
    client.shutdown().await.unwrap();
    let mut bytes = Vec::new();
    in_time("the end comes", node.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(bytes, b"last");
    write(&mut node, b"answer").await;
    drop(node);
    let mut bytes = Vec::new();
    in_time("the answer comes", client.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(bytes, b"answer");
    stand.until("it is over", LINK, |counts| counts.connections_open == 0).await;
}

#[tokio::test]
async fn reset_is_a_reset_at_the_other_end() {
    let stand = Stand::new(3).await;
    let (client, mut node) = stand.connect().await;
    client.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(error_of(&mut node).await, Some(ErrorKind::ConnectionReset));
    let (mut client, node) = stand.connect().await;
    node.set_zero_linger().unwrap();
    drop(node);
    assert_eq!(error_of(&mut client).await, Some(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn whoever_writes_to_one_that_is_gone_is_reset() {
    let stand = Stand::new(4).await;
    let (mut client, node) = stand.connect().await;
    drop(node);
    assert_eq!(error_of(&mut client).await, Some(ErrorKind::UnexpectedEof));
    let written = async || client.write_all(b"too late").await.err().map(|error| error.kind());
    until("it is told", written, Option::is_some).await;
}

#[tokio::test]
async fn node_that_is_down_refuses() {
    let stand = Stand::new(5).await;
    let (mut client, _node) = stand.connect().await;
    stand.proxy.set_down(0);
    let refused = TcpStream::connect(stand.address()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(error_of(&mut client).await, Some(ErrorKind::ConnectionReset), "its connections are reset");
    stand.proxy.set_up(0, NOBODY).unwrap();
    stand.connect().await;
}

#[tokio::test]
async fn node_that_does_not_listen_yet_refuses() {
    let mut stand = Stand::new(6).await;
    stand.proxy.set_down(0);
    stand.listener = None;
    stand.proxy.set_up(0, NOBODY).unwrap();
    let refused = TcpStream::connect(stand.address()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let listener = TcpListener::bind(stand.places[0].client).await.unwrap();
    until("it is reached", async || TcpStream::connect(stand.address()).await.is_ok(), |is_reached| *is_reached).await;
    drop(listener);
}

#[tokio::test]
async fn node_that_listens_no_more_resets() {
    let mut stand = Stand::new(7).await;
    stand.listener = None;
    let mut client = TcpStream::connect(stand.address()).await.unwrap();
    assert_eq!(error_of(&mut client).await, Some(ErrorKind::ConnectionReset));
    assert_eq!(stand.counts(LINK).connections_refused, 1);
}

#[tokio::test]
async fn dialler_is_known_by_its_process() {
    let stand = Stand::new(8).await;
    // A process of its own that dials and keeps the connection until its input ends.
    let script = format!("exec 3<>/dev/tcp/{}/{}; echo hello >&3; read", stand.address().ip(), stand.address().port());
    let mut command = Command::new("bash");
    command.args(["-c", &script]).stdin(Stdio::piped());
    let gate = stand.proxy.clone();
    let mut child = command.spawn().unwrap();
    gate.set_up(1, child.id()).unwrap();
    let mut node = stand.accept().await;
    assert_eq!(read(&mut node, 5).await, b"hello");
    assert_eq!(stand.counts(PEERS).connections, 1);
    let (_client, _other) = stand.connect().await;
    assert_eq!((stand.counts(PEERS).connections, stand.counts(LINK).connections), (1, 1));
    drop(child.stdin.take());
    child.wait().unwrap();
    // A process that nobody has told of is taken for a client.
    gate.set_down(1);
    let mut child = command.spawn().unwrap();
    stand.accept().await;
    assert_eq!((stand.counts(PEERS).connections, stand.counts(LINK).connections), (1, 2));
    assert_eq!(gate.strangers().connections, 1);
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[tokio::test]
async fn datagram_comes_from_where_its_sender_is_known() {
    let stand = Stand::new(9).await;
    let (first, second, address) = stand.gossip();
    second.send_to(&7_u32.to_be_bytes(), address).await.unwrap();
    let (number, from) = datagram(&first).await;
    assert_eq!((number, from.ip(), from.port()), (7, stand.places[1].advertised, stand.places[1].peer.port()));
    first.send_to(&8_u32.to_be_bytes(), from).await.unwrap();
    assert_eq!(datagram(&second).await, (8, address));
    let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.send_to(b"x", address).await.unwrap();
    until("it is counted", async || stand.proxy.strangers().datagrams, |count| *count == 1).await;
    assert_eq!(stand.proxy.all_counts().len(), 2);
    assert_eq!(stand.counts((Party::Node(0), Party::Node(1))).datagrams, 1);
}
