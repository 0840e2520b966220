//! What another node forwards on links that break: by hand, as such a node would do it.

use broky_cluster_tests::grpc::{Call, Connection, settings};
use broky_cluster_tests::node::TestNode;
use broky_cluster_tests::with_one_and_three_workers;
use broky_proto::data_v1::{Forward, Forwarded};
use broky_proto::id::{Incarnation, Member, NodeId};
use broky_proto::peer::{Hello, Purpose, REPLY_BYTES, Reply};
use broky_proto::v1::{Message, PushRequest};
use http::Request;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

with_one_and_three_workers!(
    link_is_not_read_on_once_its_successor_has_begun,
    link_that_arrives_behind_its_successor_is_not_read,
);

/// A node that is not in the map yet, as this one sees it.
const PEER: Member = Member { node: NodeId(77), incarnation: Incarnation(u64::MAX) };

/// A link on which the peer's first worker forwards to the first one of the node.
async fn link(node: &TestNode, serial: u64) -> (Connection, Call) {
    let mut stream = TcpStream::connect(node.peer_address()).await.unwrap();
    let hello = Hello { purpose: Purpose::Data, shard: 0, cluster: None, from: Some(PEER), to: None };
    stream.write_all(&hello.encode()).await.unwrap();
    let mut reply = [0; REPLY_BYTES];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(Reply::decode(&reply), Ok(Reply::Ok));
    let mut connection = Connection::over(stream, &settings()).await;
    let request = Request::post("http://test/broky.data.v1.Data/Forward").header("broky-serial", serial);
    let call = connection.request(request.body(()).unwrap()).await;
    (connection, call)
}

/// A push of one message, always of the same vbucket.
fn part(sequence: u64) -> Forward {
    let messages = vec![Message { key: "k".into(), ..Message::default() }];
    let push = PushRequest { messages, producer_id: 3, sequence, ..PushRequest::default() };
    Forward { part: sequence, push: push.encode_to_vec().into(), indices: vec![0], epochs: Vec::new() }
}

async fn forward(call: &mut Call, sequence: u64) {
    call.send_message(&part(sequence));
    let forwarded: Forwarded = call.next().await.unwrap();
    assert_eq!((forwarded.part, forwarded.messages, forwarded.exceptions), (sequence, 1, Vec::new()));
}

async fn assert_stored(node: &TestNode, stored: f64) {
    let metrics = node.metrics().await;
    assert_eq!(metrics.get("broky_push_messages_total"), stored);
    assert_eq!(metrics.get("broky_push_duplicate_messages_total"), 0.0);
}

async fn link_is_not_read_on_once_its_successor_has_begun(workers: u16) {
    let node = TestNode::start(workers);
    let (_first, mut left) = link(&node, 4).await;
    forward(&mut left, 1).await;
    let (_second, mut next) = link(&node, 7).await;
    forward(&mut next, 2).await;
    // It was on its way for longer than what the successor brings again.
    left.send_message(&part(3));
    left.end().await;
    assert_stored(&node, 2.0).await;
    forward(&mut next, 3).await;
    assert_stored(&node, 3.0).await;
}

async fn link_that_arrives_behind_its_successor_is_not_read(workers: u16) {
    let node = TestNode::start(workers);
    let (_second, mut next) = link(&node, 7).await;
    forward(&mut next, 1).await;
    let (_first, mut left) = link(&node, 4).await;
    left.try_send(broky_proto::frame::encode(&part(2)));
    left.end().await;
    assert_stored(&node, 1.0).await;
    forward(&mut next, 2).await;
}
