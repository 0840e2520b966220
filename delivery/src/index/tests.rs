use proptest::prelude::*;

use super::*;

fn pattern(text: impl AsRef<[u8]>) -> Pattern {
    Pattern::parse(text.as_ref()).unwrap()
}

fn index(pairs: &[(&str, u32)]) -> PatternIndex<u32> {
    let mut index = PatternIndex::new();
    for (text, value) in pairs {
        index.insert(&pattern(text), *value);
    }
    index.check_invariants();
    index
}

/// What matches `key`, ascending.
fn found(index: &PatternIndex<u32>, key: impl AsRef<[u8]>) -> Vec<u32> {
    let mut out = Vec::new();
    index.matches(key.as_ref(), &mut out);
    out.sort_unstable();
    out
}

#[test]
fn every_kind_of_pattern_is_found() {
    let index = index(&[
        ("a.b.c", 1),
        ("a.*", 2),
        ("*", 3),
        ("*.c", 4),
        ("a.*.c", 5),
        ("a.?.c", 6),
        ("*.b.*", 7),
        ("a?b*", 8),
        ("", 9),
        ("a.b.c.*", 10),
        ("?.*", 11),
        ("a.b.c*", 12),
    ]);
    assert_eq!(found(&index, "a.b.c"), [1, 2, 3, 4, 5, 6, 7, 8, 11, 12]);
    assert_eq!(found(&index, ""), [3, 9]);
    assert_eq!(found(&index, "z"), [3]);
    assert_eq!(found(&index, "a.c"), [2, 3, 4, 11]);
}

#[test]
fn value_with_several_matching_patterns_is_appended_once() {
    let index = index(&[("a", 1), ("*", 1), ("a*", 1), ("?", 1), ("*", 2), ("?", 3), ("*a", 3)]);
    assert_eq!(found(&index, "a"), [1, 2, 3]);
}

#[test]
fn what_the_vector_held_before_is_kept() {
    let index = index(&[("a", 1), ("*", 1), ("?", 2)]);
    let mut out = vec![2, 1, 1];
    index.matches(b"a", &mut out);
    assert_eq!(out[..3], [2, 1, 1]);
    assert_eq!(out.len(), 5);
}

#[test]
fn longest_list_is_not_repeated_wherever_it_comes() {
    for long in ["a", "a*", "*a", "?", "*"] {
        let mut pairs = vec![("a", 50), ("a*", 7), ("*a", 200), ("?", 50), ("*", 7), ("*", 8), ("*", 9)];
        pairs.extend((0..100).map(|value| (long, value)));
        let expected = (0..100).chain([200]).collect::<Vec<_>>();
        assert_eq!(found(&index(&pairs), "a"), expected, "{long}");
    }
}

#[test]
fn system_keys_are_found_only_by_system_patterns() {
    let index = index(&[
        ("*", 1),
        ("!*", 2),
        ("!sys*", 3),
        ("*.a", 4),
        ("?system.a", 5),
        ("!system*", 6),
        ("!system.a", 7),
        ("!system.*a", 8),
        ("!syste?.a", 9),
        ("!system", 10),
    ]);
    assert_eq!(found(&index, "!system.a"), [6, 7, 8]);
    assert_eq!(found(&index, "!system"), [6, 10]);
    assert_eq!(found(&index, "!systex.a"), [1, 2, 3, 4, 9]);
}

#[test]
fn pair_filed_twice_is_removed_twice() {
    for text in ["a", "a*", "*a", "*"] {
        let mut index = index(&[(text, 1), (text, 1)]);
        assert_eq!(index.len(), 2);
        assert!(index.remove(&pattern(text), 1));
        index.check_invariants();
        assert_eq!(found(&index, "a"), [1], "{text}");
        assert!(index.remove(&pattern(text), 1));
        assert!(!index.remove(&pattern(text), 1));
        index.check_invariants();
        assert!(index.is_empty() && found(&index, "a").is_empty(), "{text}");
    }
}

#[test]
fn removing_what_is_not_filed_changes_nothing() {
    let mut index = index(&[("a", 1), ("a*", 1), ("a*c", 1)]);
    for text in ["b", "b*", "a*b", "a?c", "*"] {
        assert!(!index.remove(&pattern(text), 1), "{text}");
    }
    for text in ["a", "a*", "a*c"] {
        assert!(!index.remove(&pattern(text), 2), "{text}");
    }
    index.check_invariants();
    assert_eq!(index.len(), 3);
}

#[test]
fn memory_is_given_back() {
    let mut index = PatternIndex::new();
    let patterns =
        (0..3_000).flat_map(|n| [format!("a{n}"), format!("b{n}*"), format!("c*{n}"), format!("d*{n}*")].map(pattern));
    let patterns = patterns.collect::<Vec<_>>();
    for pattern in &patterns {
        index.insert(pattern, 1);
    }
    index.check_invariants();
    for pattern in &patterns {
        assert!(index.remove(pattern, 1));
    }
    index.check_invariants();
    assert!(index.is_empty() && index.exact.is_empty() && index.branches.is_empty());
    assert_eq!(index.exact.capacity(), 0);
}

#[test]
fn prefixes_nest_as_deep_as_a_pattern_is_long() {
    let mut index = PatternIndex::new();
    let patterns = (0..1_024_u32).zip((0..1_024).map(|n| pattern("x".repeat(n) + "*"))).collect::<Vec<_>>();
    for (value, pattern) in &patterns {
        index.insert(pattern, *value);
    }
    index.check_invariants();
    assert_eq!(found(&index, "x".repeat(2_000)).len(), 1_024);
    assert_eq!(found(&index, "xxxy"), [0, 1, 2, 3]);
    for (value, pattern) in &patterns {
        assert!(index.remove(pattern, *value));
    }
    index.check_invariants();
    assert!(index.is_empty() && index.branches.is_empty());
}

#[test]
fn index_of_units_says_whether_anything_matches() {
    let mut index = PatternIndex::new();
    for text in ["a", "a*", "*a", "b"] {
        index.insert(&pattern(text), ());
    }
    let mut out = Vec::new();
    index.matches(b"c", &mut out);
    assert_eq!(out.len(), 0);
    index.matches(b"a", &mut out);
    assert_eq!(out.len(), 1);
    assert!(index.remove(&pattern("a"), ()) && !index.remove(&pattern("a"), ()));
    index.check_invariants();
}

#[test]
fn crowded_bucket_still_finds_its_globs() {
    let mut index = PatternIndex::new();
    for n in 0..1_000 {
        index.insert(&pattern(format!("*.{n:03}.*")), n);
        index.insert(&pattern(format!("*.{n:03}.*")), 1_000);
    }
    index.check_invariants();
    assert_eq!(found(&index, "a.123.456.b"), [123, 456, 1_000]);
    assert_eq!(found(&index, [&b"x".repeat(1_000)[..], b".789."].concat()), [789, 1_000]);
    assert!(found(&index, "a.1234.b").is_empty());
    for n in 0..1_000 {
        assert!(index.remove(&pattern(format!("*.{n:03}.*")), n));
        assert!(!index.remove(&pattern(format!("*.{n:03}.*")), n));
    }
    index.check_invariants();
    assert_eq!(found(&index, "a.123.456.b"), [1_000]);
}

#[test]
fn gram_that_occurs_often_is_tried_once() {
    let mut index = PatternIndex::new();
    // Each of these is under the gram `aaaa`; tried at each place where it occurs they would take 10^13 steps.
    for n in 1..100_u32 {
        let number = usize::try_from(n).unwrap();
        index.insert(&pattern(format!("*{}{}*", "aaaa", "?a".repeat(number))), n);
    }
    index.check_invariants();
    assert_eq!(found(&index, "a".repeat(100_000)).len(), 99);
}

fn text(bytes_max: usize) -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(prop::sample::select(&b"**??\\aab."[..]), 0..bytes_max);
    (any::<bool>(), bytes).prop_map(|(is_system, bytes)| if is_system { [b"!system", &*bytes].concat() } else { bytes })
}

/// Patterns that fall into few buckets and share grams.
fn crowded_text() -> impl Strategy<Value = Vec<u8>> {
    let part = prop::sample::select(vec!["*", "*", "?", "ab", "ba", "aab", "bb"]);
    prop::collection::vec(part, 1..7).prop_map(|parts| format!("*{}*", parts.concat()).into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn index_agrees_with_brute_force(
        edits in prop::collection::vec((any::<bool>(), text(7), 0..6_u32), 0..150),
        keys in prop::collection::vec(text(8), 20),
    ) {
        agrees_with_brute_force(edits, keys)?;
    }

    #[test]
    fn crowded_index_agrees_with_brute_force(
        edits in prop::collection::vec((prop::bool::weighted(0.7), crowded_text(), 0..3_u32), 0..300),
        keys in prop::collection::vec(prop::collection::vec(prop::sample::select(&b"ab"[..]), 0..16), 20),
    ) {
        agrees_with_brute_force(edits, keys)?;
    }
}

/// Applies inserts (true) and removes to an index and to a list of pairs, then compares what matches each key.
fn agrees_with_brute_force(edits: Vec<(bool, Vec<u8>, u32)>, keys: Vec<Vec<u8>>) -> Result<(), TestCaseError> {
    let mut index = PatternIndex::new();
    let mut pairs = Vec::new();
    for (is_insert, text, value) in edits {
        let Ok(pattern) = Pattern::parse(&text) else { continue };
        if is_insert {
            index.insert(&pattern, value);
            pairs.push((pattern, value));
            continue;
        }
        let at = pairs.iter().position(|(filed, other)| *filed == pattern && *other == value);
        prop_assert_eq!(index.remove(&pattern, value), at.is_some());
        at.map(|at| pairs.swap_remove(at));
    }
    index.check_invariants();
    prop_assert_eq!(index.len(), pairs.len());
    for key in &keys {
        let matching = pairs.iter().filter(|(pattern, _)| pattern.matches(key));
        let expected = matching.map(|(_, value)| *value).collect::<std::collections::BTreeSet<_>>();
        prop_assert_eq!(found(&index, key), expected.into_iter().collect::<Vec<_>>());
    }
    for (pattern, value) in &pairs {
        prop_assert!(index.remove(pattern, *value));
    }
    index.check_invariants();
    prop_assert!(index.is_empty() && index.exact.is_empty() && index.branches.is_empty());
    Ok(())
}
