use std::time::Duration;

use broky_proto::frame::PREFIX_LEN;
use broky_proto::id::ProducerId;
use broky_proto::v1::{self, Outcome, OutcomeKind, PushRequest, PushResponse};
use prost::Message as _;

use super::*;
use crate::message::{AsMessage as _, Message};

/// Vbuckets in these tests.
const COUNT: u32 = 4;

/// A router, and a clock.
struct Bench {
    router: Router,
    now: Instant,
    version: u64,
}

impl Bench {
    fn new() -> Self {
        Self::with(ProducerOptions::default())
    }

    fn with(options: ProducerOptions) -> Self {
        Self { router: Router::new(options, ProducerId(77)), now: Instant::now(), version: 0 }
    }

    /// A cluster of the nodes a, b and c; leaders by their letter, `-` for none.
    fn map(&mut self, leaders: &str) {
        self.map_of(&["a", "b", "c"], leaders);
    }

    fn map_of(&mut self, nodes: &[&str], leaders: &str) {
        self.version += 1;
        let place = |leader: char| nodes.iter().position(|node| node.starts_with(leader)).map_or(0, |at| at + 1);
        let node = |name: &&str| v1::TopologyNode { address: (*name).to_owned(), ..v1::TopologyNode::default() };
        let map = Topology::new(v1::TopologyResponse {
            cluster_id: vec![1; 16].into(),
            map_version: self.version,
            vbuckets: u32::try_from(leaders.len()).unwrap(),
            nodes: nodes.iter().map(node).collect(),
            leaders: leaders.chars().map(|leader| u32::try_from(place(leader)).unwrap()).collect(),
            epochs: vec![1; leaders.len()],
            groups: Vec::new(),
        });
        self.router.handle_map(&map.unwrap(), self.now);
        self.router.check_invariants();
    }

    /// Pushes to a vbucket; gives the lane.
    fn push(&mut self, vbucket: u32) -> Slot {
        let message = Message::new("k", "v").key_partition(partition(vbucket));
        let now = self.now;
        let (slot, (), _) = self.router.append(&Encoder::new(message.as_message()), || now, |_, _| ());
        self.router.check_invariants();
        slot
    }

    fn connect(&mut self, slot: Slot, address: &str) {
        self.router.handle_connect(slot, &Arc::from(address));
    }

    /// Sends what a lane has to send; gives the requests.
    fn send(&mut self, slot: Slot) -> Vec<PushRequest> {
        let requests = std::iter::from_fn(|| self.router.next_request(slot));
        requests.map(|framed| PushRequest::decode(&framed[PREFIX_LEN..]).unwrap()).collect()
    }

    /// Everything sent in a lane is committed.
    fn commit(&mut self, slot: Slot, requests: &[PushRequest]) {
        for request in requests {
            let count = u32::try_from(request.messages.len()).unwrap();
            let outcome = Outcome { count, kind: OutcomeKind::Committed.into(), ..Outcome::default() };
            let response = PushResponse { outcomes: vec![outcome], positions: Vec::new() };
            self.router.act(slot, |window| window.handle_response(response)).unwrap();
            self.router.settle_changeover();
            self.router.check_invariants();
        }
    }

    /// Sends and commits whatever a lane has.
    fn settle(&mut self, slot: Slot) {
        let requests = self.send(slot);
        self.commit(slot, &requests);
    }

    fn target(&self, slot: Slot) -> Option<String> {
        self.router.target(slot).map(|target| target.to_string())
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.router.handle_timeout(self.now);
        self.router.settle_changeover();
        self.router.check_invariants();
    }
}

/// A key_partition in this vbucket.
fn partition(vbucket: u32) -> String {
    let count = broky_proto::id::VBucketCount::new(COUNT).unwrap();
    let is_there = |name: &String| u32::from(count.vbucket_of(Token::of(name.as_bytes(), b"")).0) == vbucket;
    (0..).map(|n| format!("p{n}")).find(is_there).unwrap()
}

#[test]
fn way_out_leads_to_those_who_lead_what_the_oldest_batch_waits_for() {
    let mut bench = Bench::new();
    bench.map("aaaa");
    let slot = bench.push(0);
    assert!((1..4).all(|vbucket| bench.push(vbucket) == slot));
    bench.connect(slot, "a");
    let out = |bench: &Bench, turn| bench.router.way_out(slot, "a", turn).map(|address| address.to_string());
    assert_eq!(bench.send(slot).len(), 1);
    assert_eq!(out(&bench, 0), None, "nobody else leads any of it");
    bench.map("-abc");
    let [first, second, again] = [0, 1, 2].map(|turn| out(&bench, turn).unwrap());
    assert_eq!([&*first, &*second, &*again], ["b", "c", "b"]);
    // One of them is settled, and the others have to go again.
    let run = |first, count, kind: OutcomeKind| Outcome { first, count, kind: kind.into(), ..Outcome::default() };
    let refused = |first, count| Outcome { retry: true, ..run(first, count, OutcomeKind::Rejected) };
    let outcomes = vec![refused(0, 2), run(2, 1, OutcomeKind::Committed), refused(3, 1)];
    let response = PushResponse { outcomes, positions: Vec::new() };
    bench.router.act(slot, |window| window.handle_response(response)).unwrap();
    assert_eq!([0, 1].map(|turn| out(&bench, turn).unwrap()), ["c", "c"]);
}

#[test]
fn everything_takes_one_lane_while_there_is_one_node() {
    let mut bench = Bench::new();
    let before: Vec<Slot> = (0..COUNT).map(|vbucket| bench.push(vbucket)).collect();
    bench.map_of(&["a"], "aaaa");
    let after: Vec<Slot> = (0..COUNT).map(|vbucket| bench.push(vbucket)).collect();
    assert_eq!([before, after].concat(), [Slot::FIRST; 8]);
    assert!(bench.router.routes.is_none() && bench.target(Slot::FIRST).is_none());
}

#[test]
fn message_goes_to_the_lane_of_its_leader() {
    let mut bench = Bench::new();
    bench.map("aabc");
    let lanes: Vec<Slot> = (0..COUNT).map(|vbucket| bench.push(vbucket)).collect();
    let targets: Vec<_> = lanes.iter().map(|lane| bench.target(*lane).unwrap()).collect();
    assert_eq!(targets, ["a", "a", "b", "c"]);
    assert_eq!(lanes[0], lanes[1]);
    assert_eq!(bench.router.take_unattended().len(), 4, "three lanes, and the first, each wants a driver once");
    assert!(!bench.router.has_unattended());
}

#[test]
fn lane_is_opened_when_there_is_something_to_send() {
    let mut bench = Bench::new();
    bench.map("abca");
    assert_eq!(bench.router.live().count(), 1);
    bench.push(1);
    assert_eq!(bench.router.live().count(), 2);
}

#[test]
fn first_lane_becomes_that_of_the_node_it_is_connected_to() {
    for is_connected_first in [true, false] {
        let mut bench = Bench::new();
        if is_connected_first {
            bench.connect(Slot::FIRST, "b");
        }
        bench.map("abca");
        if !is_connected_first {
            bench.connect(Slot::FIRST, "b");
        }
        assert_eq!((bench.push(1), bench.target(Slot::FIRST)), (Slot::FIRST, Some("b".to_owned())));
        assert_ne!(bench.push(0), Slot::FIRST);
    }
}

#[test]
fn what_was_pushed_before_the_first_map_pins_every_vbucket() {
    let mut bench = Bench::new();
    bench.connect(Slot::FIRST, "elsewhere");
    bench.push(3);
    bench.map("abca");
    assert_eq!([bench.push(0), bench.push(1)], [Slot::FIRST; 2], "either may be unsettled there");
    bench.settle(Slot::FIRST);
    assert_ne!(bench.push(0), Slot::FIRST);
}

#[test]
fn vbucket_stays_in_its_lane_while_it_is_unsettled_there() {
    let mut bench = Bench::new();
    bench.map("aaaa");
    let old = bench.push(1);
    bench.connect(old, "a");
    let first = bench.send(old);
    bench.map("abaa");
    assert_eq!(bench.push(1), old, "on its way");
    bench.commit(old, &first);
    assert_eq!(bench.push(1), old, "the second was not sent yet");
    let rest = bench.send(old);
    assert_eq!(bench.push(0), old, "led there as before");
    bench.commit(old, &rest);
    let new = bench.push(1);
    assert_eq!(bench.target(new).as_deref(), Some("b"));
}

#[test]
fn vbucket_without_a_leader_stays_where_it_was() {
    let mut bench = Bench::new();
    bench.map("abca");
    let lane = bench.push(1);
    bench.map("a-ca");
    assert_eq!(bench.push(1), lane);
    bench.connect(lane, "b");
    bench.settle(lane);
    let any = bench.push(1);
    assert!(bench.router.live().any(|live| live == any));
}

#[test]
fn room_is_that_of_all_lanes_together() {
    let mut bench = Bench::with(ProducerOptions { in_flight_bytes_max: 100, ..ProducerOptions::default() });
    bench.map("abca");
    let large = Message::new("k", vec![0; 1000]).key_partition(partition(0));
    let append = |bench: &mut Bench, message: &Message| {
        let (now, message) = (bench.now, Encoder::new(message.as_message()));
        let has_room = bench.router.has_room(message.field_len());
        has_room.then(|| bench.router.append(&message, || now, |_, _| ()).0)
    };
    let lane = append(&mut bench, &large).expect("what exceeds the window goes when it is alone");
    let small = Message::new("k", "v").key_partition(partition(1));
    assert_eq!(append(&mut bench, &small), None, "another lane, the same room");
    bench.connect(lane, "a");
    bench.settle(lane);
    let mut appended = 0;
    while append(&mut bench, &small).is_some() {
        appended += 1;
    }
    assert!((5..15).contains(&appended), "{appended}");
}

#[test]
fn lane_to_a_node_that_left_ends_once_it_is_settled() {
    let mut bench = Bench::new();
    bench.map("abca");
    let lane = bench.push(1);
    bench.connect(lane, "b");
    let requests = bench.send(lane);
    bench.map_of(&["a", "c"], "aaca");
    assert!(!bench.router.is_over(lane));
    assert_eq!(bench.push(1), lane, "still unsettled there");
    bench.commit(lane, &requests);
    bench.settle(lane);
    assert!(bench.router.is_over(lane));
    bench.router.remove(lane);
    assert_ne!(bench.target(bench.router.home), Some("b".to_owned()));
    let new = bench.push(1);
    assert_eq!(bench.target(new).as_deref(), Some("a"));
    assert_eq!(bench.router.summary().committed, 2, "counts outlive the lane");
}

#[test]
fn slot_taken_again_does_not_settle_the_marks_of_another_lane() {
    let mut bench = Bench::new();
    bench.map("abca");
    let lane = bench.push(1);
    let marks = bench.router.hurry();
    bench.connect(lane, "b");
    assert!(!marks.iter().all(|mark| bench.router.is_settled(mark)));
    bench.settle(lane);
    bench.router.remove(lane);
    let again = bench.push(1);
    assert_eq!(again, lane, "the slot is taken again");
    assert!(marks.iter().all(|mark| bench.router.is_settled(mark)), "what they stood for is settled");
    assert!(!bench.router.hurry().iter().all(|mark| bench.router.is_settled(mark)));
}

#[test]
fn cluster_that_shrinks_to_one_node_goes_back_to_one_lane() {
    let mut bench = Bench::new();
    bench.connect(Slot::FIRST, "a");
    bench.map("abca");
    let lane = bench.push(1);
    bench.connect(lane, "b");
    bench.map_of(&["a"], "aaaa");
    assert!(bench.router.routes.is_some(), "not while b has something");
    bench.settle(lane);
    bench.router.remove(lane);
    assert!(bench.router.routes.is_none());
    assert_eq!((bench.push(1), bench.target(Slot::FIRST)), (Slot::FIRST, None));
}

#[test]
fn only_lane_is_not_spare() {
    let mut bench = Bench::new();
    bench.connect(Slot::FIRST, "a");
    bench.map("abca");
    assert!(!bench.router.is_spare(Slot::FIRST));
    let lane = bench.push(1);
    assert!(bench.router.is_spare(Slot::FIRST) && !bench.router.is_spare(lane), "idle, and not");
}

#[test]
fn busy_vbucket_changes_over_and_does_not_overtake_itself() {
    let mut bench = Bench::new();
    bench.map("aabb");
    let (old, new) = (bench.push(1), bench.push(2));
    bench.connect(old, "a");
    bench.connect(new, "b");
    bench.connect(Slot::FIRST, "c");
    bench.settle(new);
    let mut requests = bench.send(old);
    bench.map("abbb");
    for _ in 0..3 {
        assert_eq!(bench.push(1), old, "it is never settled");
        bench.pass(Duration::from_millis(100));
    }
    bench.pass(Duration::from_millis(300));
    assert!(bench.router.is_changing_over());
    assert_eq!(bench.push(1), new);
    assert_eq!(bench.push(2), new);
    assert_eq!(bench.send(new), [], "held, with what is behind it");
    bench.commit(old, &requests);
    requests = bench.send(old);
    assert_eq!(bench.send(new), []);
    bench.commit(old, &requests);
    assert_eq!(bench.send(new).len(), 1);
    assert_eq!(bench.push(1), new);
}

#[test]
fn changeover_waits_until_every_lane_is_well() {
    let mut bench = Bench::new();
    bench.map("aabb");
    let (old, new) = (bench.push(1), bench.push(2));
    bench.connect(old, "a");
    bench.map("abbb");
    bench.connect(Slot::FIRST, "c");
    for _ in 0..10 {
        assert_eq!(bench.push(1), old);
        bench.pass(Duration::from_millis(500));
        assert!(!bench.router.is_changing_over(), "there is no stream to b");
    }
    bench.connect(new, "b");
    bench.push(1);
    bench.pass(Duration::from_millis(500));
    assert!(bench.router.is_changing_over());
}

#[test]
fn vbuckets_that_change_places_do_not_wait_for_each_other() {
    let mut bench = Bench::new();
    bench.map("abab");
    let (a, b) = (bench.push(0), bench.push(1));
    bench.connect(Slot::FIRST, "c");
    bench.connect(a, "a");
    bench.connect(b, "b");
    bench.map("baba");
    assert_eq!((bench.push(0), bench.push(1)), (a, b));
    bench.pass(Duration::from_millis(500));
    assert_eq!((bench.push(0), bench.push(1)), (b, a));
    for _ in 0..3 {
        bench.settle(a);
        bench.settle(b);
    }
    assert!(bench.router.window(a).is_empty() && bench.router.window(b).is_empty());
    assert!(!bench.router.is_changing_over());
}

#[test]
fn cluster_founded_anew_with_more_vbuckets_keeps_pins_and_with_fewer_everything_is_given_up() {
    let mut bench = Bench::new();
    bench.map("ab");
    let lane = bench.push(3);
    assert_eq!(bench.target(lane).as_deref(), Some("b"));
    bench.map("aaaaaaaa");
    assert_eq!(bench.push(3), lane);
    bench.connect(lane, "b");
    let sent = bench.send(lane);
    let unsent = bench.push(3);
    assert_eq!((sent.len(), unsent), (1, lane));
    bench.map("a");
    assert!(bench.router.window(lane).is_empty());
    let (unknown, rejected) = (2, 1);
    assert_eq!(bench.router.summary(), FlushSummary { unknown, rejected, ..FlushSummary::default() });
    let new = bench.push(3);
    assert_eq!(bench.target(new).as_deref(), Some("a"));
    bench.connect(new, "a");
    assert!(bench.send(new)[0].producer_epoch > sent[0].producer_epoch);
}

#[test]
fn vbuckets_that_change_back_meanwhile_do_not_wait_for_each_other() {
    let mut bench = Bench::new();
    bench.map("abab");
    let (a, b) = (bench.push(0), bench.push(1));
    bench.connect(Slot::FIRST, "c");
    bench.connect(a, "a");
    bench.connect(b, "b");
    bench.map("baba");
    bench.push(0);
    bench.pass(Duration::from_millis(500));
    assert_eq!((bench.push(0), bench.push(1)), (b, a));
    bench.map("abab");
    assert_eq!((bench.push(0), bench.push(1)), (b, a), "what is held is waited for by nobody");
    for _ in 0..3 {
        bench.settle(a);
        bench.settle(b);
    }
    assert!(bench.router.window(a).is_empty() && bench.router.window(b).is_empty());
}

#[test]
fn lane_goes_on_above_the_epoch_of_the_lane_that_a_vbucket_comes_from() {
    let mut bench = Bench::new();
    bench.map("abaa");
    let (a, b) = (bench.push(0), bench.push(1));
    bench.connect(a, "a");
    bench.connect(b, "b");
    let epoch_of = |bench: &mut Bench, slot| {
        let requests = bench.send(slot);
        bench.commit(slot, &requests);
        requests[0].producer_epoch
    };
    assert_eq!((epoch_of(&mut bench, a), epoch_of(&mut bench, b)), (1, 2));
    bench.map("baaa");
    assert_eq!((bench.push(0), bench.push(1)), (b, a));
    assert_eq!(epoch_of(&mut bench, b), 2, "it is above that of the other lane");
    assert_eq!(epoch_of(&mut bench, a), 3);
    bench.router.remove(a);
    bench.map("bbbb");
    assert_eq!(bench.push(1), b);
    assert_eq!(epoch_of(&mut bench, b), 4, "above that of a lane that is gone");
}
