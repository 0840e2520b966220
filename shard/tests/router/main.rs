//! A router against a model of the leaders it routes to: leaders change, links break, maps come late.
//!
//! What has to hold, whatever happens: every message has one outcome; what is answered as committed is stored, once;
//! what is answered as rejected is not; and a producer's messages stand in each vbucket in the order in which they were
//! pushed.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail")]

#[path = "../cluster/control.rs"]
#[expect(dead_code, reason = "the cluster's tests use more of it")]
mod control;
#[path = "../cluster/rng.rs"]
mod rng;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use broky_proto::id::{Epoch, Member, Numbered, ProducerEpoch, Token, VBucketCount, VBucketId};
use broky_proto::time::Timestamp;
use broky_proto::v1::{self, Acks, ErrorCode};
use broky_proto::wire::scan_push;
use broky_replication::{Append, Isr, Replica, Row, Verdict};
use broky_ring::command::{Command, Step};
use broky_shard::{Collector, Exception, ExceptionKind, Part, PartId, PartOutcome, Routed, Router, ShardId, Target};
use bytes::Bytes;
use prost::Message as _;

use control::Cluster;
use rng::Rng;

const VBUCKETS: u32 = 2;
/// Of each producer.
const MESSAGES: u64 = 600;

/// One vbucket as its leaders see it: they hand its state on to one another.
struct Log {
    replica: Replica,
    /// (producer, sequence) by offset.
    messages: Vec<(u64, u64)>,
    /// By epoch and producer: what a leader has refused. It has forgotten that when it leads again, and the others never
    /// knew.
    rows: BTreeMap<(Epoch, u64), Row>,
}

/// A request that was pushed.
struct Pushed {
    producer: u64,
    /// Sequence and vbucket of each message.
    messages: Vec<(u64, usize)>,
    collector: Option<Collector>,
    response: Option<v1::PushResponse>,
}

struct World {
    rng: Rng,
    now: Timestamp,
    vbuckets: VBucketCount,
    cluster: Cluster,
    members: Vec<Member>,
    router: Router,
    logs: Vec<Log>,
    /// Parts on their way to each target, in order.
    on_their_way: BTreeMap<Target, VecDeque<Part>>,
    /// On links that broke. A target takes them until it takes something of a later one; nobody waits for the answers.
    left: BTreeMap<Target, VecDeque<Part>>,
    answers: BTreeMap<Target, VecDeque<(PartId, PartOutcome)>>,
    pushed: Vec<Pushed>,
    /// Per producer: requests whose answer it has not got. A stream answers in the order of the requests.
    unanswered: Vec<VecDeque<usize>>,
    /// Per producer: sequences to push, the next ones first.
    to_push: Vec<VecDeque<u64>>,
    /// Per producer: something has to be pushed again, and nothing is pushed before everything is answered.
    is_holding: Vec<bool>,
    epochs: Vec<u32>,
    keys: Vec<Bytes>,
    answered: usize,
    /// Messages of which an earlier attempt ended as unknown: a refusal of a later one says nothing about that.
    in_doubt: BTreeSet<(u64, u64)>,
    /// Faults are over.
    is_calm: bool,
    /// Links break, and leaders refuse, more often than not.
    is_stormy: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let vbuckets = VBucketCount::new(VBUCKETS).unwrap();
        let mut cluster = Cluster::new(vbuckets, 3, 1);
        let members: Vec<Member> = (0..3).map(|node| cluster.register(&format!("n{node}"))).collect();
        cluster.settle();
        let log = || {
            let mut replica = Replica::new(Default::default(), Default::default());
            let isr = Isr { members: vec![members[0]], version: Default::default(), min: 1 };
            replica.lead(Epoch(1), members[0], isr);
            Log { replica, messages: Vec::new(), rows: BTreeMap::new() }
        };
        let key_of = |vbucket| {
            let is_of = |key: &u16| vbuckets.vbucket_of(Token::of(b"", &key.to_be_bytes())) == vbucket;
            Bytes::copy_from_slice(&(0..u16::MAX).find(is_of).unwrap().to_be_bytes())
        };
        let mut world = Self {
            rng: Rng::new(seed),
            now: Timestamp(1_000_000_000),
            vbuckets,
            router: Router::new(members[0], 1, vbuckets),
            logs: (0..VBUCKETS).map(|_| log()).collect(),
            on_their_way: BTreeMap::new(),
            left: BTreeMap::new(),
            answers: BTreeMap::new(),
            pushed: Vec::new(),
            unanswered: vec![VecDeque::new(); 2],
            to_push: vec![(1..MESSAGES).collect(), (1..MESSAGES).collect()],
            is_holding: vec![false; 2],
            epochs: vec![0; 2],
            keys: vbuckets.iter().map(key_of).collect(),
            cluster,
            members,
            answered: 0,
            in_doubt: BTreeSet::new(),
            is_calm: false,
            is_stormy: seed % 4 == 3,
        };
        world.learn();
        world
    }

    fn carry_out(&mut self, routed: Routed) {
        for part in routed.parts {
            self.on_their_way.entry(part.to).or_default().push_back(part);
        }
        for told in routed.told {
            let pushed = &mut self.pushed[usize::try_from(told.request).unwrap()];
            let Some(collector) = &mut pushed.collector else { panic!("an outcome after the last one") };
            if collector.take(told.outcome) {
                pushed.response = pushed.collector.take().map(Collector::into_response);
            }
        }
        for producer in 0..self.unanswered.len() {
            while let Some(request) = self.unanswered[producer].front().copied() {
                let Some(response) = self.pushed[request].response.take() else { break };
                self.unanswered[producer].pop_front();
                self.settle(request, &response);
            }
        }
    }

    fn act(&mut self, act: impl FnOnce(&mut Router, Timestamp, &mut Routed)) {
        let mut routed = Routed::default();
        act(&mut self.router, self.now, &mut routed);
        self.carry_out(routed);
    }

    fn learn(&mut self) {
        let map = self.cluster.map().clone();
        self.act(|router, now, out| router.handle_map(now, &map, out));
    }

    /// Pushes the next few messages of a producer.
    fn push(&mut self) {
        let producer = self.rng.below(self.to_push.len());
        // Large ones, now and then.
        let most = if self.rng.one_in(4) { 100 } else { 4 };
        let count = 1 + self.rng.below(most);
        if self.is_holding[producer] && !self.unanswered[producer].is_empty() {
            return;
        }
        self.epochs[producer] += u32::from(std::mem::take(&mut self.is_holding[producer]));
        let Some(first) = self.to_push[producer].front().copied() else { return };
        let mut messages = Vec::new();
        for sequence in (first..).take(count) {
            if self.to_push[producer].front() != Some(&sequence) {
                break;
            }
            self.to_push[producer].pop_front();
            // A message goes to the same vbucket each time.
            messages.push((sequence, usize::try_from(sequence * 7 + producer as u64).unwrap() % self.keys.len()));
        }
        let request = v1::PushRequest {
            messages: messages
                .iter()
                .map(|(_, vbucket)| v1::Message { key: self.keys[*vbucket].clone(), ..v1::Message::default() })
                .collect(),
            acks: Acks::Committed.into(),
            producer_id: producer as u64 + 1,
            sequence: first,
            want_positions: false,
            producer_epoch: self.epochs[producer],
        };
        let bytes = Bytes::from(request.encode_to_vec());
        let push = scan_push(&bytes, 1 << 20).unwrap();
        let collector = Some(Collector::new(&push));
        let number = self.pushed.len() as u64;
        self.unanswered[producer].push_back(self.pushed.len());
        self.pushed.push(Pushed { producer: producer as u64 + 1, messages, collector, response: None });
        // There is no room for it, now and then.
        let is_refused = !self.is_calm && self.rng.one_in(30);
        self.act(|router, now, out| match is_refused {
            true => router.refuse(number, push, "no room", out),
            false => router.push(now, number, bytes, push, out),
        });
    }

    /// Lets a target store the oldest part on its way to it.
    fn store(&mut self) {
        let targets: Vec<Target> = self.on_their_way.keys().chain(self.left.keys()).copied().collect();
        let Some(target) = self.rng.pick(&targets) else { return };
        // Mostly when there is something to overtake.
        let has_next = self.on_their_way.get(&target).is_some_and(|parts| !parts.is_empty());
        let is_left = self.rng.one_in(if has_next { 2 } else { 50 });
        let left = if is_left { self.left.get_mut(&target).and_then(VecDeque::pop_front) } else { None };
        let is_left = left.is_some();
        let part = left.or_else(|| self.on_their_way.get_mut(&target)?.pop_front());
        let Some(part) = part else { return };
        if !is_left {
            self.left.remove(&target);
        }
        let mut exceptions = Vec::new();
        assert_eq!(part.push.entries.len(), part.push.epochs.len());
        // A frozen vbucket refuses, and what follows from the same producer as well.
        let refuses = !self.is_calm && self.rng.one_in(if self.is_stormy { 2 } else { 25 });
        for (entry, routed) in part.push.entries.iter().zip(&part.push.epochs) {
            let vbucket = self.vbuckets.vbucket_of(entry.token);
            let known = self.cluster.map().vbucket(vbucket).unwrap();
            let (leader, epoch) = (known.leader.unwrap(), known.epoch);
            let is_led = epoch == *routed
                && match target {
                    Target::Shard(_) => leader == self.members[0],
                    Target::Node(member) => leader == member,
                };
            let rejected = |code: ErrorCode| ExceptionKind::Rejected { code, reason: String::new() };
            let log = &mut self.logs[usize::from(vbucket.0)];
            let message = part.push.message_of(entry.index).unwrap();
            let Numbered { producer, epoch: producer_epoch, sequence } = message;
            // What it has stored is all that one leader learns from another.
            let known = Numbered { epoch: ProducerEpoch::default(), ..message };
            let is_new = log.replica.dedup().check(known) == Verdict::New;
            let row = log.rows.entry((epoch, producer.0)).or_default();
            let kind = if !is_led {
                Some(rejected(ErrorCode::NotLeader))
            } else if is_new && !row.admits(producer_epoch, sequence) {
                row.refuse(producer_epoch, sequence);
                Some(rejected(ErrorCode::OutOfSequence))
            } else if is_new && refuses {
                row.refuse(producer_epoch, sequence);
                Some(rejected(ErrorCode::NotEnoughReplicas))
            } else {
                match log.replica.append(Some(known)) {
                    Append::Stored(_) => {
                        row.pass(producer_epoch, sequence);
                        log.messages.push((producer.0, sequence.0));
                        None
                    }
                    Append::Duplicate(_) => Some(ExceptionKind::Duplicate),
                    other => {
                        assert_eq!(other, Append::OutOfSequence);
                        Some(rejected(ErrorCode::OutOfSequence))
                    }
                }
            };
            exceptions.extend(kind.map(|kind| Exception { index: entry.index, kind }));
        }
        let messages = u32::try_from(part.push.entries.len()).unwrap();
        let outcome = PartOutcome { messages, exceptions, positions: Vec::new() };
        if !is_left {
            self.answers.entry(target).or_default().push_back((part.id, outcome));
        }
    }

    fn answer(&mut self) {
        let targets: Vec<Target> = self.answers.keys().copied().collect();
        let Some(target) = self.rng.pick(&targets) else { return };
        if let Some((id, outcome)) = self.answers.get_mut(&target).unwrap().pop_front() {
            self.act(|router, now, out| router.handle_outcome(now, id, outcome, out));
        }
    }

    /// Breaks the link to another node: what was answered on it is gone, what it holds may be.
    fn break_link(&mut self) {
        let member = self.members[1 + self.rng.below(2)];
        let target = Target::Node(member);
        let unsent: Vec<PartId> = if self.rng.one_in(2) {
            self.on_their_way.remove(&target).into_iter().flatten().map(|part| part.id).collect()
        } else {
            self.left.entry(target).or_default().extend(self.on_their_way.remove(&target).into_iter().flatten());
            Vec::new()
        };
        self.answers.remove(&target);
        self.act(|router, now, out| router.handle_link_down(now, member, &unsent, out));
    }

    fn move_leader(&mut self) {
        let vbucket = VBucketId(u16::try_from(self.rng.below(self.keys.len())).unwrap());
        let to = self.members[self.rng.below(3)].node;
        self.cluster.apply(Command::Move { steps: vec![Step::TransferLeadership { vbucket, to }] });
    }

    /// A producer's view: what was not committed goes again, in order, before anything new.
    fn settle(&mut self, request: usize, response: &v1::PushResponse) {
        self.answered += 1;
        let (producer, messages) = (self.pushed[request].producer, self.pushed[request].messages.clone());
        for outcome in &response.outcomes {
            for index in outcome.first..outcome.first + outcome.count {
                let (sequence, vbucket) = messages[index as usize];
                let stored = self.logs[vbucket].messages.iter().filter(|at| **at == (producer, sequence)).count();
                match outcome.kind() {
                    v1::OutcomeKind::Committed => assert_eq!(stored, 1, "committed: {producer}:{sequence}"),
                    v1::OutcomeKind::Rejected | v1::OutcomeKind::Unknown => {
                        if outcome.kind() == v1::OutcomeKind::Unknown {
                            self.in_doubt.insert((producer, sequence));
                        }
                        let is_in_doubt = self.in_doubt.contains(&(producer, sequence));
                        assert!(stored == 0 || is_in_doubt, "rejected and stored: {producer}:{sequence}");
                        self.push_again(producer, sequence);
                    }
                    v1::OutcomeKind::Unspecified => panic!("an outcome says nothing"),
                }
            }
        }
    }

    fn push_again(&mut self, producer: u64, sequence: u64) {
        let at = usize::try_from(producer).unwrap() - 1;
        self.is_holding[at] = true;
        let queue = &mut self.to_push[at];
        queue.insert(queue.partition_point(|other| *other < sequence), sequence);
    }

    /// Breaks a producer's stream: it pushes everything unanswered again on another one, while the router still has it.
    fn break_stream(&mut self) {
        let at = self.rng.below(self.to_push.len());
        for request in std::mem::take(&mut self.unanswered[at]) {
            let (producer, messages) = (self.pushed[request].producer, self.pushed[request].messages.clone());
            for (sequence, _) in messages {
                self.in_doubt.insert((producer, sequence));
                self.push_again(producer, sequence);
            }
        }
        self.is_holding[at] = true;
        self.give_up(at);
    }

    /// A producer does not push its oldest messages again, wherever they are.
    fn give_up(&mut self, producer: usize) {
        let most = if self.rng.one_in(4) { 150 } else { 4 };
        for _ in 0..self.rng.below(most) {
            let first = self.to_push[producer].front().copied();
            if first.is_some_and(|first| self.in_doubt.contains(&(producer as u64 + 1, first))) {
                self.to_push[producer].pop_front();
                self.is_holding[producer] = true;
            }
        }
    }

    fn is_done(&self) -> bool {
        self.to_push.iter().all(VecDeque::is_empty) && self.pushed.iter().all(|pushed| pushed.collector.is_none())
    }

    fn check(&self) {
        for log in &self.logs {
            let mut last = BTreeMap::new();
            for (producer, sequence) in &log.messages {
                let before = last.insert(*producer, *sequence).unwrap_or_default();
                assert!(before < *sequence, "{producer}:{sequence} stands behind {before}");
            }
        }
    }
}

fn run(seed: u64) {
    println!("seed {seed}");
    let mut world = World::new(seed);
    for step in 0..40_000 {
        world.is_calm = step > 30_000;
        match world.rng.below(100) {
            0..=9 => world.push(),
            10..=13 | 45..=48 if world.is_stormy && !world.is_calm => world.break_link(),
            10..=44 => world.store(),
            45..=79 => world.answer(),
            80..=86 => world.learn(),
            87..=92 => {
                world.now = world.now.plus(Duration::from_millis(5));
                world.act(|router, now, out| router.handle_timeout(now, out));
            }
            93..=96 if !world.is_calm => world.move_leader(),
            97 if !world.is_calm => world.break_link(),
            98 if !world.is_calm && world.rng.one_in(5) => world.break_stream(),
            99 => {
                let producer = world.rng.below(2);
                if world.unanswered[producer].is_empty() {
                    world.give_up(producer);
                }
            }
            _ => {}
        }
        world.check();
        if world.is_done() {
            return;
        }
    }
    let (waiting, to_push) = (world.router.waiting(), &world.to_push);
    panic!("not done: {waiting} waiting, {} answered, to push {to_push:?}", world.answered);
}

#[test]
fn messages_are_stored_once_and_in_order_whoever_leads() {
    // More with BROKY_SEEDS=n, for a long run by hand.
    let seeds = option_env!("BROKY_SEEDS").and_then(|seeds| seeds.parse().ok()).unwrap_or(40);
    (0..seeds).for_each(run);
}

#[test]
fn lone_target_is_a_shard_of_this_node() {
    let vbuckets = VBucketCount::new(VBUCKETS).unwrap();
    let mut cluster = Cluster::new(vbuckets, 1, 1);
    let me = cluster.register("alone");
    cluster.settle();
    let mut router = Router::new(me, 3, vbuckets);
    let mut out = Routed::default();
    router.handle_map(Timestamp(1), cluster.map(), &mut out);
    let message = |key: &'static [u8]| v1::Message { key: Bytes::from_static(key), ..v1::Message::default() };
    let request =
        v1::PushRequest { messages: vec![message(b"a"), message(b"bb"), message(b"ccc")], ..Default::default() };
    let bytes = Bytes::from(request.encode_to_vec());
    let push = scan_push(&bytes, 1 << 20).unwrap();
    router.push(Timestamp(1), 0, bytes, push, &mut out);
    let messages: usize = out.parts.iter().map(|part| part.push.entries.len()).sum();
    assert_eq!(messages, 3);
    for part in &out.parts {
        let Target::Shard(ShardId(shard)) = part.to else { panic!("{:?}", part.to) };
        assert!(part.push.entries.iter().all(|entry| vbuckets.vbucket_of(entry.token).0 % 3 == shard));
    }
}
