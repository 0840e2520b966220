//! Connecting, and calls that are not streams of messages.

mod support;

use std::time::Duration;

use broky_client::{Client, ConnectError, ErrorCode, Message, PushError, VBucketId};
use support::{Broker, PushFault, in_time};
use tokio::net::TcpListener;

#[tokio::test]
async fn connect_names_every_address_that_failed() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap().to_string();
    drop(closed);
    let error = in_time(Client::connect([address.as_str(), "no.such.host.invalid:1"])).await.unwrap_err();
    let ConnectError::Unreachable { attempts } = &error else { panic!("{error}") };
    assert_eq!(attempts.len(), 2);
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test]
async fn listener_that_never_answers_is_no_node() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let builder = Client::builder().address(mute.local_addr().unwrap().to_string());
    let error = in_time(builder.connect_timeout(Duration::from_millis(50)).connect()).await.unwrap_err();
    assert!(error.to_string().contains("no answer within"), "{error}");
}

#[tokio::test]
async fn one_node_that_is_up_is_enough() {
    let broker = Broker::start().await;
    let client = in_time(Client::connect(["127.0.0.1:1".to_owned(), broker.address()])).await.unwrap();
    assert_eq!(in_time(client.topology()).await.unwrap().nodes.len(), 1);
}

#[tokio::test]
async fn topology_is_a_snapshot_of_the_map() {
    let broker = Broker::start().await;
    let client = in_time(Client::connect([broker.address()])).await.unwrap();
    let topology = in_time(client.topology()).await.unwrap();
    let (leader, epoch) = topology.leader(VBucketId(2)).unwrap();
    assert_eq!((leader.address.as_str(), epoch.0, topology.vbuckets()), (broker.address().as_str(), 5, 4));
}

#[tokio::test]
async fn addresses_are_checked() {
    assert_eq!(Client::connect(Vec::<String>::new()).await.unwrap_err(), ConnectError::NoAddress);
    assert_eq!(Client::connect(["nowhere"]).await.unwrap_err(), ConnectError::BadAddress("nowhere".to_owned()));
}

#[tokio::test]
async fn single_call_tells_what_became_of_each_message() {
    let broker = Broker::start().await;
    let client = in_time(Client::connect([broker.address()])).await.unwrap();
    let messages = [Message::new("k", "0"), Message::new("k", "1")];
    let results = in_time(client.push(&messages)).await.unwrap();
    let offsets: Vec<u64> = results.into_iter().map(|result| result.unwrap().position.unwrap().offset.0).collect();
    assert_eq!(offsets, [0, 1]);
    broker.fault([PushFault::Reject { vbucket: None, code: ErrorCode::Overloaded, retry: true }]);
    let results = in_time(client.push(&messages)).await.unwrap();
    assert!(matches!(results[1], Err(PushError::Rejected { code: ErrorCode::Overloaded, retry: true, .. })));
    broker.fault([PushFault::CutBeforeAnswering]);
    assert!(in_time(client.push(&messages)).await.unwrap_err().is_unknown());
    assert_eq!(broker.payloads(), ["0", "1", "0", "1"]);
}
