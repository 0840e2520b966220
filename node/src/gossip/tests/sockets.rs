//! Gossip over real UDP sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use broky_proto::id::{Epoch, MapVersion, Member, VBucketId};
use broky_ring::map::ClusterMap;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::registry::{CLUSTER, Registry, VBUCKETS};
use crate::gossip::{GossipConfig, GossipEvent, GossipHandle, Leads, Load, bind, spawn};

const DEADLINE: Duration = Duration::from_secs(5);

struct Running {
    handle: GossipHandle,
    map: watch::Sender<Arc<ClusterMap>>,
    member: Member,
    address: std::net::SocketAddr,
}

/// Three instances on free loopback ports, with a map that shows all of them.
fn three() -> (Registry, Vec<Running>) {
    let sockets = [0, 1, 2].map(|_| bind("127.0.0.1:0".parse().unwrap()).unwrap());
    let mut registry = Registry::new();
    let places: Vec<_> = sockets
        .into_iter()
        .enumerate()
        .map(|(at, socket)| {
            let address = socket.local_addr().unwrap();
            (registry.register(&format!("n{at}"), address), address, socket)
        })
        .collect();
    let running = places
        .into_iter()
        .map(|(me, address, socket)| {
            let map = watch::Sender::new(registry.map());
            let zone = registry.map().node(me.node).unwrap().zone.clone();
            let config = GossipConfig {
                socket,
                me,
                cluster: CLUSTER,
                vbuckets: VBUCKETS,
                address,
                zone,
                seeds: vec![format!("localhost:{}", address.port())],
                map: map.subscribe(),
            };
            Running { handle: spawn(config).unwrap(), map, member: me, address }
        })
        .collect();
    (registry, running)
}

async fn wait_for(what: &str, handle: &mut GossipHandle, wanted: impl Fn(&GossipEvent) -> bool) {
    let found = async {
        while let Some(event) = handle.events.recv().await {
            if wanted(&event) {
                return;
            }
        }
        panic!("{what}: gossip has ended");
    };
    timeout(DEADLINE, found).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"));
}

#[tokio::test]
async fn three_instances_find_each_other_and_spread_what_they_say() {
    let (mut registry, mut running) = three();
    let members: Vec<Member> = running.iter().map(|running| running.member).collect();
    for running in &running {
        for other in members.iter().copied().filter(|other| *other != running.member) {
            // Both others are heard, in whichever order.
            let mut reports = running.handle.reports.clone();
            let heard = reports.wait_for(|reports| reports.iter().any(|report| report.member == other));
            timeout(DEADLINE, heard).await.unwrap().unwrap();
        }
    }

    let start = Instant::now();
    running[0].handle.set_leads(Leads::from([(VBucketId(1), Epoch(5)), (VBucketId(700), Epoch(6))]));
    running[0].handle.set_load(Load(900));
    for running in &running[1..] {
        let mut reports = running.handle.reports.clone();
        let told = |report: &super::super::PeerReport| {
            report.member == members[0] && report.vbuckets_led == 2 && report.load == Load(900)
        };
        timeout(DEADLINE, reports.wait_for(|reports| reports.iter().any(told))).await.unwrap().unwrap();
    }
    println!("over loopback sockets: known to both others after {:?}", start.elapsed());

    running[1].handle.set_leads(Leads::from([(VBucketId(700), Epoch(4))]));
    let elsewhere = GossipEvent::LeaderElsewhere { member: members[0], vbuckets: vec![(VBucketId(700), Epoch(6))] };
    wait_for("the leader elsewhere", &mut running[1].handle, |event| *event == elsewhere).await;

    registry.bump(members[0].node);
    let map = registry.map();
    let version: MapVersion = map.version();
    running[0].map.send_replace(map);
    let newer = GossipEvent::NewerMap { from: members[0], address: running[0].address, version };
    wait_for("the newer map", &mut running[2].handle, |event| *event == newer).await;

    // One ends; the others notice.
    let gone = running.remove(0);
    let member = gone.member;
    drop(gone);
    for running in &mut running {
        wait_for("the suspicion", &mut running.handle, |event| *event == GossipEvent::Suspect(member)).await;
    }
}

#[tokio::test]
async fn garbage_from_the_network_is_counted_and_harmless() {
    let (_, running) = three();
    let sender = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let huge = vec![0x62; 65_507];
    for datagram in [huge.as_slice(), b"", b"brkg", &[0; 1400]] {
        sender.send_to(datagram, running[0].address).unwrap();
    }
    let dropped = || {
        let all = crate::gossip::stats::Dropped::ALL.into_iter();
        all.map(|reason| running[0].handle.stats.dropped(reason)).sum::<u64>()
    };
    let deadline = Instant::now() + DEADLINE;
    while dropped() < 4 {
        assert!(Instant::now() < deadline, "{} of 4 were dropped", dropped());
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(running[0].handle.stats.dropped(crate::gossip::stats::Dropped::TooLarge), 1);
}
