use broky_proto::v1::start::Start;

use super::*;

const CLUSTER: [u8; 16] = [3; 16];

fn confirmed(vbuckets: u32) -> v1::Confirmed {
    v1::Confirmed { cluster_id: CLUSTER.to_vec().into(), map_version: 1, vbuckets, node_incarnation: 1 }
}

fn cursor(vbucket: u32, offset: u64) -> v1::Cursor {
    v1::Cursor { vbucket, lineage: 1, epoch: 2, offset }
}

fn gap(vbucket: u32, lineage: u64, from: u64, to: u64) -> v1::Gap {
    v1::Gap { vbucket, lineage, from, to, reason: GapReason::Evicted.into() }
}

/// Four vbuckets, the first at offset 10.
fn cursors() -> Cursors {
    let mut cursors = Cursors::new(true, Vec::new());
    cursors.handle_confirmed(&confirmed(4)).unwrap();
    cursors.apply_cursor(&cursor(0, 10));
    cursors
}

fn position(cursors: &Cursors, vbucket: u32) -> Option<v1::Cursor> {
    let positions = cursors.positions(std::iter::empty()).unwrap();
    positions.cursors.into_iter().find(|cursor| cursor.vbucket == vbucket)
}

fn resumed(cursors: &Cursors, wanted: Start) -> Vec<v1::Cursor> {
    match cursors.start(wanted).start {
        Some(Start::Resume(resume)) => resume.cursors,
        other => panic!("{other:?}"),
    }
}

#[test]
fn message_moves_the_position_behind_itself() {
    let mut cursors = cursors();
    assert_eq!(cursors.admit(0, 3, 10), Admission::Fresh);
    assert_eq!(position(&cursors, 0), Some(v1::Cursor { epoch: 3, ..cursor(0, 11) }));
    assert_eq!(cursors.skipped, 0);
}

#[test]
fn message_that_was_given_out_is_a_duplicate() {
    let mut cursors = cursors();
    assert_eq!(cursors.admit(0, 2, 9), Admission::Duplicate);
    assert_eq!(cursors.admit(0, 2, 10), Admission::Fresh);
    assert_eq!(cursors.admit(0, 2, 10), Admission::Duplicate);
    assert_eq!(cursors.duplicates, 2);
}

#[test]
fn jump_is_counted_only_when_everything_matches() {
    let mut complete = cursors();
    complete.admit(0, 2, 13);
    assert_eq!(complete.skipped, 3);
    complete.apply_cursor(&cursor(0, 16));
    assert_eq!(complete.skipped, 5);
    let mut filtered = Cursors { is_complete: false, ..cursors() };
    filtered.admit(0, 2, 13);
    assert_eq!(filtered.skipped, 0);
}

#[test]
fn first_message_of_an_unknown_vbucket_is_no_jump() {
    let mut cursors = cursors();
    assert_eq!(cursors.admit(1, 2, 500), Admission::Fresh);
    assert_eq!(cursors.skipped, 0);
}

#[test]
fn gap_moves_the_position_and_is_no_jump() {
    let mut cursors = cursors();
    let (news, before) = cursors.apply_gap(&gap(0, 1, 10, 20)).unwrap();
    assert_eq!((news.from, news.to), (Offset(10), Offset(20)));
    assert_eq!(before, Slot { lineage: 1, epoch: 2, next: 10, is_known: true });
    assert_eq!(cursors.admit(0, 2, 20), Admission::Fresh);
    assert_eq!(cursors.skipped, 0);
}

#[test]
fn gap_tells_only_what_is_news() {
    let mut cursors = cursors();
    assert_eq!(cursors.apply_gap(&gap(0, 1, 2, 10)), None);
    let (news, _) = cursors.apply_gap(&gap(0, 1, 5, 15)).unwrap();
    assert_eq!((news.from, news.to), (Offset(10), Offset(15)));
}

#[test]
fn gap_of_another_lineage_is_always_news() {
    let mut cursors = cursors();
    let (news, _) = cursors.apply_gap(&gap(0, 9, 10, 10)).unwrap();
    assert_eq!(news.lineage, Lineage(9));
    assert_eq!(position(&cursors, 0).unwrap().lineage, 9);
}

#[test]
fn cursor_never_moves_a_position_back() {
    let mut cursors = cursors();
    cursors.apply_cursor(&cursor(0, 4));
    assert_eq!(position(&cursors, 0), Some(cursor(0, 10)));
}

#[test]
fn delivery_with_an_impossible_part_is_refused() {
    let cursors = cursors();
    let delivery = |gaps: Vec<v1::Gap>, cursors: Vec<v1::Cursor>| v1::Delivery { gaps, cursors, ..Default::default() };
    assert!(cursors.check(&delivery(vec![gap(3, 1, 1, 2)], vec![cursor(3, 1)]), Some(3)).is_ok());
    assert!(cursors.check(&delivery(vec![], vec![]), Some(4)).is_err());
    assert!(cursors.check(&delivery(vec![], vec![]), Some(u32::MAX)).is_err());
    assert!(cursors.check(&delivery(vec![gap(4, 1, 1, 2)], vec![]), None).is_err());
    assert!(cursors.check(&delivery(vec![gap(0, 1, 2, 1)], vec![]), None).is_err());
    assert!(cursors.check(&delivery(vec![], vec![cursor(4, 1)]), None).is_err());
}

#[test]
fn another_cluster_is_refused() {
    let mut cursors = cursors();
    let foreign = v1::Confirmed { cluster_id: vec![9; 16].into(), ..confirmed(4) };
    assert!(matches!(cursors.handle_confirmed(&foreign), Err(Violation::Foreign { .. })));
    assert!(cursors.handle_confirmed(&v1::Confirmed { cluster_id: vec![9; 3].into(), ..confirmed(4) }).is_err());
    assert!(cursors.handle_confirmed(&confirmed(3)).is_err());
    assert!(cursors.handle_confirmed(&confirmed(2)).is_err(), "fewer vbuckets than before");
}

#[test]
fn opens_where_wanted_until_there_is_a_position() {
    let mut cursors = Cursors::new(false, Vec::new());
    let earliest = || Start::Earliest(v1::Earliest {});
    assert_eq!(cursors.start(earliest()).start, Some(earliest()));
    cursors.handle_confirmed(&confirmed(4)).unwrap();
    assert_eq!(cursors.start(earliest()).start, Some(earliest()));
    cursors.admit(2, 5, 7);
    let offsets: Vec<u64> = resumed(&cursors, earliest()).iter().map(|cursor| cursor.offset).collect();
    assert_eq!(offsets, [0, 0, 8, 0], "unknown vbuckets from the very first");
    assert_eq!(resumed(&cursors, Start::Live(v1::Live {})).len(), 1);
}

#[test]
fn narrowed_subscription_asks_only_for_what_it_reads() {
    let token = Token(3 << 30);
    let mut cursors = Cursors::new(false, vec![token]);
    cursors.handle_confirmed(&confirmed(4)).unwrap();
    cursors.apply_cursor(&cursor(0, 10));
    let vbuckets: Vec<u32> =
        resumed(&cursors, Start::Earliest(v1::Earliest {})).iter().map(|cursor| cursor.vbucket).collect();
    assert_eq!(vbuckets, [0, 3]);
}

#[test]
fn loss_of_a_history_is_told_even_if_nothing_is_missed() {
    let mut cursors = cursors();
    let lost = v1::Gap { reason: GapReason::Lost.into(), ..gap(0, 1, 10, 10) };
    let (news, _) = cursors.apply_gap(&lost).unwrap();
    assert_eq!((news.from, news.to), (Offset(10), Offset(10)));
}

#[test]
fn restored_positions_decide_what_is_new() {
    let mut cursors = Cursors::new(false, Vec::new());
    let resume = v1::Resume { cluster_id: CLUSTER.to_vec().into(), cursors: vec![cursor(1, 5)] };
    cursors.restore(&resume).unwrap();
    assert_eq!(resumed(&cursors, Start::Resume(resume)), [cursor(1, 5)]);
    cursors.handle_confirmed(&confirmed(4)).unwrap();
    assert_eq!(cursors.admit(1, 2, 4), Admission::Duplicate);
    assert_eq!(cursors.admit(1, 2, 5), Admission::Fresh);
}

#[test]
fn restored_vbucket_out_of_range_is_refused() {
    let mut cursors = Cursors::new(false, Vec::new());
    let resume = v1::Resume { cluster_id: CLUSTER.to_vec().into(), cursors: vec![cursor(40_000, 5)] };
    assert!(cursors.restore(&resume).is_err());
}

#[test]
fn extreme_offsets_do_not_overflow() {
    let mut cursors = cursors();
    assert_eq!(cursors.admit(0, u64::MAX, u64::MAX), Admission::Fresh);
    cursors.apply_cursor(&cursor(1, 0));
    cursors.admit(1, 0, u64::MAX);
    cursors.apply_cursor(&cursor(2, 0));
    cursors.apply_gap(&gap(2, 1, u64::MAX, u64::MAX));
    assert_eq!(cursors.skipped, u64::MAX);
}
