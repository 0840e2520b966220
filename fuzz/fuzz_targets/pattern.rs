//! Patterns, and the index of patterns, against the definition of matching.

#![no_main]

use broky_delivery::index::PatternIndex;
use broky_delivery::{Pattern, is_system_key};
use libfuzzer_sys::fuzz_target;

/// Bytes of patterns and keys that the definition, which does not regard cost, gets to see.
const BYTES_MAX: usize = 64;
const PATTERNS_MAX: usize = 64;

fuzz_target!(|data: &[u8]| {
    // Texts divided by a byte that few keys need: the first is the key, the others are patterns.
    let mut texts = data.split(|byte| *byte == b'\n').take(PATTERNS_MAX);
    let key = texts.next().unwrap_or_default();
    let key = key.get(..BYTES_MAX).unwrap_or(key);
    let texts: Vec<&[u8]> = texts.collect();
    let mut index = PatternIndex::new();
    let mut expected = Vec::new();
    let mut filed = Vec::new();
    for (number, text) in texts.iter().enumerate() {
        let Ok(pattern) = Pattern::parse(text) else { continue };
        assert_eq!(Pattern::parse(&pattern.to_bytes()).as_ref(), Ok(&pattern), "the canonical text is the pattern");
        let is_match = pattern.matches(key);
        if text.len() <= BYTES_MAX {
            let may_match = !is_system_key(key) || pattern.is_system();
            assert_eq!(is_match, may_match && is_defined_match(text, key), "{pattern:?}");
        }
        if is_match {
            expected.push(number);
        }
        index.insert(&pattern, number);
        filed.push((pattern, number));
    }
    index.check_invariants();
    let mut found = Vec::new();
    index.matches(key, &mut found);
    found.sort_unstable();
    assert_eq!(found, expected);
    for (pattern, number) in &filed {
        assert!(index.remove(pattern, *number));
    }
    assert!(index.is_empty());
    index.check_invariants();
});

/// The definition, by a table over prefixes: pattern by pattern element, key byte by key byte.
fn is_defined_match(text: &[u8], key: &[u8]) -> bool {
    let mut reached = vec![false; key.len() + 1];
    reached[0] = true;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        let literal = match byte {
            b'*' => {
                let first = reached.iter().position(|is_reached| *is_reached).unwrap_or(reached.len());
                reached.iter_mut().skip(first).for_each(|is_reached| *is_reached = true);
                continue;
            }
            b'?' => None,
            b'\\' => bytes.next(),
            literal => Some(literal),
        };
        for at in (0..key.len()).rev() {
            reached[at + 1] = reached[at] && literal.is_none_or(|literal| key[at] == *literal);
        }
        reached[0] = false;
    }
    reached[key.len()]
}
