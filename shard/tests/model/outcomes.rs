//! What pushers are told, where the random runs do not come: replicas that lag, sequences out of order.

use broky_proto::id::{ClusterId, Epoch, Member, NodeId, Offset, VBucketCount, VBucketId};
use broky_proto::v1::{self, ErrorCode};
use broky_proto::wire::{Push, scan_push};
use broky_ring::command::Command;
use broky_shard::{ExceptionKind, Outbox, PartOutcome, Shard, ShardConfig, ShardId, Ticket, shards_of};
use bytes::Bytes;
use prost::Message as _;

use crate::cluster::Cluster;
use crate::log::payload;

const VBUCKETS: u32 = 2;

/// The only shard of a process. It knows of no cluster yet.
fn lone_shard(me: Member, vbuckets: VBucketCount) -> Shard {
    let config = ShardConfig {
        shard: ShardId(0),
        shards: 1,
        me,
        cluster: ClusterId([5; 16]),
        vbuckets,
        memory_bytes: ShardConfig::MEMORY_BYTES_MIN,
        block_bytes_max: ShardConfig::BLOCK_BYTES_MAX_DEFAULT,
    };
    Shard::new(config).unwrap()
}

/// A shard that leads vbucket 0 with this many followers, of which none ever acknowledges anything. Vbucket 1 is led
/// by another node.
fn leading(followers: u8, min_isr: u8) -> Shard {
    let vbuckets = VBucketCount::new(VBUCKETS).unwrap();
    let mut cluster = Cluster::new(vbuckets, (1 + followers).max(min_isr), min_isr);
    let me = cluster.register("leader");
    let others: Vec<_> = (0..2).map(|number| cluster.register(&format!("other-{number}"))).collect();
    let copies = usize::from(followers.max(min_isr - 1));
    let nodes: Vec<NodeId> =
        std::iter::once(me).chain(others.iter().copied()).map(|m| m.node).take(1 + copies).collect();
    cluster.place(0, std::iter::once(VBucketId(0)), &nodes);
    cluster.place(0, std::iter::once(VBucketId(1)), &[others[1].node]);
    // Those that are to hold a copy and do not.
    for gone in others.iter().take(copies).skip(usize::from(followers)) {
        cluster.apply(Command::Fence { member: *gone });
    }
    let mut shard = lone_shard(me, vbuckets);
    shard.handle_map(cluster.map(), &mut Outbox::default());
    shard
}

/// A key of the vbucket.
fn key_of(vbucket: u16) -> Bytes {
    let count = VBucketCount::new(VBUCKETS).unwrap();
    let is_of = |key: &u8| count.vbucket_of(broky_proto::id::Token::of(b"", &[*key])).0 == vbucket;
    Bytes::copy_from_slice(&[(0..=u8::MAX).find(is_of).unwrap()])
}

fn request(vbucket: u16, sequence: u64, payload_bytes: usize) -> v1::PushRequest {
    let message = v1::Message { key: key_of(vbucket), payload: payload(1, payload_bytes), ..v1::Message::default() };
    v1::PushRequest { messages: vec![message], producer_id: 7, sequence, ..v1::PushRequest::default() }
}

fn push(shard: &mut Shard, request: &v1::PushRequest) -> Vec<PartOutcome> {
    let bytes = request.encode_to_vec();
    let mut out = Outbox::default();
    shard.push(1, &bytes, &scan_push(&bytes, usize::MAX).unwrap(), Ticket(1), &mut out);
    shard.flush(&mut out);
    shard.check_invariants();
    out.replies.into_iter().map(|reply| reply.outcome).collect()
}

/// The one code that a request was answered with at once.
fn rejected(shard: &mut Shard, request: &v1::PushRequest) -> ErrorCode {
    let outcomes = push(shard, request);
    match outcomes[0].exceptions[0].kind {
        ExceptionKind::Rejected { code, .. } => code,
        ExceptionKind::Duplicate | ExceptionKind::Unknown { .. } => panic!("not rejected: {outcomes:?}"),
    }
}

#[test]
fn push_is_not_answered_before_its_replicas_hold_it() {
    let mut shard = leading(1, 1);
    assert_eq!(push(&mut shard, &request(0, 1, 10)), []);
    assert_eq!(shard.delivery().bounds(VBucketId(0)), Some((Offset::ZERO, Offset::ZERO)), "nobody sees it");
}

#[test]
fn retry_of_an_uncommitted_push_is_not_answered_as_committed() {
    let mut shard = leading(1, 1);
    assert_eq!(push(&mut shard, &request(0, 1, 10)), []);
    assert_eq!(push(&mut shard, &request(0, 1, 10)), []);
}

#[test]
fn refusal_does_not_wait_for_what_others_stored() {
    let mut shard = leading(1, 1);
    assert_eq!(push(&mut shard, &request(0, 1, 10)), []);
    assert_eq!(rejected(&mut shard, &request(1, 1, 10)), ErrorCode::NotLeader);
}

#[test]
fn acknowledgement_of_the_leader_alone_is_not_waited_for() {
    for acks in [v1::Acks::Leader, v1::Acks::None] {
        let mut shard = leading(1, 1);
        let request = v1::PushRequest { acks: acks.into(), ..request(0, 1, 10) };
        assert_eq!(push(&mut shard, &request), [PartOutcome { messages: 1, ..PartOutcome::default() }]);
    }
}

#[test]
fn too_few_replicas_refuse_and_nothing_overtakes() {
    let mut shard = leading(0, 2);
    assert_eq!(rejected(&mut shard, &request(0, 1, 10)), ErrorCode::NotEnoughReplicas);
    assert_eq!(rejected(&mut shard, &request(0, 2, 10)), ErrorCode::OutOfSequence);
    assert_eq!(rejected(&mut shard, &request(0, 1, 10)), ErrorCode::NotEnoughReplicas);
}

#[test]
fn what_was_given_up_is_not_waited_for() {
    let mut shard = leading(0, 2);
    let (frozen, out_of_sequence) = (ErrorCode::NotEnoughReplicas, ErrorCode::OutOfSequence);
    (1..=3).for_each(|sequence| drop(push(&mut shard, &request(0, sequence, 10))));
    let again = |sequence| v1::PushRequest { producer_epoch: 1, ..request(0, sequence, 10) };
    assert_eq!(rejected(&mut shard, &request(0, 3, 10)), out_of_sequence);
    assert_eq!(rejected(&mut shard, &again(3)), frozen, "nobody waits for it");
    assert_eq!(rejected(&mut shard, &again(4)), out_of_sequence);
    assert_eq!(rejected(&mut shard, &request(0, 1, 10)), out_of_sequence, "of an epoch that is over");
    assert_eq!(rejected(&mut shard, &again(3)), frozen);
}

#[test]
fn memory_full_of_uncommitted_messages_refuses_pushes() {
    let mut shard = leading(1, 1);
    let no_producer = v1::PushRequest { producer_id: 0, ..request(0, 1, 200_000) };
    let stored = (0..).take_while(|_| push(&mut shard, &no_producer).is_empty()).take(1_000).count();
    assert!((32..=84).contains(&stored), "{stored} requests of 200 kB fit");
    assert!(shard.memory_used() <= ShardConfig::MEMORY_BYTES_MIN);
    assert_eq!(rejected(&mut shard, &no_producer), ErrorCode::Overloaded);
    assert_eq!(shard.stats().evicted_messages, 0);
}

/// Many idle producers take more memory than there is for them; one goes on pushing.
#[test]
fn producer_that_goes_on_pushing_is_remembered_while_idle_ones_are_forgotten() {
    const VBUCKETS: u32 = 64;
    let vbuckets = VBucketCount::new(VBUCKETS).unwrap();
    let mut cluster = Cluster::new(vbuckets, 1, 1);
    let me = cluster.register("alone");
    cluster.place(0, vbuckets.iter(), &[me.node]);
    let mut shard = Shard::new(ShardConfig { vbuckets, me, ..leading(0, 1).config().clone() }).unwrap();
    shard.handle_map(cluster.map(), &mut Outbox::default());
    let busy = |sequence| v1::PushRequest { producer_id: 1, ..request(0, sequence, 1) };
    let idle_keys: Vec<v1::Message> = (0..600_u16)
        .map(|key| v1::Message { key: key.to_be_bytes().to_vec().into(), ..v1::Message::default() })
        .collect();
    for producer in 0..200 {
        assert_eq!(push(&mut shard, &busy(producer + 1)), [PartOutcome { messages: 1, ..PartOutcome::default() }]);
        let (messages, producer_id) = (idle_keys.clone(), 1_000 + producer);
        push(&mut shard, &v1::PushRequest { messages, producer_id, sequence: 1, ..v1::PushRequest::default() });
    }
    assert!(shard.stats().forgotten_producers > 1_000, "{:?}", shard.stats());
    let retried = push(&mut shard, &busy(200));
    assert_eq!(retried[0].exceptions[0].kind, ExceptionKind::Duplicate);
}

#[test]
fn requests_name_the_shards_that_own_their_messages() {
    let count = VBucketCount::new(VBUCKETS).unwrap();
    let scan = |messages: Vec<v1::Message>| -> Push {
        scan_push(&v1::PushRequest { messages, ..v1::PushRequest::default() }.encode_to_vec(), usize::MAX).unwrap()
    };
    let message = |vbucket| v1::Message { key: key_of(vbucket), ..v1::Message::default() };
    assert_eq!(shards_of(&scan(vec![]), count, 1), []);
    assert_eq!(shards_of(&scan(vec![]), count, 2), []);
    assert_eq!(shards_of(&scan(vec![message(1)]), count, 1), [ShardId(0)]);
    assert_eq!(shards_of(&scan(vec![message(1), message(1)]), count, 2), [ShardId(1)]);
    assert_eq!(shards_of(&scan(vec![message(1), message(0)]), count, 3), [ShardId(0), ShardId(1)]);
}

/// A shard that holds a vbucket of another's, which it leads by the newest map, and does not know so yet; and that.
fn about_to_lead() -> (Shard, Cluster, Epoch) {
    let vbuckets = VBucketCount::new(VBUCKETS).unwrap();
    let mut cluster = Cluster::new(vbuckets, 2, 1);
    let (me, other) = (cluster.register("me"), cluster.register("other"));
    cluster.place(0, std::iter::once(VBucketId(0)), &[other.node, me.node]);
    let mut shard = lone_shard(me, vbuckets);
    shard.handle_map(cluster.map(), &mut Outbox::default());
    cluster.apply(Command::Fence { member: other });
    let known = cluster.map().vbucket(VBucketId(0)).unwrap();
    assert_eq!(known.leader, Some(me));
    let epoch = known.epoch;
    (shard, cluster, epoch)
}

/// Has another node forward a message; gives the refusal.
fn forward(shard: &mut Shard, epoch: Epoch, producer_id: u64, sequence: u64) -> Option<ErrorCode> {
    let bytes = v1::PushRequest { producer_id, producer_epoch: 1, ..request(0, sequence, 1) }.encode_to_vec();
    let push = Push { epochs: vec![epoch], ..scan_push(&bytes, usize::MAX).unwrap() };
    let mut out = Outbox::default();
    shard.push(1, &bytes, &push, Ticket(1), &mut out);
    shard.flush(&mut out);
    let exceptions = out.replies.into_iter().flat_map(|reply| reply.outcome.exceptions);
    exceptions.map(|exception| exception.kind).find_map(|kind| match kind {
        ExceptionKind::Rejected { code, .. } | ExceptionKind::Unknown { code, .. } => Some(code),
        ExceptionKind::Duplicate => None,
    })
}

#[test]
fn what_came_before_the_role_goes_before_what_came_behind_it() {
    let (mut shard, cluster, epoch) = about_to_lead();
    // Another's, again and again.
    for _ in 0..30 {
        (1..=64).for_each(|sequence| assert_eq!(forward(&mut shard, epoch, 1, sequence), Some(ErrorCode::NotLeader)));
    }
    assert_eq!(forward(&mut shard, epoch, 2, 1), Some(ErrorCode::NotLeader));
    shard.handle_map(cluster.map(), &mut Outbox::default());
    assert_eq!(forward(&mut shard, epoch, 2, 2), Some(ErrorCode::OutOfSequence));
    assert_eq!(forward(&mut shard, epoch, 2, 1), None);
    assert_eq!(forward(&mut shard, epoch, 2, 2), None);
}
