//! Producers, subscriptions and the map against several nodes, of which some fail.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure here fails the test")]

mod support;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use broky_client::{
    Client, ErrorCode, MapVersion, Message, Producer, ProducerOptions, SubscribeOptions, Subscription, VBucketId,
};
use support::log::partition_in;
use support::{Broker, PushFault, in_time};

/// Vbuckets of the fake cluster.
const VBUCKETS: u16 = 4;

/// A cluster, and a client that was given the address of its first node only and knows the map.
async fn start(nodes: usize) -> (Vec<Broker>, Client) {
    let brokers = Broker::start_cluster(nodes).await;
    let client = connect(&brokers[..1]).await;
    (brokers, client)
}

async fn connect(brokers: &[Broker]) -> Client {
    let builder = Client::builder().addresses(brokers.iter().map(Broker::address));
    let builder = builder.backoff(Duration::from_millis(1), Duration::from_millis(20));
    let client = in_time(builder.connect()).await.unwrap();
    in_time(client.watch_topology().unwrap().next()).await.unwrap();
    client
}

/// Pushes a number to each vbucket in turn.
struct Pusher {
    producer: Producer,
    partitions: Vec<String>,
    pushed: usize,
}

impl Pusher {
    fn new(client: &Client, options: ProducerOptions) -> Self {
        let partitions = (0..VBUCKETS).map(partition_in).collect();
        Self { producer: client.producer_with(options).unwrap(), partitions, pushed: 0 }
    }

    async fn push(&mut self, count: usize) {
        for _ in 0..count {
            let partition = self.partitions[self.pushed % self.partitions.len()].clone();
            let message = Message::new("k", self.pushed.to_string()).key_partition(partition);
            in_time(self.producer.push_detached(message)).await.unwrap();
            self.pushed += 1;
            if self.pushed.is_multiple_of(8) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Pushes for so long, in small steps.
    async fn push_for(&mut self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            self.push(8).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Pushes until something holds.
    async fn push_until(&mut self, what: &str, is_met: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_met() {
            assert!(start.elapsed() < support::DEADLINE, "not in time: {what}");
            self.push(8).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Everything pushed was committed, is stored once, and in order.
    async fn check(self, broker: &Broker) {
        let summary = in_time(self.producer.close()).await;
        assert_eq!((summary.committed, summary.rejected, summary.unknown), (self.pushed as u64, 0, 0));
        let mut last = HashMap::new();
        let state = broker.lock();
        assert_eq!(state.log.all().len(), self.pushed);
        for stored in state.log.all() {
            let number: u64 = std::str::from_utf8(&stored.payload).unwrap().parse().unwrap();
            let before = last.insert(stored.vbucket, number);
            assert!(before.is_none_or(|before| before < number), "{number} behind {before:?}");
        }
    }
}

/// Messages go out one by one, however many are unanswered.
fn eager() -> ProducerOptions {
    ProducerOptions { unanswered_requests_max: 1_000, ..ProducerOptions::default() }
}

/// How many of the requests from some place on went to another node than the leader of what they begin with.
fn strays(broker: &Broker, from: usize) -> usize {
    let state = broker.lock();
    let is_stray = |request: &&support::Arrived| state.leaders[usize::from(request.vbucket)] != Some(request.node);
    state.arrived.iter().skip(from).filter(is_stray).count()
}

fn arrived(broker: &Broker) -> usize {
    broker.lock().arrived.len()
}

#[tokio::test]
async fn messages_go_straight_to_their_leaders() {
    let (brokers, client) = start(3).await;
    let mut pusher = Pusher::new(&client, eager());
    pusher.push(2_000).await;
    in_time(pusher.producer.flush()).await;
    assert_eq!(strays(&brokers[0], 0), 0);
    let streams: HashSet<(u64, usize)> =
        brokers[0].lock().arrived.iter().map(|request| (request.producer, request.node)).collect();
    assert_eq!(streams.len(), 3, "one id, and a stream to each node");
    pusher.check(&brokers[0]).await;
}

#[tokio::test]
async fn producer_of_a_single_node_has_one_stream() {
    let (brokers, client) = start(1).await;
    let mut pusher = Pusher::new(&client, eager());
    pusher.push(500).await;
    in_time(pusher.producer.flush()).await;
    let state = brokers[0].lock();
    assert!(state.arrived.iter().all(|request| request.producer == state.arrived[0].producer));
    assert_eq!(state.connections, 2, "one for the map and subscriptions, one of the producer's own");
}

#[tokio::test]
async fn order_holds_while_leaders_change_under_load() {
    let (brokers, client) = start(3).await;
    let mut pusher = Pusher::new(&client, eager());
    for round in 0..30 {
        pusher.push_for(Duration::from_millis(20)).await;
        brokers[0].lead((0..4).map(|vbucket| Some((vbucket * round + round) % 3)));
        if round % 5 == 4 {
            brokers[round % 3].cut_all();
        }
    }
    pusher.check(&brokers[0]).await;
}

#[tokio::test]
async fn vbucket_that_is_never_settled_follows_its_leader_all_the_same() {
    let (brokers, client) = start(2).await;
    let mut pusher = Pusher::new(&client, ProducerOptions::default());
    pusher.push(100).await;
    brokers[0].lead([1, 0, 1, 0].map(Some));
    // Always something on its way.
    let has_moved = || {
        let state = brokers[0].lock();
        let latest = state.arrived.iter().rev().take(20);
        latest.clone().count() == 20
            && latest.clone().all(|request| state.leaders[usize::from(request.vbucket)] == Some(request.node))
    };
    let start = Instant::now();
    while !has_moved() {
        assert!(start.elapsed() < support::DEADLINE, "not in time");
        pusher.push(64).await;
    }
    pusher.check(&brokers[0]).await;
}

#[tokio::test]
async fn death_of_a_node_loses_nothing_and_repeats_nothing() {
    let (brokers, client) = start(3).await;
    let mut pusher = Pusher::new(&client, eager());
    pusher.push_for(Duration::from_millis(50)).await;
    // The map does not change: the others forward.
    brokers[1].kill().await;
    pusher.push_for(Duration::from_millis(200)).await;
    in_time(pusher.producer.flush()).await;
    brokers[0].lead([0, 0, 2, 2].map(Some));
    pusher.push_for(Duration::from_millis(50)).await;
    brokers[0].kill().await;
    pusher.push_for(Duration::from_millis(200)).await;
    pusher.check(&brokers[2]).await;
}

#[tokio::test]
async fn lane_goes_home_when_its_node_is_back() {
    let (brokers, client) = start(2).await;
    let mut pusher = Pusher::new(&client, eager());
    pusher.push_for(Duration::from_millis(20)).await;
    brokers[1].kill().await;
    let before = arrived(&brokers[0]);
    pusher.push_until("pushes for the dead node arrive elsewhere", || strays(&brokers[0], before) > 0).await;
    brokers[1].revive().await;
    let before = arrived(&brokers[0]);
    let has_arrived = || brokers[0].lock().arrived.iter().skip(before).any(|request| request.node == 1);
    pusher.push_until("the node gets pushes again", has_arrived).await;
    in_time(pusher.producer.flush()).await;
    let duplicates = pusher.producer.summary().duplicates;
    let before = arrived(&brokers[0]);
    pusher.push(100).await;
    in_time(pusher.producer.flush()).await;
    assert_eq!(strays(&brokers[0], before), 0);
    assert_eq!(pusher.producer.summary().duplicates, duplicates);
    pusher.check(&brokers[0]).await;
}

#[tokio::test]
async fn silent_node_is_left_for_one_that_forwards() {
    let (brokers, client) = start(3).await;
    let options = ProducerOptions { silence_timeout: Duration::from_millis(100), ..eager() };
    let mut pusher = Pusher::new(&client, options);
    pusher.push(100).await;
    in_time(pusher.producer.flush()).await;
    brokers[1].pause(true);
    pusher.push(100).await;
    let start = Instant::now();
    in_time(pusher.producer.flush()).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    pusher.check(&brokers[0]).await;
}

#[tokio::test]
async fn silent_node_that_leads_nothing_any_more_is_left_at_once() {
    let (brokers, client) = start(3).await;
    let mut pusher = Pusher::new(&client, ProducerOptions { silence_timeout: Duration::from_secs(600), ..eager() });
    // One of them is where the client has its map from.
    for silent in [0, 1, 2] {
        pusher.push(100).await;
        in_time(pusher.producer.flush()).await;
        brokers[silent].pause(true);
        pusher.push(100).await;
        brokers[0].lead([(silent + 1) % 3; 4].map(Some));
        in_time(pusher.producer.flush()).await;
        brokers[silent].pause(false);
        brokers[0].lead([0, 1, 2, 2].map(Some));
    }
    pusher.check(&brokers[0]).await;
}

#[tokio::test]
async fn map_comes_from_a_node_that_owes_an_answer_while_the_others_are_silent() {
    let brokers = Broker::start_cluster(3).await;
    brokers[0].lead([0; 4].map(Some));
    // Nobody gives up on anybody.
    let forever = Duration::from_secs(600);
    let client = in_time(Client::builder().address(brokers[0].address()).connect_timeout(forever).connect()).await;
    let client = client.unwrap();
    let mut watch = client.watch_topology().unwrap();
    in_time(watch.next()).await.unwrap();
    let mut pusher = Pusher::new(&client, ProducerOptions { silence_timeout: forever, ..eager() });
    pusher.push(100).await;
    in_time(pusher.producer.flush()).await;
    brokers[1..].iter().for_each(|silent| silent.pause(true));
    let before = brokers[0].lock().connections;
    brokers[0].fault([PushFault::Ignore]);
    pusher.push(1).await;
    brokers[0].until("another node is asked for the map", |state| state.connections > before).await;
    brokers[0].lead([0, 0, 0, 1].map(Some));
    let map = in_time(watch.next()).await.unwrap();
    assert_eq!(map.map_version, MapVersion(3));
}

#[tokio::test]
async fn address_that_leads_nowhere_does_no_harm() {
    let brokers = Broker::start_cluster(2).await;
    brokers[0].lock().nodes[1] = "no.such.host.invalid:7400".to_owned();
    let client = connect(&brokers[..1]).await;
    let mut pusher = Pusher::new(&client, eager());
    let start = Instant::now();
    pusher.push(500).await;
    in_time(pusher.producer.flush()).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(brokers[0].lock().arrived.iter().all(|request| request.node == 0));
    pusher.check(&brokers[0]).await;
}

#[tokio::test]
async fn refused_message_is_tried_again_when_the_map_changes() {
    let brokers = Broker::start_cluster(2).await;
    let wait = Duration::from_secs(15);
    let builder = Client::builder().address(brokers[0].address()).backoff(wait, wait);
    let client = in_time(builder.connect()).await.unwrap();
    in_time(client.watch_topology().unwrap().next()).await.unwrap();
    brokers[0].fault([PushFault::Reject { vbucket: None, code: ErrorCode::NotLeader, retry: true }]);
    let producer = client.producer().unwrap();
    let ticket = producer.push(Message::new("k", "0").key_partition(partition_in(0))).await.unwrap();
    brokers[0].until("it was refused", |state| state.arrived.len() == 1).await;
    let start = Instant::now();
    let changes = async {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            brokers[0].lead([1, 1, 1, 1].map(Some));
        }
    };
    tokio::select! {
        outcome = in_time(ticket) => drop(outcome.unwrap()),
        () = changes => {}
    }
    assert!(start.elapsed() < wait / 2, "{:?}", start.elapsed());
}

#[tokio::test]
async fn node_that_refuses_for_long_is_left_for_another() {
    let (brokers, client) = start(2).await;
    let refusal = PushFault::Reject { vbucket: Some(0), code: ErrorCode::NotLeader, retry: true };
    let options = ProducerOptions { silence_timeout: Duration::from_millis(50), ..ProducerOptions::default() };
    let producer = client.producer_with(options).unwrap();
    let ticket = producer.push(Message::new("k", "0").key_partition(partition_in(0))).await.unwrap();
    brokers[0].fault(std::iter::repeat_n(refusal, 1_000));
    let is_left = |state: &support::State| state.arrived.iter().any(|request| request.node == 1);
    brokers[0].until("the other node is asked", is_left).await;
    brokers[0].lock().push_faults.clear();
    in_time(ticket).await.unwrap();
}

#[tokio::test]
async fn node_that_refuses_what_another_leads_is_left_for_that_one() {
    let (brokers, client) = start(5).await;
    let refusal = PushFault::Reject { vbucket: Some(0), code: ErrorCode::NotLeader, retry: true };
    let options = ProducerOptions { silence_timeout: Duration::from_secs(600), ..ProducerOptions::default() };
    let producer = client.producer_with(options).unwrap();
    brokers[0].fault(std::iter::repeat_n(refusal, 1_000));
    let ticket = producer.push(Message::new("k", "0").key_partition(partition_in(0))).await.unwrap();
    brokers[0].until("it is refused", |state| state.arrived.len() > 1).await;
    brokers[0].lead([4, 0, 1, 2].map(Some));
    let is_left = |state: &support::State| state.arrived.iter().any(|request| request.node != 0);
    brokers[0].until("another node is asked", is_left).await;
    brokers[0].lock().push_faults.clear();
    in_time(ticket).await.unwrap();
    let state = brokers[0].lock();
    assert!(state.arrived.iter().all(|request| [0, 4].contains(&request.node)), "{:?}", state.arrived);
}

#[tokio::test]
async fn silent_node_is_left_for_whoever_leads_what_waits_there() {
    let (brokers, client) = start(5).await;
    let options = ProducerOptions { silence_timeout: Duration::from_millis(50), ..ProducerOptions::default() };
    let producer = client.producer_with(options).unwrap();
    // It takes the message, and does not reach who leads the vbucket by then.
    brokers[0].fault([PushFault::Ignore]);
    let ticket = producer.push(Message::new("k", "0").key_partition(partition_in(0))).await.unwrap();
    brokers[0].until("it is taken", |state| state.arrived.len() == 1).await;
    brokers[0].lead([4, 0, 1, 2].map(Some));
    in_time(ticket).await.unwrap();
    let nodes: Vec<usize> = brokers[0].lock().arrived.iter().map(|request| request.node).collect();
    assert_eq!(nodes, [0, 4]);
}

#[tokio::test]
async fn node_that_leaves_and_one_that_joins_are_followed() {
    let (brokers, client) = start(3).await;
    let mut pusher = Pusher::new(&client, eager());
    pusher.push(100).await;
    let left = brokers[0].lock().nodes.remove(2);
    brokers[0].lead([0, 1, 0, 1].map(Some));
    pusher
        .push_until("the third gets no more", || {
            let state = brokers[0].lock();
            state.map_version == 2 && state.arrived.iter().rev().take(20).all(|request| request.node != 2)
        })
        .await;
    brokers[0].lock().nodes.push(left);
    brokers[0].lead([2, 2, 2, 2].map(Some));
    let joined = || brokers[0].lock().arrived.iter().rev().take(10).all(|request| request.node == 2);
    pusher.push_until("the third gets everything", joined).await;
    pusher.check(&brokers[0]).await;
}

#[tokio::test]
async fn one_address_is_enough_to_survive_the_node_behind_it() {
    let (brokers, client) = start(2).await;
    let mut pusher = Pusher::new(&client, eager());
    brokers[0].kill().await;
    pusher.push(100).await;
    in_time(pusher.producer.flush()).await;
    in_time(client.subscribe(SubscribeOptions::new(["*"]))).await.unwrap();
    pusher.check(&brokers[1]).await;
}

#[tokio::test]
async fn map_is_watched_across_the_death_of_nodes_and_never_goes_back() {
    let (brokers, client) = start(2).await;
    let mut watch = client.watch_topology().unwrap();
    assert_eq!(in_time(watch.next()).await.unwrap().map_version, MapVersion(1));
    brokers[0].lead([0, 0, 0, 1].map(Some));
    let map = in_time(watch.next()).await.unwrap();
    assert_eq!(
        (map.map_version, map.leader(VBucketId(3)).unwrap().0.name.clone()),
        (MapVersion(2), brokers[1].address())
    );
    // The other node lags behind.
    brokers[0].lock().map_version = 1;
    brokers[0].kill().await;
    brokers[1].until("it is asked, left, and asked again", |state| state.maps_asked_at[1] >= 3).await;
    brokers[0].lead([None, None, None, Some(1)]);
    brokers[0].lead([1, 1, 1, 1].map(Some));
    let map = in_time(watch.next()).await.unwrap();
    assert_eq!(map.map_version, MapVersion(3), "neither an older one nor the same again");
    brokers[0].lock().cluster_id = [8; 16];
    brokers[0].lock().map_version = 0;
    brokers[0].lead([1, 1, 1, 1].map(Some));
    let map = in_time(watch.next()).await.unwrap();
    assert_eq!((map.cluster_id.0, map.map_version), ([8; 16], MapVersion(1)), "another cluster counts anew");
    in_time(client.close()).await;
    assert!(in_time(watch.next()).await.is_none());
    assert!(in_time(watch.next()).await.is_none());
    assert!(client.watch_topology().is_err());
}

/// Takes numbers until there are so many; fails on a gap.
async fn take(subscription: &mut Subscription, numbers: &mut Vec<usize>, count: usize) {
    while numbers.len() < count {
        let batch = in_time(subscription.next_batch()).await.unwrap().unwrap();
        assert_eq!(batch.gaps().len(), 0);
        let payloads = batch.messages().map(|message| std::str::from_utf8(message.payload()).unwrap().parse::<usize>());
        numbers.extend(payloads.map(Result::unwrap));
    }
}

#[tokio::test]
async fn subscription_survives_its_node_without_gap_or_duplicate() {
    let (brokers, client) = start(3).await;
    let options = SubscribeOptions { silence_timeout: Duration::from_millis(200), ..SubscribeOptions::new(["*"]) };
    let mut subscription = in_time(client.subscribe(options)).await.unwrap();
    let mut pusher = Pusher::new(&client, eager());
    let mut numbers = Vec::new();
    for round in 0..3 {
        pusher.push(200).await;
        take(&mut subscription, &mut numbers, round * 400 + 100).await;
        let at = *brokers[0].lock().opened_at.last().unwrap();
        match round {
            // Silent, then dead, then only cut off.
            0 => brokers[at].pause(true),
            1 => brokers[at].kill().await,
            _ => brokers[at].cut_all(),
        }
        pusher.push(200).await;
        in_time(pusher.producer.flush()).await;
        take(&mut subscription, &mut numbers, (round + 1) * 400).await;
        let next = *brokers[0].lock().opened_at.last().unwrap();
        assert_ne!(at, next, "another node than the last, in round {round}");
        brokers[at].pause(false);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..1_200).collect::<Vec<_>>());
    assert_eq!((subscription.stats().skipped, subscription.stats().reconnects), (0, 3));
}

#[tokio::test]
async fn refused_subscription_is_opened_at_another_node() {
    let (brokers, client) = start(2).await;
    brokers[0].lock().refuse_opens.push_back(ErrorCode::Overloaded);
    in_time(client.subscribe(SubscribeOptions::new(["*"]))).await.unwrap();
    let opened_at = brokers[0].lock().opened_at.clone();
    assert_eq!(opened_at.len(), 2);
    assert_ne!(opened_at[0], opened_at[1]);
}
