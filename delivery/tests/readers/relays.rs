//! Readers of what another node relays.

use broky_delivery::{InterestKey, Kind, Poll, Range, RelayId, Relayed};
use broky_proto::frame::PREFIX_LEN;
use broky_proto::id::{Lineage, Offset};
use broky_proto::v1::start::Start;
use broky_proto::v1::{self, ErrorCode, GapReason};
use bytes::Bytes;

use crate::feed::{CLUSTER, Feed, Told, VBUCKET, earliest, live, resume};

/// An owner, and a relay of it that holds nothing.
fn pair() -> (Feed, Feed, RelayId) {
    let (mut owner, mut relay) = (Feed::new(0), Feed::new(0));
    relay.fall_behind();
    let id = owner.delivery.open_relay();
    (owner, relay, id)
}

fn subscribe(relay: &mut Feed, pattern: &'static str) -> broky_delivery::SubscriptionId {
    subscribe_from(relay, pattern, live())
}

fn subscribe_from(relay: &mut Feed, pattern: &'static str, start: Start) -> broky_delivery::SubscriptionId {
    let patterns = vec![Bytes::from_static(pattern.as_bytes())];
    let start = Some(v1::Start { start: Some(start) });
    relay.delivery.open(&v1::Open { patterns, start, ..v1::Open::default() }).unwrap()
}

#[test]
fn subscription_begins_when_its_owner_knows_of_it() {
    let (mut owner, mut relay, id) = pair();
    owner.block(&["a", "b"]);
    let reader = subscribe(&mut relay, "a*");
    assert!(matches!(relay.delivery.poll(reader), Poll::Pending));
    relay.ask(id, &mut owner);
    owner.delivery.watch(id, VBUCKET, 1, None).unwrap();
    owner.block(&["a1", "b1", "a2"]);
    relay.take_relayed(id, &mut owner);
    assert!(relay.read(reader).confirmed.is_some());
    assert_eq!(relay.read_all(reader), [2, 4]);
}

#[test]
fn messages_that_several_interests_want_come_once() {
    let (mut owner, mut relay, id) = pair();
    let (first, second) = (subscribe(&mut relay, "a*"), subscribe(&mut relay, "*1"));
    relay.ask(id, &mut owner);
    owner.delivery.watch(id, VBUCKET, 1, None).unwrap();
    relay.take_relayed(id, &mut owner);
    owner.block(&["a1", "b1", "a2", "c"]);
    let messages = std::iter::from_fn(|| owner.delivery.poll_relay(id)).find_map(|next| match next {
        Relayed::Block { messages, .. } => Some(messages),
        _ => None,
    });
    assert_eq!(messages, Some(3));
    owner.block(&["a3", "a1"]);
    // What was taken above is missing here: the next watch asks for it again.
    owner.delivery.watch(id, VBUCKET, 2, Some((Lineage(2), Offset(0)))).unwrap();
    relay.take_relayed(id, &mut owner);
    assert!(relay.read(first).confirmed.is_some() && relay.read(second).confirmed.is_some());
    assert_eq!(relay.read_all(first), [0, 2, 4, 5]);
    assert_eq!(relay.read_all(second), [0, 1, 5]);
}

#[test]
fn relay_that_is_overtaken_tells_its_readers() {
    let (mut owner, mut relay, id) = pair();
    let reader = subscribe(&mut relay, "*");
    relay.ask(id, &mut owner);
    owner.delivery.watch(id, VBUCKET, 1, None).unwrap();
    relay.take_relayed(id, &mut owner);
    assert!(relay.read(reader).confirmed.is_some());
    (0..5).for_each(|_| drop(owner.block(&["a"])));
    owner.evict(3);
    relay.take_relayed(id, &mut owner);
    let told = relay.read(reader).gaps;
    assert_eq!((told[0].from, told[0].to, told[0].reason()), (0, 3, GapReason::Slow));
    assert_eq!(relay.read_all(reader), [3, 4]);
}

#[test]
fn reader_goes_on_where_its_node_falls_out_of_sync_and_returns() {
    let mut feed = Feed::new(0);
    let reader = feed.open(&["*"], live(), 0);
    feed.block(&["a"]);
    assert_eq!(feed.fall_behind(), []);
    feed.begin_relayed(1);
    feed.block_as(Kind::Relayed, &["b", "c"]);
    assert_eq!(feed.read_all(reader), [0, 1, 2]);
    // The copy here catches up: what readers have they do not get again.
    let mut again = Feed::new(1);
    again.fall_behind();
    again.begin_relayed(1);
    let reader = subscribe(&mut again, "*");
    for want in again.delivery.take_wants() {
        let broky_delivery::Want::Begun(want, _) = want else { panic!("nothing was closed") };
        again.delivery.set_covered(want, broky_delivery::FeedId(0), &mut Vec::new());
    }
    again.read(reader);
    again.block_as(Kind::Hidden, &["a", "b"]);
    assert_eq!(again.read_all(reader), []);
    again.delivery.lose_until(VBUCKET, Offset(3), GapReason::Evicted, &mut Vec::new());
    again.delivery.set_in_sync(VBUCKET, true, &mut Vec::new());
    again.block(&["c"]);
    assert_eq!(again.read_all(reader), [3]);
}

#[test]
fn reader_of_the_earliest_is_confirmed_when_the_owner_says_where_that_is() {
    let (mut owner, mut relay) = (Feed::new(0), Feed::new(0));
    (0..4).for_each(|_| drop(owner.block(&["a"])));
    owner.evict(2);
    relay.fall_behind();
    relay.begin_relayed(4);
    let reader = subscribe_from(&mut relay, "*", earliest());
    for want in relay.delivery.take_wants() {
        let broky_delivery::Want::Begun(want, _) = want else { panic!("nothing was closed") };
        relay.delivery.set_covered(want, broky_delivery::FeedId(0), &mut Vec::new());
    }
    let mut ask = |relay: &mut Feed| {
        let (id, ranges) = relay.delivery.take_fills().pop().unwrap();
        assert_eq!(id, reader);
        owner.delivery.open_part(InterestKey::parse(&[Bytes::from_static(b"*")], &[]).unwrap(), &ranges).unwrap()
    };
    // A stream that breaks before it says anything is asked for again.
    ask(&mut relay);
    relay.delivery.handle_fill_end(reader, vec![VBUCKET], false, &mut Vec::new());
    assert!(matches!(relay.delivery.poll(reader), Poll::Pending));
    assert!(!relay.delivery.has_begun(reader));
    let part = ask(&mut relay);
    while let Poll::Frame(frame) = owner.delivery.poll(part) {
        relay.delivery.handle_fill(reader, frame.slice(PREFIX_LEN..), &mut Vec::new());
    }
    relay.delivery.handle_fill_end(reader, vec![VBUCKET], true, &mut Vec::new());
    let first = relay.read(reader);
    assert!(first.confirmed.is_some() && first.gaps.is_empty());
    assert_eq!(first.cursors[0].offset, 2);
    assert_eq!(relay.read_all(reader), [2, 3]);
}

#[test]
fn part_of_the_history_ends_by_itself() {
    let mut feed = Feed::new(0);
    (0..10).for_each(|_| drop(feed.block(&["a", "b"])));
    feed.evict(1);
    let key = InterestKey::parse(&[Bytes::from_static(b"a")], &[]).unwrap();
    let range = Range { lineage: Lineage(2), from: Some(Offset(0)), to: Offset(9) };
    let part = feed.delivery.open_part(key, &[(VBUCKET, range)]).unwrap();
    let first = feed.read(part);
    assert_eq!((first.gaps[0].from, first.gaps[0].to), (0, 2));
    assert_eq!(feed.read_all(part), [2, 4, 6, 8]);
    assert!(matches!(feed.delivery.poll(part), Poll::Done));
}

#[test]
fn reader_that_is_overtaken_before_notes_of_gaps_is_told_of_each_offset_once() {
    for evicted in 1..=4 {
        let mut feed = Feed::new(0);
        feed.fall_behind();
        feed.begin_relayed(0);
        let reader = subscribe(&mut feed, "*");
        for want in feed.delivery.take_wants() {
            let broky_delivery::Want::Begun(want, _) = want else { panic!("nothing was closed") };
            feed.delivery.set_covered(want, broky_delivery::FeedId(0), &mut Vec::new());
        }
        assert!(feed.read(reader).confirmed.is_some());
        [3, 5, 9].into_iter().for_each(|next| feed.lose_until(next));
        feed.block_as(Kind::Relayed, &["a"]);
        feed.block_as(Kind::Relayed, &["a"]);
        feed.evict(evicted);
        let mut next = 0;
        while next < 11 {
            let told = feed.read(reader);
            for gap in &told.gaps {
                assert_eq!(gap.from, next, "{evicted} evicted: {:?}", told.gaps);
                next = gap.to;
            }
            for message in &told.messages {
                assert_eq!(message.offset, next);
                next += 1;
            }
        }
    }
}

#[test]
fn reader_of_history_that_is_overtaken_is_told_whatever_notes_stand_behind_of_what_was_before() {
    let mut feed = Feed::new(0);
    feed.open(&["*"], live(), 0);
    feed.fall_behind();
    feed.begin_relayed(0);
    feed.skip_to(1);
    feed.block_as(Kind::Hidden, &["b"]);
    feed.block_as(Kind::Hidden, &["c"]);
    // Whoever has seen what was relayed is told that 0 will not come, and gets behind that what the log holds.
    feed.lose_until(1);
    feed.delivery.set_in_sync(VBUCKET, true, &mut Vec::new());
    feed.block_as(Kind::Relayed, &["b", "c"]);
    let gaps = |told: v1::Delivery| told.gaps.iter().map(|gap| (gap.from, gap.to)).collect::<Vec<_>>();
    let (first, second) = (resume(CLUSTER, 2, 1), resume(CLUSTER, 2, 1));
    let (overtaken, ahead) = (feed.open(&["*"], first, 0), feed.open(&["*"], second, 0));
    assert_eq!(feed.read(ahead).messages[0].offset, 1);
    feed.evict(1);
    assert_eq!(gaps(feed.read(overtaken)), [(1, 2)]);
    feed.evict(1);
    // Not of what it has got.
    assert_eq!(gaps(feed.read(ahead)), [(2, 3)]);
    assert_eq!(gaps(feed.read(overtaken)), [(2, 3)]);
    assert_eq!((feed.read_all(overtaken), feed.read_all(ahead)), (vec![], vec![]));
}

#[test]
fn reader_of_history_is_not_told_of_what_only_those_missed_who_read_what_was_relayed() {
    let mut feed = Feed::new(0);
    feed.open(&["*"], live(), 0);
    feed.block(&["a"]);
    feed.fall_behind();
    feed.begin_relayed(1);
    // The owner has evicted 1 before it was relayed; the copy of it came by another way.
    feed.lose_until(2);
    feed.go_on_at(1);
    feed.block_as(Kind::Hidden, &["b"]);
    feed.block_as(Kind::Hidden, &["c"]);
    feed.go_on_at(2);
    feed.block_as(Kind::Relayed, &["c"]);
    feed.delivery.set_in_sync(VBUCKET, true, &mut Vec::new());
    feed.block(&["d"]);
    let (ahead, overtaken) = (feed.open(&["*"], earliest(), 0), feed.open(&["*"], earliest(), 0));
    assert_eq!(feed.read_all_told(ahead), [Told::Message(0), Told::Message(1), Told::Message(2), Told::Message(3)]);
    feed.evict(1);
    assert_eq!(feed.read_all_told(overtaken), [Told::Gap(0, 1), Told::Message(1), Told::Message(2), Told::Message(3)]);
}

#[test]
fn log_that_begins_anew_unseen_has_no_hole() {
    let mut feed = Feed::new(0);
    feed.open(&["*"], live(), 0);
    feed.block(&["a"]);
    feed.fall_behind();
    feed.begin_relayed(1);
    feed.block_as(Kind::Relayed, &["b"]);
    feed.go_on_at(1);
    feed.block_as(Kind::Hidden, &["b"]);
    feed.skip_to(3);
    feed.block_as(Kind::Hidden, &["d"]);
    assert_eq!(feed.delivery.bounds(VBUCKET), Some((Offset(3), Offset(4))));
    feed.delivery.set_in_sync(VBUCKET, true, &mut Vec::new());
    let earliest = feed.open(&["*"], earliest(), 0);
    assert_eq!(feed.read_all(earliest), [3]);
}

#[test]
fn reader_that_stands_before_where_the_log_begins_anew_is_told_and_goes_on() {
    let mut feed = Feed::new(0);
    let reader = feed.open(&["*"], live(), 0);
    feed.block(&["a"]);
    feed.skip_to(3);
    feed.block(&["d"]);
    assert_eq!(feed.read(reader).messages[0].offset, 0);
    let gaps = feed.read(reader).gaps;
    assert_eq!((gaps.len(), gaps[0].from, gaps[0].to), (1, 1, 3));
    assert_eq!(feed.read_all(reader), [3]);
}

#[test]
fn reader_of_history_that_the_log_begins_anew_above_is_ended() {
    let mut feed = Feed::new(0);
    feed.block(&["a"]);
    let reader = feed.open(&["*"], resume(CLUSTER, 2, 0), 0);
    assert_eq!(feed.skip_to(3), [reader]);
    assert!(matches!(feed.delivery.poll(reader), Poll::Ended(refusal) if refusal.code == ErrorCode::NotReady));
}
