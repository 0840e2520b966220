//! The wire format against damage: whatever arrives is an error or a value, never a panic, and costs little.

use std::sync::Arc;
use std::time::Instant;

use broky_proto::id::{ClusterId, Epoch, Incarnation, MapVersion, Member, NodeId, VBucketId};
use broky_ring::member::Zone;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::registry::{CLUSTER, Registry, VBUCKETS};
use super::sim::address;
use crate::gossip::engine::{Engine, EngineConfig, Outbox};
use crate::gossip::envelope::{BODY_BYTES_MAX, Envelope, Kind};
use crate::gossip::rumour::own::{Leads, Own};
use crate::gossip::rumour::{Chunk, Digest, Head, Load, RUMOUR_BYTES_MAX, Rumour, Stamp};
use crate::gossip::stats::{Dropped, GossipStats};
use crate::gossip::swim::Identity;
use crate::gossip::wire::{Reader, put_item, put_varint};

/// An engine with two peers, and datagrams of all kinds that one of them has sent.
struct Target {
    engine: Engine,
    stats: Arc<GossipStats>,
    now: Instant,
    peer: Member,
}

fn target() -> Target {
    let mut registry = Registry::new();
    let members = [1, 2, 3].map(|at| registry.register(&format!("n{at}"), address(at)));
    let now = Instant::now();
    let stats = Arc::new(GossipStats::default());
    let engine = engine(&registry, members[0], 1, now, stats.clone());
    Target { engine, stats, now, peer: members[1] }
}

fn engine(registry: &Registry, member: Member, at: usize, now: Instant, stats: Arc<GossipStats>) -> Engine {
    let me = Identity { member, address: address(at) };
    let (zone, map) = (Zone("z".into()), registry.map());
    let seeds = Vec::new();
    Engine::new(now, EngineConfig { me, cluster: CLUSTER, vbuckets: VBUCKETS, zone, seeds, map, seed: 3 }, stats)
}

/// What a real peer sends in its first seconds, and some of each kind.
fn datagrams() -> Vec<Vec<u8>> {
    let mut registry = Registry::new();
    let members = [1, 2, 3].map(|at| registry.register(&format!("n{at}"), address(at)));
    let mut now = Instant::now();
    let mut peer = engine(&registry, members[1], 2, now, Arc::default());
    let mut out = Outbox::new();
    let leads: Leads = (0..200).map(|v| (VBucketId(v * 5), Epoch(u64::from(v % 7) + 100))).collect();
    peer.handle_local(now, &Arc::new(leads), Load(100), &mut out);
    for _ in 0..40 {
        now = peer.next_timeout().unwrap();
        peer.handle_timeout(now, &mut out);
    }
    let envelope =
        Envelope { kind: Kind::Ask, cluster: CLUSTER, sender: members[1], map_version: registry.map().version() };
    let mut ask = Vec::new();
    crate::gossip::wire::put_member(&mut ask, members[0]);
    out.push((address(1), envelope.seal(&ask)));
    out.push((address(1), Envelope { kind: Kind::Notice, ..envelope }.seal(&[])));
    let mut rumours = Vec::new();
    let own = Own::new(members[1], Zone("z".into()), MapVersion(1));
    assert!(put_item(&mut rumours, &own.head().encode(), BODY_BYTES_MAX));
    out.push((address(1), Envelope { kind: Kind::Rumours, ..envelope }.seal(&rumours)));
    out.into_iter().map(|(_, datagram)| datagram).collect()
}

impl Target {
    fn take(&mut self, datagram: &[u8]) {
        let mut out = Outbox::new();
        self.engine.handle_datagram(self.now, address(2), datagram, &mut out);
        assert!(out.iter().map(|(_, answer)| answer.len()).sum::<usize>() < 16 * 1400);
    }

    fn dropped(&self) -> u64 {
        Dropped::ALL.into_iter().map(|reason| self.stats.dropped(reason)).sum()
    }
}

#[test]
fn everything_a_peer_sends_is_taken() {
    let mut target = target();
    let datagrams = datagrams();
    assert!(datagrams.len() > 20);
    datagrams.iter().for_each(|datagram| target.take(datagram));
    assert_eq!(target.dropped(), 0);
    assert!(target.engine.led_by(target.peer).is_some());
}

#[test]
fn every_flipped_bit_and_every_truncation_is_dropped() {
    let mut target = target();
    for datagram in datagrams() {
        for bit in 0..datagram.len() * 8 {
            let mut damaged = datagram.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let before = target.dropped();
            target.take(&damaged);
            assert_eq!(target.dropped(), before + 1, "bit {bit}");
        }
        for len in 0..datagram.len() {
            let before = target.dropped();
            target.take(&datagram[..len]);
            assert_eq!(target.dropped(), before + 1, "cut to {len}");
        }
    }
    assert!(target.engine.led_by(target.peer).is_none());
}

#[test]
fn each_reason_to_drop_is_counted_as_such() {
    let mut target = target();
    let member = |node, incarnation| Member { node: NodeId(node), incarnation: Incarnation(incarnation) };
    let (peer, version) = (target.peer, target.engine.map_version());
    let good = Envelope { kind: Kind::Hello, cluster: CLUSTER, sender: peer, map_version: version };
    let sealed = |envelope: Envelope| envelope.seal(&[]);
    let mut wrong_version = sealed(good);
    wrong_version[4] = 2;
    let mut damaged = sealed(good);
    damaged[30] ^= 1;
    let newer = MapVersion(version.0 + 1);
    let cases = [
        (Dropped::TooLarge, vec![b'b'; 65_507]),
        (Dropped::Truncated, sealed(good)[..20].to_vec()),
        (Dropped::Magic, b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        (Dropped::Version, wrong_version),
        (Dropped::Checksum, damaged),
        (Dropped::OtherCluster, sealed(Envelope { cluster: ClusterId([8; 16]), ..good })),
        (Dropped::Malformed, good.seal(b"x")),
        (Dropped::Malformed, Envelope { kind: Kind::Swim, ..good }.seal(b"x")),
        (Dropped::Malformed, Envelope { kind: Kind::Rumours, ..good }.seal(&[0, 9, 1])),
        (Dropped::Malformed, Envelope { kind: Kind::Ask, ..good }.seal(&[0; 13])),
        (Dropped::Own, sealed(Envelope { sender: member(1, target_incarnation(&target)), ..good })),
        (Dropped::Stale, sealed(Envelope { sender: member(peer.node.0, peer.incarnation.0 - 1), ..good })),
        (Dropped::Unknown, sealed(Envelope { sender: member(99, 1), ..good })),
        (Dropped::Early, sealed(Envelope { sender: member(99, 1), map_version: newer, ..good })),
    ];
    for (reason, datagram) in cases {
        let before = target.stats.dropped(reason);
        target.take(&datagram);
        assert_eq!(target.stats.dropped(reason), before + 1, "{reason:?}");
    }
    assert_eq!(target.dropped(), 14);
}

#[test]
fn every_counter_is_recorded_under_a_described_name() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        for (name, unit, help) in GossipStats::COUNTERS {
            metrics::describe_counter!(*name, *unit, *help);
        }
        GossipStats::default().record();
    });
    let text = recorder.handle().render();
    let lines_of = |what: &str| text.lines().filter(|line| line.starts_with(what)).count();
    assert_eq!(lines_of("# HELP broky_gossip_"), GossipStats::COUNTERS.len(), "{text}");
    assert_eq!(lines_of("# TYPE broky_gossip_"), GossipStats::COUNTERS.len(), "{text}");
    assert_eq!(lines_of("broky_gossip_dropped_datagrams_total{reason="), Dropped::ALL.len(), "{text}");
}

fn target_incarnation(target: &Target) -> u64 {
    // The nodes registered one after another.
    target.peer.incarnation.0 - 1
}

#[test]
fn strangers_are_answered_so_many_times_a_second_and_with_no_more_than_they_send() {
    let mut target = target();
    let stale = Member { incarnation: Incarnation(0), ..target.peer };
    let old = Envelope { kind: Kind::Hello, cluster: CLUSTER, sender: stale, map_version: MapVersion(0) }.seal(&[]);
    let mut out = Outbox::new();
    for _ in 0..10_000 {
        target.engine.handle_datagram(target.now, address(66), &old, &mut out);
    }
    let answers: Vec<_> = out.iter().filter(|(to, _)| *to == address(66)).collect();
    assert_eq!(answers.len(), 16);
    assert!(answers.iter().all(|(_, answer)| answer.len() <= old.len()));
}

fn leads() -> impl Strategy<Value = Vec<(VBucketId, Epoch)>> {
    let epoch = prop_oneof![any::<u64>(), 1..5_u64, (1 << 40)..(1_u64 << 40) + 100];
    (0..16_u16, btree_map(0..64_u16, epoch, 0..=64)).prop_map(|(chunk, slots)| {
        slots.into_iter().map(|(slot, epoch)| (VBucketId(chunk * 64 + slot), Epoch(epoch))).collect()
    })
}

fn member() -> impl Strategy<Value = Member> {
    (any::<u32>(), any::<u64>())
        .prop_map(|(node, incarnation)| Member { node: NodeId(node), incarnation: Incarnation(incarnation) })
}

fn rumour() -> impl Strategy<Value = Rumour> {
    let chunk = (member(), any::<u64>(), leads()).prop_map(|(member, stamp, led)| {
        let id = crate::gossip::rumour::ChunkId::of(led.first().map_or(VBucketId(0), |(vbucket, _)| *vbucket));
        Rumour::Chunk(Chunk { member, stamp: Stamp(stamp), id, led })
    });
    let head = (member(), any::<u64>(), any::<u64>(), any::<u32>(), any::<(u16, u32)>(), "\\PC{0,60}").prop_map(
        |(member, stamp, version, load, (chunks, checksum), zone)| {
            Rumour::Head(Head {
                member,
                stamp: Stamp(stamp),
                map_version: MapVersion(version),
                load: Load(load),
                zone: Zone(zone),
                digest: Digest { chunks, checksum },
            })
        },
    );
    prop_oneof![chunk, head]
}

fn encode(rumour: &Rumour) -> Vec<u8> {
    match rumour {
        Rumour::Head(head) => head.encode(),
        Rumour::Chunk(chunk) => chunk.encode(),
    }
}

proptest! {
    #[test]
    fn rumours_round_trip_within_their_bound(rumour in rumour()) {
        let bytes = encode(&rumour);
        prop_assert!(bytes.len() <= RUMOUR_BYTES_MAX, "{} bytes", bytes.len());
        prop_assert_eq!(Rumour::decode(&bytes, VBUCKETS).unwrap(), rumour.clone());
        prop_assert_eq!(Rumour::key(&bytes).unwrap().member, rumour.member());
    }

    #[test]
    fn truncated_and_extended_rumours_are_refused(rumour in rumour(), more in 0..8_u8) {
        let bytes = encode(&rumour);
        for len in 0..bytes.len() {
            prop_assert!(Rumour::decode(&bytes[..len], VBUCKETS).is_err());
        }
        let longer = [bytes, vec![more]].concat();
        prop_assert!(Rumour::decode(&longer, VBUCKETS).is_err());
    }

    #[test]
    fn damaged_rumours_are_refused_or_rumours(rumour in rumour(), at in any::<proptest::sample::Index>(), flip in 1..=255_u8) {
        let mut bytes = encode(&rumour);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(Rumour::Chunk(chunk)) = Rumour::decode(&bytes, VBUCKETS) {
            prop_assert!(chunk.led.iter().all(|(vbucket, _)| vbucket.0 < VBUCKETS.get()));
            prop_assert!(chunk.led.is_sorted_by(|a, b| a.0 < b.0));
        }
    }

    #[test]
    fn varints_round_trip(value in any::<u64>()) {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(reader.varint().unwrap(), value);
        prop_assert!(reader.is_done());
    }

    #[test]
    fn garbage_is_dropped(garbage in vec(any::<u8>(), 0..2_000)) {
        let mut target = target();
        target.take(&garbage);
        prop_assert_eq!(target.dropped(), 1);
    }

    #[test]
    fn sealed_garbage_does_no_harm(kind in 0..5_usize, body in vec(any::<u8>(), 0..400)) {
        let mut target = target();
        let version = target.engine.map_version();
        let envelope = Envelope { kind: Kind::ALL[kind], cluster: CLUSTER, sender: target.peer, map_version: version };
        target.take(&envelope.seal(&body));
    }

    /// Damage that the checksum does not show: what a faulty or hostile member could send.
    #[test]
    fn resealed_damage_does_no_harm(which in any::<proptest::sample::Index>(), flips in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4)) {
        let mut target = target();
        let datagrams = datagrams();
        let (mut envelope, body) = Envelope::open(&datagrams[which.index(datagrams.len())], CLUSTER).unwrap();
        envelope.sender = target.peer;
        let mut body = body.to_vec();
        if !body.is_empty() {
            for (at, flip) in flips {
                let at = at.index(body.len());
                body[at] ^= flip;
            }
        }
        target.take(&envelope.seal(&body));
        for _ in 0..20 {
            target.now = target.engine.next_timeout().unwrap();
            target.engine.handle_timeout(target.now, &mut Outbox::new());
        }
    }
}
