//! What a session asks for, and whether a message is part of it.
//!
//! Patterns are matched here by another program than the broker's on purpose: an oracle that shares its subject's code
//! shares its faults. It may be slow; a match of one key with one filter is computed once.

use rustc_hash::FxHashMap;

use super::compact::{Entry, PartitionNo};
use super::names::{FilterNo, KeyNo, Names};

/// Keys that begin with this are matched only by patterns that begin with it.
const SYSTEM: &str = "!system";

/// What a session asks for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(crate) struct Filter {
    pub(crate) patterns: Vec<String>,
    /// Empty: all.
    pub(crate) partitions: Vec<PartitionNo>,
}

impl Filter {
    /// Whether it asks for every message of clients, so that no offset may be passed over that is not a message of the
    /// system.
    pub(crate) fn is_everything(&self) -> bool {
        self.partitions.is_empty() && self.patterns.iter().any(|pattern| pattern == "*")
    }

    fn matches_key(&self, key: &str) -> bool {
        self.patterns.iter().any(|pattern| {
            let is_system = key.starts_with(SYSTEM);
            (!is_system || pattern.starts_with(SYSTEM)) && matches(&globs(pattern), key.as_bytes())
        })
    }

    fn matches_partition(&self, partition: PartitionNo) -> bool {
        self.partitions.is_empty() || self.partitions.contains(&partition)
    }
}

/// A part of a pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Glob {
    Run,
    One,
    Byte(u8),
}

/// A pattern's parts: `*` any run of bytes, `?` one byte, `\` makes the next byte literal.
fn globs(pattern: &str) -> Vec<Glob> {
    let mut bytes = pattern.bytes();
    let mut globs = Vec::new();
    while let Some(byte) = bytes.next() {
        globs.push(match byte {
            b'*' => Glob::Run,
            b'?' => Glob::One,
            b'\\' => Glob::Byte(bytes.next().unwrap_or(byte)),
            byte => Glob::Byte(byte),
        });
    }
    globs
}

/// Whether a key matches. Goes back to the last `*` only, which takes one byte more then: so it takes no more than the
/// product of the two lengths.
fn matches(pattern: &[Glob], key: &[u8]) -> bool {
    let (mut at, mut byte, mut retry) = (0, 0, None);
    while byte < key.len() || at < pattern.len() {
        match (pattern.get(at), key.get(byte)) {
            (Some(Glob::Run), _) => {
                at += 1;
                retry = Some((at, byte));
            }
            (Some(Glob::One), Some(_)) => (at, byte) = (at + 1, byte + 1),
            (Some(Glob::Byte(literal)), Some(other)) if literal == other => (at, byte) = (at + 1, byte + 1),
            (_, _) => match retry {
                Some((after, from)) if from < key.len() => {
                    (at, byte) = (after, from + 1);
                    retry = Some((after, from + 1));
                }
                Some(_) | None => return false,
            },
        }
    }
    true
}

/// Every filter of a run.
#[derive(Default, Debug)]
pub(crate) struct Filters {
    filters: Vec<Filter>,
    numbers: FxHashMap<Filter, FilterNo>,
}

impl Filters {
    pub(crate) fn number(&mut self, filter: Filter) -> FilterNo {
        let next = FilterNo(u32::try_from(self.filters.len()).unwrap_or(u32::MAX));
        let number = *self.numbers.entry(filter.clone()).or_insert(next);
        if number == next {
            self.filters.push(filter);
        }
        number
    }

    pub(crate) fn filter(&self, number: FilterNo) -> Option<&Filter> {
        self.filters.get(usize::try_from(number.0).ok()?)
    }
}

/// Whether a message is of the system, so that who asks for everything does not ask for it.
pub(crate) fn is_of_system(keys: &Names, entry: &Entry) -> bool {
    entry.key.is_some_and(|key| keys.name(key.0).starts_with(SYSTEM))
}

/// Which keys match which filters, as far as it was asked.
#[derive(Default, Debug)]
pub(crate) struct Matches(FxHashMap<(FilterNo, KeyNo), bool>);

impl Matches {
    /// Whether a filter asks for a message. Where its key is not known, because it is one of too many or nobody pushed
    /// the message, only a filter that asks for everything does.
    pub(crate) fn wants(&mut self, filters: &Filters, keys: &Names, number: FilterNo, entry: &Entry) -> bool {
        let Some(filter) = filters.filter(number) else { return false };
        let Some(key) = entry.key else { return filter.is_everything() };
        let is_match = self.0.entry((number, key)).or_insert_with(|| filter.matches_key(keys.name(key.0)));
        *is_match && filter.matches_partition(entry.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(patterns: &[&str]) -> Filter {
        Filter { patterns: patterns.iter().map(|&pattern| pattern.to_owned()).collect(), partitions: Vec::new() }
    }

    #[test]
    fn patterns_match_as_the_protocol_says() {
        for (pattern, key, is_match) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("", "", true),
            ("*", "", true),
            ("*", "anything", true),
            ("a*c", "abbbc", true),
            ("a*c", "ac", true),
            ("a*c", "acb", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*ab*ab", "aabbabab", true),
            ("*ab*ab?", "aabbabab", false),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            (r"a\\", r"a\", true),
            ("*.b.*", "a.b.c", true),
        ] {
            assert_eq!(filter(&[pattern]).matches_key(key), is_match, "{pattern:?} {key:?}");
        }
    }

    #[test]
    fn keys_of_the_system_are_wanted_by_name_only() {
        assert!(!filter(&["*"]).matches_key("!system.node"));
        assert!(filter(&["*", "!system*"]).matches_key("!system.node"));
    }

    #[test]
    fn everything_is_one_pattern_and_no_partitions() {
        assert!(filter(&["a", "*"]).is_everything());
        assert!(!filter(&["a*"]).is_everything());
        let narrowed = Filter { partitions: vec![PartitionNo::default()], ..filter(&["*"]) };
        assert!(!narrowed.is_everything());
    }
}
