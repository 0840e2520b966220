//! What a subscription asks for: a glob over the bytes of a message's `key`, and of nothing else.
//!
//! `*` stands for any run of bytes, also an empty one; `?` for one byte; `\` takes the next byte as it is. Every other
//! byte, NUL and non-UTF-8 included, stands for itself. The empty pattern matches the empty key.
//!
//! A pattern is parsed once, at the edge, into three parts: the literal bytes before the first wildcard, the wildcards
//! with what is between them, and the literal bytes behind the last. The ends are compared as bytes, and the index
//! finds patterns by them; only the middle is searched.
//!
//! **Invariant:** two patterns are equal exactly when they match the same keys. Needless escapes are dropped, and a
//! run of wildcards becomes its `?`s followed by at most one `*`, so `*?`, `?**` and `*?*` are one pattern.
//!
//! The hard case is `*a*a*a*b`: a literal run between two `*` is placed at the first position where it fits and stays
//! there, because a later position can never help what follows it. So nothing nests, and the cost of a match is at
//! most key length times the length of the longest such run.

use std::fmt;

use broky_proto::limits::PATTERN_BYTES_MAX;

/// How the keys of the broker's own messages begin. Only a pattern that spells this out matches them, so that a
/// subscriber to `*` sees its users' messages and nothing else.
pub const SYSTEM_PREFIX: &[u8] = b"!system";

/// Whether a message with this key is one of the broker's own.
#[must_use]
pub fn is_system_key(key: &[u8]) -> bool {
    key.starts_with(SYSTEM_PREFIX)
}

/// Why bytes are not a pattern. Nothing was changed; the same bytes fail again, so there is no point in a retry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatternError {
    /// The pattern, as written, exceeds [`PATTERN_BYTES_MAX`]. Ask for something shorter, ended by `*`.
    #[error("pattern of {bytes} bytes exceeds the limit of {PATTERN_BYTES_MAX}")]
    TooLong {
        /// Bytes of the pattern as it was written.
        bytes: usize,
    },
    /// The pattern ends in a `\` that escapes nothing. Write `\\` for a literal one.
    #[error("pattern ends in a lone escape character")]
    LoneEscape,
}

/// What a pattern amounts to: which way of finding it is cheapest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PatternKind {
    /// No wildcard: matches one key.
    Exact,
    /// Literal bytes, at least one, then `*`.
    Prefix,
    /// Anything else.
    Glob,
    /// `*`: matches every key but the system ones.
    MatchAll,
}

/// A parsed and valid glob over message keys, in canonical form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    /// Literal bytes before the first wildcard; the whole pattern when there is none.
    prefix: Box<[u8]>,
    /// From the first wildcard to the last, both included; empty for an exact pattern.
    middle: Box<[Token]>,
    /// Literal bytes behind the last wildcard; empty for an exact pattern.
    suffix: Box<[u8]>,
}

/// One step of a pattern.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Token {
    /// This byte.
    Literal(u8),
    /// `?`
    One,
    /// `*`
    Run,
}

impl Pattern {
    /// Parses the text of a pattern.
    ///
    /// # Errors
    /// [`PatternError::TooLong`] beyond [`PATTERN_BYTES_MAX`] bytes, [`PatternError::LoneEscape`] when the last byte is
    /// a `\` that is not itself escaped.
    pub fn parse(text: &[u8]) -> Result<Self, PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong { bytes: text.len() });
        }
        let mut prefix = tokens_of(text)?;
        let is_wild = |token: &Token| token.literal().is_none();
        let suffix = prefix.iter().rposition(is_wild).map(|last| prefix.split_off(last + 1)).unwrap_or_default();
        let middle = prefix.iter().position(is_wild).map(|first| prefix.split_off(first)).unwrap_or_default();
        Ok(Self { prefix: literals(&prefix), middle: middle.into(), suffix: literals(&suffix) })
    }

    /// Whether a message with this key is asked for.
    #[must_use]
    pub fn matches(&self, key: &[u8]) -> bool {
        if is_system_key(key) && !self.is_system() {
            return false;
        }
        if self.middle.is_empty() {
            return *key == *self.prefix;
        }
        key.strip_prefix(&*self.prefix)
            .and_then(|rest| rest.strip_suffix(&*self.suffix))
            .is_some_and(|text| tokens_match(&self.middle, text))
    }

    /// What the pattern amounts to.
    #[must_use]
    pub fn kind(&self) -> PatternKind {
        match (&*self.prefix, &*self.middle, &*self.suffix) {
            (_, [], _) => PatternKind::Exact,
            ([], [Token::Run], []) => PatternKind::MatchAll,
            (_, [Token::Run], []) => PatternKind::Prefix,
            _ => PatternKind::Glob,
        }
    }

    /// Whether this is `*`.
    #[must_use]
    pub fn is_match_all(&self) -> bool {
        self.kind() == PatternKind::MatchAll
    }

    /// Whether the pattern can match system keys: whether it begins with the literal text [`SYSTEM_PREFIX`].
    #[must_use]
    pub fn is_system(&self) -> bool {
        is_system_key(&self.prefix)
    }

    /// The bytes every matching key begins with, unescaped; the key itself for an exact pattern.
    #[must_use]
    pub fn literal_prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The bytes every matching key ends with behind its prefix, unescaped; empty for an exact pattern.
    #[must_use]
    pub fn literal_suffix(&self) -> &[u8] {
        &self.suffix
    }

    /// The canonical text: never longer than what was parsed, and parses to an equal pattern.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let ends = |bytes: &[u8]| bytes.iter().copied().map(Token::Literal).collect::<Vec<_>>();
        let tokens = [&*ends(&self.prefix), &self.middle, &*ends(&self.suffix)].concat();
        let mut text = Vec::with_capacity(tokens.len());
        for token in tokens {
            match token {
                Token::Literal(byte @ (b'*' | b'?' | b'\\')) => text.extend([b'\\', byte]),
                Token::Literal(byte) => text.push(byte),
                Token::One => text.push(b'?'),
                Token::Run => text.push(b'*'),
            }
        }
        text
    }

    /// What lies between the literal ends, for [`tokens_match`].
    pub(crate) fn middle(&self) -> &[Token] {
        &self.middle
    }
}

/// The canonical text; bytes that are not UTF-8 appear as U+FFFD.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.to_bytes().escape_ascii())
    }
}

impl Token {
    fn literal(&self) -> Option<u8> {
        match *self {
            Self::Literal(byte) => Some(byte),
            Self::One | Self::Run => None,
        }
    }
}

/// Whether the middle of a canonical pattern covers all of `text`.
pub(crate) fn tokens_match(tokens: &[Token], text: &[u8]) -> bool {
    let mut segments = tokens.split(|token| *token == Token::Run);
    let first = segments.next().unwrap_or_default();
    let Some(last) = segments.next_back() else {
        return first.len() == text.len() && fits(first, text);
    };
    let Some((start, rest)) = text.split_at_checked(first.len()) else { return false };
    let Some(tail_at) = rest.len().checked_sub(last.len()) else { return false };
    let (mut rest, end) = rest.split_at(tail_at);
    if !fits(first, start) || !fits(last, end) {
        return false;
    }
    for segment in segments {
        match behind_first_fit(segment, rest) {
            Some(behind) => rest = behind,
            None => return false,
        }
    }
    true
}

/// The text behind the first place where a segment without `*` fits.
fn behind_first_fit<'a>(segment: &[Token], mut text: &'a [u8]) -> Option<&'a [u8]> {
    loop {
        let (window, behind) = text.split_at_checked(segment.len())?;
        if fits(segment, window) {
            return Some(behind);
        }
        text = text.get(1..)?;
    }
}

/// Whether tokens without `*` fit a text of the same length.
fn fits(tokens: &[Token], text: &[u8]) -> bool {
    debug_assert_eq!(tokens.len(), text.len());
    tokens.iter().zip(text).all(|(token, byte)| token.literal().is_none_or(|literal| literal == *byte))
}

/// Reads the text of a pattern into canonical tokens.
fn tokens_of(text: &[u8]) -> Result<Vec<Token>, PatternError> {
    let mut tokens = Vec::with_capacity(text.len());
    // A `*` is held back until a literal follows, so that the `?`s behind it come to stand before it.
    let mut has_run = false;
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        let literal = match byte {
            b'*' => {
                has_run = true;
                continue;
            }
            b'?' => {
                tokens.push(Token::One);
                continue;
            }
            b'\\' => *bytes.next().ok_or(PatternError::LoneEscape)?,
            literal => literal,
        };
        if std::mem::take(&mut has_run) {
            tokens.push(Token::Run);
        }
        tokens.push(Token::Literal(literal));
    }
    if has_run {
        tokens.push(Token::Run);
    }
    Ok(tokens)
}

/// The bytes of tokens that are all literal.
fn literals(tokens: &[Token]) -> Box<[u8]> {
    tokens.iter().filter_map(Token::literal).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: impl AsRef<[u8]>) -> Pattern {
        Pattern::parse(text.as_ref()).unwrap()
    }

    fn is_match(text: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> bool {
        pattern(text).matches(key.as_ref())
    }

    /// The definition, read off the raw text and without regard to cost.
    fn reference(text: &[u8], key: &[u8]) -> bool {
        match (text, key) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=key.len()).any(|skipped| reference(rest, &key[skipped..])),
            ([b'?', rest @ ..], [_, key @ ..]) => reference(rest, key),
            ([b'\\', literal, rest @ ..], [byte, key @ ..]) | ([literal, rest @ ..], [byte, key @ ..]) => {
                literal == byte && reference(rest, key)
            }
            _ => false,
        }
    }

    #[test]
    fn empty_pattern_matches_only_the_empty_key() {
        assert!(is_match("", ""));
        assert!(!is_match("", "a"));
        assert_eq!(pattern("").kind(), PatternKind::Exact);
    }

    #[test]
    fn wildcards_stand_for_runs_and_single_bytes() {
        assert!(is_match("*", "") && is_match("*", "a\0b"));
        assert!(is_match("a*", "a") && is_match("a*", "abc") && !is_match("a*", "ba"));
        assert!(is_match("*.temp", ".temp") && is_match("*.temp", "x.temp") && !is_match("*.temp", "x.temp1"));
        assert!(is_match("a?c", "abc") && !is_match("a?c", "ac") && !is_match("a?c", "abbc"));
        assert!(is_match("sensor.*.temp", "sensor.1.2.temp") && !is_match("sensor.*.temp", "sensor.temp"));
        assert!(is_match("*b?", "abbc") && !is_match("*b?", "ab"));
        assert!(!is_match("?", "é") && is_match("??", "é"));
    }

    #[test]
    fn literal_ends_do_not_share_bytes_of_the_key() {
        assert!(!is_match("ab*ba", "aba"));
        assert!(is_match("ab*ba", "abba"));
        assert!(!is_match("a?a", "a"));
    }

    #[test]
    fn every_byte_can_be_a_literal_escaped_or_not() {
        for byte in 0..=u8::MAX {
            assert!(is_match([b'\\', byte], [byte]), "{byte}");
            assert!(!is_match([b'\\', byte], [byte.wrapping_add(1)]), "{byte}");
            if !matches!(byte, b'*' | b'?' | b'\\') {
                assert!(is_match([byte], [byte]), "{byte}");
                assert_eq!(pattern([byte]), pattern([b'\\', byte]), "{byte}");
            }
        }
    }

    #[test]
    fn escaped_wildcards_are_literal() {
        assert!(is_match(r"\*", "*") && !is_match(r"\*", "a"));
        assert!(is_match(r"\?", "?") && !is_match(r"\?", "a"));
        assert!(is_match(r"\\*", r"\a") && !is_match(r"\\*", "a"));
        assert!(is_match(r"\\\*", r"\*") && !is_match(r"\\\*", r"\a"));
        assert_eq!(pattern(r"\*").kind(), PatternKind::Exact);
        assert_eq!(pattern(r"\\*").kind(), PatternKind::Prefix);
        assert_eq!(pattern(r"a\*b*").literal_prefix(), b"a*b");
    }

    #[test]
    fn lone_trailing_escape_is_refused() {
        for text in [r"\", r"a\", r"*\", r"\\\"] {
            assert_eq!(Pattern::parse(text.as_bytes()), Err(PatternError::LoneEscape), "{text}");
        }
        assert!(Pattern::parse(br"\\").is_ok());
    }

    #[test]
    fn length_is_limited_as_written() {
        assert!(Pattern::parse(&[b'*'; PATTERN_BYTES_MAX]).is_ok());
        let bytes = PATTERN_BYTES_MAX + 1;
        assert_eq!(Pattern::parse(&vec![b'*'; bytes]), Err(PatternError::TooLong { bytes }));
    }

    #[test]
    fn patterns_that_match_the_same_keys_are_equal() {
        for (left, right) in [("a**b", "a*b"), ("*?", "?*"), ("*?*?", "??*"), (r"\a\.b", "a.b"), ("***", "*")] {
            assert_eq!(pattern(left), pattern(right), "{left} {right}");
        }
        assert_ne!(pattern(r"\*"), pattern("*"));
        assert_ne!(pattern("?"), pattern("*"));
        assert_ne!(pattern("a"), pattern("a*"));
    }

    #[test]
    fn kinds_are_told_apart() {
        for (text, kind) in [
            ("a.b", PatternKind::Exact),
            ("a.*", PatternKind::Prefix),
            ("**", PatternKind::MatchAll),
            ("*a", PatternKind::Glob),
            ("a?", PatternKind::Glob),
            ("?*", PatternKind::Glob),
        ] {
            assert_eq!(pattern(text).kind(), kind, "{text}");
            assert_eq!(pattern(text).is_match_all(), kind == PatternKind::MatchAll, "{text}");
        }
    }

    #[test]
    fn system_keys_need_the_literal_system_prefix() {
        for text in ["*", "!*", "!sys*", "!syste?", "!syste?*", "?system*", "*system.a", "!syste*m.a"] {
            assert!(!is_match(text, "!system.a") && !is_match(text, "!system"), "{text}");
        }
        for text in ["!system*", "!system.?", "!system.a", r"\!s\ystem.*", "!system*a"] {
            assert!(is_match(text, "!system.a"), "{text}");
        }
        assert!(is_match("*", "!syste") && is_match("!sys*", "!sys.a") && is_match("*", "a!system"));
    }

    #[test]
    fn display_is_the_canonical_text() {
        assert_eq!(pattern(r"\a\*b**?c\?\\").to_string(), r"a\*b?*c\?\\");
        assert_eq!(pattern(b"\xff*").to_string(), "\u{fffd}*");
        assert_eq!(format!("{:?}", pattern(b"\0*")), r"Pattern(\x00*)");
    }

    #[test]
    fn nested_runs_do_not_blow_up() {
        // Backtracking over all the runs would take more than 10^60 steps.
        let key = vec![b'a'; 100_000];
        assert!(!pattern("*a*a*a*a*b".repeat(16)).matches(&key));
        assert!(!pattern("*a".repeat(500) + "*b*").matches(&key));
        assert!(pattern("*a".repeat(500)).matches(&key));
    }

    fn text(alphabet: &'static [u8], bytes_max: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(alphabet), 0..bytes_max)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn matching_agrees_with_the_definition(text in text(b"**??\\ab\0\xff", 12), key in text(b"aab\0\xff*?\\", 12)) {
            if let Ok(pattern) = Pattern::parse(&text) {
                prop_assert_eq!(pattern.matches(&key), reference(&text, &key));
            }
        }

        #[test]
        fn canonical_text_parses_to_the_same_pattern(text in text(b"**??\\ab\0\xff", 16)) {
            if let Ok(pattern) = Pattern::parse(&text) {
                let canonical = pattern.to_bytes();
                prop_assert!(canonical.len() <= text.len());
                prop_assert_eq!(Pattern::parse(&canonical).unwrap(), pattern);
            }
        }

        #[test]
        fn distinct_patterns_match_distinct_keys(left in text(b"*?ab", 5), right in text(b"*?ab", 5)) {
            let (left, right) = (pattern(left), pattern(right));
            // Keys over the patterns' letters and one more, longer than what either has to match, tell any two apart.
            let mut keys = vec![vec![]];
            let mut is_same = true;
            for _ in 0..=6 {
                is_same &= keys.iter().all(|key| left.matches(key) == right.matches(key));
                keys = keys.iter().flat_map(|key| b"abz".map(|byte| [&**key, &[byte]].concat())).collect();
            }
            prop_assert_eq!(is_same, left == right);
        }

        #[test]
        fn parsing_never_panics(text in prop::collection::vec(any::<u8>(), 0..64), key in any::<Vec<u8>>()) {
            if let Ok(pattern) = Pattern::parse(&text) {
                let _ = pattern.matches(&key);
            }
        }
    }
}
