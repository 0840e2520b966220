//! Each fault does what it says, and no more.

use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, UdpSocket};

use super::stand::{BACK, LINK, PEERS, Stand, datagram, pattern, read, write};
use crate::proxy::{Faults, Party, TcpFaults, UdpFaults};
use crate::wait::in_time;

fn tcp(tcp: TcpFaults) -> Faults {
    Faults { tcp, ..Faults::default() }
}

async fn send_numbers(stand: &Stand, from: &UdpSocket, to: std::net::SocketAddr, faults: UdpFaults, count: u32) {
    stand.proxy.set(PEERS.0, PEERS.1, Faults { udp: faults, ..Faults::default() });
    for number in 0..count {
        from.send_to(&number.to_be_bytes(), to).await.unwrap();
        // No faster than it is taken, as the kernel would lose some too.
        let seen = |counts: &crate::proxy::Counts| {
            let decided = counts.datagrams_lost + counts.datagrams_cut;
            decided + counts.datagrams >= u64::from(number) || !faults.delay.is_zero() || faults.reorder > 0.0
        };
        stand.until("it is taken", PEERS, seen).await;
    }
}

#[tokio::test]
async fn one_way_cut_holds_bytes_and_heal_releases_them_in_order() {
    let stand = Stand::new(20).await;
    let (mut client, mut node) = stand.connect().await;
    stand.proxy.cut(LINK.0, LINK.1);
    write(&mut client, &pattern(1_000)).await;
    stand.until("they are held", LINK, |counts| counts.bytes_held == 1_000).await;
    write(&mut client, &pattern(500)).await;
    stand.until("they are held", LINK, |counts| counts.bytes_held == 1_500).await;
    // The other direction goes on.
    write(&mut node, b"back").await;
    assert_eq!(read(&mut client, 4).await, b"back");
    assert_eq!(stand.counts(LINK).bytes, 0);
    stand.proxy.heal();
    assert_eq!(read(&mut node, 1_500).await, [pattern(1_000), pattern(500)].concat());
}

#[tokio::test]
async fn end_does_not_come_through_a_cut() {
    let stand = Stand::new(21).await;
    let (mut client, mut node) = stand.connect().await;
    stand.proxy.cut(LINK.0, LINK.1);
    write(&mut client, b"last").await;
    drop(client);
    stand.until("it is held", LINK, |counts| counts.bytes_held == 4).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), node.read_u8()).await.is_err());
    stand.proxy.heal();
    let mut bytes = Vec::new();
    in_time("it ends", node.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(bytes, b"last");
}

#[tokio::test]
async fn connection_dialled_into_a_cut_is_heard_of_after_it() {
    let stand = Stand::new(22).await;
    stand.proxy.cut(LINK.0, LINK.1);
    let mut client = TcpStream::connect(stand.address()).await.unwrap();
    write(&mut client, b"hello").await;
    // This one has given up before, so it is never heard of.
    drop(TcpStream::connect(stand.address()).await.unwrap());
    stand.until("one is given up", LINK, |counts| (counts.connections, counts.connections_open) == (2, 1)).await;
    let listener = stand.listener.as_ref().unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), listener.accept()).await.is_err());
    stand.proxy.heal();
    assert_eq!(read(&mut stand.accept().await, 5).await, b"hello");
    assert!(tokio::time::timeout(Duration::from_millis(50), listener.accept()).await.is_err());
}

#[tokio::test]
async fn node_is_isolated_from_nodes_or_from_all() {
    let stand = Stand::new(23).await;
    let is_cut = |(from, to)| stand.proxy.faults(from, to) == Faults::cut();
    stand.proxy.isolate(0);
    assert!(is_cut(PEERS) && is_cut((PEERS.1, PEERS.0)) && !is_cut(LINK) && !is_cut(BACK));
    stand.proxy.isolate_from_all(0);
    assert!(is_cut(LINK) && is_cut(BACK) && !is_cut((Party::Clients, Party::Node(1))));
    stand.proxy.heal();
    assert!(!is_cut(PEERS) && !is_cut(LINK));
}

#[tokio::test]
async fn reset_ends_the_connections_of_its_link_only() {
    let stand = Stand::new(24).await;
    let (mut client, mut node) = stand.connect().await;
    assert_eq!(stand.proxy.reset(PEERS.0, PEERS.1), 0);
    write(&mut client, b"x").await;
    assert_eq!(read(&mut node, 1).await, b"x");
    assert_eq!(stand.proxy.reset(LINK.0, LINK.1), 1);
    for end in [&mut client, &mut node] {
        let error = in_time("it ends", end.read_u8()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    stand.until("it is counted", LINK, |counts| counts.connections_reset == 1).await;
    stand.connect().await;
}

#[tokio::test]
async fn order_is_kept_under_delay_jitter_and_stalls() {
    const LEN: usize = 20_000;
    let stand = Stand::new(25).await;
    let (mut client, mut node) = stand.connect().await;
    let (delay, jitter) = (Duration::from_millis(10), Duration::from_millis(10));
    stand.set(tcp(TcpFaults { delay, jitter, stall: 0.02, ..TcpFaults::default() }));
    let bytes = pattern(LEN);
    let sending = tokio::spawn(async move {
        for part in pattern(LEN).chunks(200) {
            write(&mut client, part).await;
            tokio::task::yield_now().await;
        }
        client
    });
    assert_eq!(read(&mut node, LEN).await, bytes);
    sending.await.unwrap();
    let counts = stand.counts(LINK);
    assert!(counts.chunks_delayed > 0, "{counts:?}");
}

#[tokio::test]
async fn delay_is_waited_for() {
    let stand = Stand::new(26).await;
    let (mut client, mut node) = stand.connect().await;
    stand.set(Faults::delayed(Duration::from_millis(60), Duration::ZERO));
    let begun = Instant::now();
    write(&mut client, b"x").await;
    read(&mut node, 1).await;
    assert!(begun.elapsed() >= Duration::from_millis(60));
}

#[tokio::test]
async fn stalled_chunk_is_held_and_counted() {
    let stand = Stand::new(27).await;
    let (mut client, mut node) = stand.connect().await;
    stand.set(tcp(TcpFaults { stall: 1.0, ..TcpFaults::default() }));
    let begun = Instant::now();
    write(&mut client, b"x").await;
    read(&mut node, 1).await;
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(stand.counts(LINK).chunks_stalled, 1);
}

#[tokio::test]
async fn rate_is_not_exceeded() {
    let stand = Stand::new(28).await;
    let (mut client, mut node) = stand.connect().await;
    stand.set(tcp(TcpFaults { bytes_per_second: NonZeroU64::new(100_000), ..TcpFaults::default() }));
    let begun = Instant::now();
    write(&mut client, &pattern(20_000)).await;
    assert_eq!(read(&mut node, 20_000).await, pattern(20_000));
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert!(stand.counts(LINK).chunks_paced > 0);
}

#[tokio::test]
async fn bits_are_flipped_and_counted() {
    let stand = Stand::new(29).await;
    let (mut client, mut node) = stand.connect().await;
    stand.set(tcp(TcpFaults { flip: 0.5, ..TcpFaults::default() }));
    let sent = pattern(64 << 10);
    write(&mut client, &sent).await;
    let got = read(&mut node, sent.len()).await;
    let wrong: u32 = sent.iter().zip(&got).map(|(sent, got)| (sent ^ got).count_ones()).sum();
    assert!((10..60).contains(&wrong), "{wrong}");
    assert_eq!(stand.counts(LINK).bits_flipped, u64::from(wrong));
}

#[tokio::test]
async fn datagrams_are_lost_and_doubled() {
    let stand = Stand::new(30).await;
    let (first, second, address) = stand.gossip();
    let faults = UdpFaults { loss: 0.3, duplication: 0.5, ..UdpFaults::default() };
    send_numbers(&stand, &second, address, faults, 100).await;
    let all_done = |counts: &crate::proxy::Counts| {
        counts.datagrams_lost + counts.datagrams - counts.datagrams_doubled == 100 && counts.datagrams_doubled > 0
    };
    let counts = stand.until("all are decided", PEERS, all_done).await;
    assert!((15..50).contains(&counts.datagrams_lost), "{counts:?}");
    let mut got = Vec::new();
    for _ in 0..counts.datagrams {
        got.push(datagram(&first).await.0);
    }
    got.dedup();
    assert_eq!(got.len() as u64, 100 - counts.datagrams_lost);
}

#[tokio::test]
async fn datagrams_overtake_one_another() {
    let stand = Stand::new(31).await;
    let (first, second, address) = stand.gossip();
    send_numbers(&stand, &second, address, UdpFaults { reorder: 0.5, ..UdpFaults::default() }, 40).await;
    let mut got = Vec::new();
    for _ in 0..40 {
        got.push(datagram(&first).await.0);
    }
    assert!(!got.is_sorted(), "{got:?}");
    got.sort_unstable();
    assert_eq!(got, (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn datagrams_do_not_pass_a_cut() {
    let stand = Stand::new(32).await;
    let (first, second, address) = stand.gossip();
    stand.proxy.cut(PEERS.0, PEERS.1);
    second.send_to(&1_u32.to_be_bytes(), address).await.unwrap();
    stand.until("it is lost", PEERS, |counts| counts.datagrams_cut == 1).await;
    stand.proxy.heal();
    second.send_to(&2_u32.to_be_bytes(), address).await.unwrap();
    assert_eq!(datagram(&first).await.0, 2);
}

#[tokio::test]
async fn bit_of_a_datagram_is_flipped() {
    let stand = Stand::new(33).await;
    let (first, second, address) = stand.gossip();
    send_numbers(&stand, &second, address, UdpFaults { flip: 1.0, ..UdpFaults::default() }, 1).await;
    assert_eq!(datagram(&first).await.0.count_ones(), 1);
    assert_eq!(stand.counts(PEERS).datagrams_flipped, 1);
}

#[tokio::test]
async fn delayed_datagram_comes_later() {
    let stand = Stand::new(34).await;
    let (first, second, address) = stand.gossip();
    let faults = UdpFaults { delay: Duration::from_millis(60), ..UdpFaults::default() };
    let begun = Instant::now();
    send_numbers(&stand, &second, address, faults, 1).await;
    datagram(&first).await;
    assert!(begun.elapsed() >= Duration::from_millis(60));
    assert_eq!(stand.counts(PEERS).datagrams_delayed, 1);
}
