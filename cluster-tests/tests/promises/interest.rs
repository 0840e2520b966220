//! What a subscription gets: patterns and key_partitions.

use broky_client::{Client, Message, SubscribeError, SubscribeOptions};
use broky_cluster_tests::node::TestNode;
use broky_cluster_tests::wait::in_time;
use broky_cluster_tests::with_one_and_three_workers;

with_one_and_three_workers!(
    patterns_and_partitions_select_what_is_delivered,
    bad_patterns_are_refused_and_nothing_is_left,
);

/// Key, key_partition.
const PUSHED: [(&str, &str); 8] =
    [("a.1", "p"), ("a.12", "p"), ("a.*", "p"), ("b", "q"), ("", "q"), ("a.1", ""), ("!system.x", "p"), ("last", "p")];

async fn push_all(client: &Client) {
    let messages: Vec<_> = PUSHED.iter().map(|(key, part)| Message::new(*key, *key).key_partition(*part)).collect();
    assert!(client.push(&messages).await.unwrap().iter().all(Result::is_ok));
}

async fn patterns_and_partitions_select_what_is_delivered(workers: u16) {
    let node = TestNode::start(workers);
    let client = node.client().await;
    // Patterns, key_partitions, a key that matches and marks the end, what is delivered.
    let cases: [(&[&str], &[&str], &str, &[&str]); 9] = [
        (&["*"], &[], "end", &["", "a.*", "a.1", "a.1", "a.12", "b", "last"]),
        (&["a.?"], &[], "a.e", &["a.*", "a.1", "a.1"]),
        (&["a.\\*"], &[], "a.*", &["a.*"]),
        (&["a.*", "a.1*", "*1*"], &[], "a.1", &["a.*", "a.1", "a.1", "a.12"]),
        (&["b", "last"], &[], "b", &["b", "last"]),
        (&["*"], &["q"], "end", &["", "b"]),
        (&["a.*"], &["p", "none"], "a.end", &["a.*", "a.1", "a.12"]),
        (&["!system*"], &[], "!system.end", &["!system.x"]),
        (&["a.1"], &["a.1"], "a.1", &["a.1"]),
    ];
    let mut subscriptions = Vec::new();
    for (patterns, partitions, _, _) in &cases {
        let options = SubscribeOptions::new(patterns.iter().copied());
        let options = options.key_partitions(partitions.iter().map(|partition| partition.as_bytes().to_vec()));
        subscriptions.push(client.subscribe(options).await.unwrap());
    }
    push_all(&client).await;
    for ((patterns, partitions, end, expected), mut subscription) in cases.into_iter().zip(subscriptions) {
        let own_end = format!("end of {patterns:?} {partitions:?}").into_bytes();
        let end = Message::new(end, own_end.clone()).key_partition(partitions.first().copied().unwrap_or_default());
        assert!(client.push(&[end]).await.unwrap()[0].is_ok());
        let mut expected: Vec<_> = expected.iter().map(|key| key.as_bytes().to_vec()).collect();
        expected.sort_unstable();
        let (mut got, mut has_ended) = (Vec::new(), false);
        while got.len() < expected.len() || !has_ended {
            let batch = in_time("the messages", subscription.next_batch()).await.unwrap().unwrap();
            let payloads: Vec<_> = batch.messages().map(|message| message.payload().to_vec()).collect();
            has_ended |= payloads.contains(&own_end);
            got.extend(payloads.into_iter().filter(|payload| !payload.starts_with(b"end of")));
        }
        got.sort_unstable();
        assert_eq!(got, expected, "{patterns:?} {partitions:?}");
    }
    client.close().await;
    node.until_nothing_is_left().await;
    node.stop().await;
}

async fn bad_patterns_are_refused_and_nothing_is_left(workers: u16) {
    let node = TestNode::start(workers);
    let client = node.client().await;
    for pattern in ["\\", "a\\"] {
        let refused = client.subscribe(SubscribeOptions::new(["good", pattern])).await.unwrap_err();
        assert!(matches!(refused, SubscribeError::BadPattern(_)), "{refused:?}");
    }
    client.close().await;
    node.until_nothing_is_left().await;
    node.stop().await;
}
