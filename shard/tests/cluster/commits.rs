//! Who hears when that something is committed, step by step, without faults.

use broky_proto::id::{Offset, VBucketId};
use broky_ring::command::{Command, Step};
use broky_shard::{Outbox, SessionId};

use crate::readers::Reader;
use crate::world::World;

const VBUCKET: VBucketId = VBucketId(0);

/// Three nodes in sync that hold one vbucket, and nothing on its way.
fn settled() -> World {
    let mut world = World::new(1, 3, 1, 3, 0);
    for _ in 0..100 {
        (0..3).for_each(|node| world.learn(node));
        deliver_all(&mut world);
        world.tick();
        while !world.proposals.is_empty() {
            world.decide(0);
        }
    }
    deliver_all(&mut world);
    assert_eq!(world.control.map().vbucket(VBUCKET).unwrap().isr.len(), 3);
    world
}

/// Delivers what is on its way until nothing is. Returns how many frames each node was sent as a follower.
fn deliver_all(world: &mut World) -> [usize; 3] {
    let mut received = [0; 3];
    loop {
        let links: Vec<SessionId> = world.network.links.keys().copied().collect();
        let before = received;
        let mut has_answered = false;
        for session in links {
            let Some(link) = world.network.links.get(&session) else { continue };
            let (from, to, inbound, now) = (link.from, link.to, link.inbound, world.now);
            while let Some(frame) = world.network.next_down(session) {
                world.with(to, |shard, out| shard.handle_to_follower(now, inbound, frame, out).unwrap());
                received[to] += 1;
            }
            world.with(to, |shard, out| shard.flush(out));
            while let Some(frame) = world.network.next_up(session) {
                world.with(from, |shard, out| shard.handle_to_leader(now, session, frame, out).unwrap());
                has_answered = true;
            }
        }
        if received == before && !has_answered {
            return received;
        }
    }
}

fn leader(world: &World) -> usize {
    let leader = world.control.map().vbucket(VBUCKET).unwrap().leader;
    (0..3).find(|node| Some(world.nodes[*node].member) == leader).unwrap()
}

fn push(world: &mut World) {
    world.produce(0);
    world.push(0);
    world.with(leader(world), |shard, out| shard.flush(out));
}

/// The end of a node's log, and up to where it knows it to be committed.
fn ends(world: &World, node: usize) -> (Offset, Offset) {
    let log = world.nodes[node].shard.as_ref().unwrap().log(VBUCKET).unwrap();
    (log.end(), log.high_watermark())
}

#[test]
fn follower_without_readers_is_not_woken_for_a_commit() {
    let mut world = settled();
    let leader = leader(&world);
    push(&mut world);
    let received = deliver_all(&mut world);
    assert_eq!(world.ledger.acknowledged.len(), 1);
    for follower in (0..3).filter(|node| *node != leader) {
        assert_eq!(received[follower], 1, "the block, and no more");
        assert_eq!(ends(&world, follower), (Offset(1), Offset(0)));
    }
    // A little later it hears of it after all.
    world.with(leader, |shard, out| shard.send_late_notices(out));
    deliver_all(&mut world);
    (0..3).for_each(|node| assert_eq!(ends(&world, node), (Offset(1), Offset(1))));
}

#[test]
fn reader_at_a_follower_gets_what_is_committed_at_once() {
    let mut world = settled();
    let reading = (leader(&world) + 1) % 3;
    let mut out = Outbox::default();
    let shard = world.nodes[reading].shard.as_mut().unwrap();
    let mut reader = Reader::open(reading, shard, None, None, &mut out);
    world.carry_out(reading, out);
    deliver_all(&mut world);
    push(&mut world);
    let received = deliver_all(&mut world);
    assert_eq!((0..3).map(|node| received[node]).sum::<usize>(), 3, "two blocks and one word about them");
    assert_eq!(ends(&world, reading), (Offset(1), Offset(1)));
    let mut out = Outbox::default();
    reader.read(world.nodes[reading].shard.as_mut().unwrap(), &mut world.ledger, &mut out);
    assert_eq!(reader.received, 1);
}

#[test]
fn push_that_waits_while_the_lead_is_handed_over_is_committed() {
    let mut world = settled();
    let before = leader(&world);
    push(&mut world);
    // Both followers have it; the leader has not heard that.
    for session in world.network.links.keys().copied().collect::<Vec<_>>() {
        let (to, inbound, now) = (world.network.links[&session].to, world.network.links[&session].inbound, world.now);
        while let Some(frame) = world.network.next_down(session) {
            world.with(to, |shard, out| shard.handle_to_follower(now, inbound, frame, out).unwrap());
        }
        world.with(to, |shard, out| shard.flush(out));
    }
    let other = (before + 1) % 3;
    let to = world.nodes[other].member.node;
    let steps = vec![Step::TransferLeadership { vbucket: VBUCKET, to }];
    world.control.apply(Command::Move { steps });
    assert_eq!(leader(&world), other);
    (0..3).for_each(|node| world.learn(node));
    assert!(world.producers[0].attempt.is_some(), "it was given up");
    for _ in 0..4 {
        (0..3).for_each(|node| world.learn(node));
        deliver_all(&mut world);
        world.tick();
    }
    assert!(world.producers[0].unsettled.is_empty() && world.producers[0].attempt.is_none());
    assert_eq!(ends(&world, before), (Offset(1), Offset(1)));
}
