//! The greeting between nodes: round trip, every truncation, every flipped bit.

use broky_proto::id::{ClusterId, Incarnation, Member, NodeId};
use broky_proto::peer::{HELLO_BYTES, Hello, PEER_VERSION, PeerError, Purpose, REPLY_BYTES, Reply};
use proptest::prelude::*;

fn member() -> impl Strategy<Value = Option<Member>> {
    let some = (1..=u32::MAX, 1..=u64::MAX)
        .prop_map(|(node, incarnation)| Member { node: NodeId(node), incarnation: Incarnation(incarnation) });
    proptest::option::of(some)
}

fn hello() -> impl Strategy<Value = Hello> {
    let purpose = prop_oneof![Just(Purpose::Control), Just(Purpose::Data), Just(Purpose::Detour)];
    let cluster =
        proptest::option::of(any::<[u8; 16]>().prop_filter("not zero", |id| *id != [0; 16]).prop_map(ClusterId));
    (purpose, any::<u16>(), cluster, member(), member()).prop_map(|(purpose, shard, cluster, from, to)| Hello {
        purpose,
        shard,
        cluster,
        from,
        to,
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        Just(Reply::Ok),
        Just(Reply::OtherCluster),
        any::<u64>().prop_map(|by| Reply::Replaced(Incarnation(by))),
        Just(Reply::Forgotten),
        Just(Reply::NotMe),
        any::<u16>().prop_map(Reply::Version),
        Just(Reply::Malformed),
        Just(Reply::Busy),
    ]
}

proptest! {
    #[test]
    fn hello_survives_the_wire(hello in hello()) {
        prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }

    #[test]
    fn reply_survives_the_wire(reply in reply()) {
        prop_assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn every_truncation_is_refused(hello in hello(), reply in reply()) {
        for len in 0..HELLO_BYTES {
            prop_assert_eq!(Hello::decode(&hello.encode()[..len]), Err(PeerError::Length(len)));
        }
        for len in 0..REPLY_BYTES {
            prop_assert_eq!(Reply::decode(&reply.encode()[..len]), Err(PeerError::Length(len)));
        }
        let longer: Vec<u8> = hello.encode().into_iter().chain([0]).collect();
        prop_assert_eq!(Hello::decode(&longer), Err(PeerError::Length(HELLO_BYTES + 1)));
    }

    #[test]
    fn every_flipped_bit_is_noticed(hello in hello(), reply in reply()) {
        for bit in 0..HELLO_BYTES * 8 {
            let mut bytes = hello.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Hello::decode(&bytes).is_err(), "bit {}", bit);
        }
        for bit in 0..REPLY_BYTES * 8 {
            let mut bytes = reply.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Reply::decode(&bytes).is_err(), "bit {}", bit);
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_and_nothing_worse(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        prop_assert!(Hello::decode(&bytes).is_err());
        prop_assert!(Reply::decode(&bytes).is_err());
    }
}

#[test]
fn another_version_is_told_ours() {
    let hello = Hello { purpose: Purpose::Control, shard: 0, cluster: None, from: None, to: None };
    let mut bytes = hello.encode();
    bytes[5] = 9;
    let error = Hello::decode(&bytes).unwrap_err();
    assert_eq!((error, Reply::from(error)), (PeerError::Version(9), Reply::Version(PEER_VERSION)));
}

#[test]
fn an_http2_preface_is_no_hello() {
    let mut bytes = [0; HELLO_BYTES];
    bytes[..24].copy_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(Reply::from(Hello::decode(&bytes).unwrap_err()), Reply::Malformed);
}
