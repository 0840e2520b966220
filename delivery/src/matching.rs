//! Finding, once per block, which interests want which of its messages.

use broky_proto::frame::{PREFIX_LEN, prefix};
use broky_proto::wire::Fields;
use bytes::{BufMut, Bytes, BytesMut};

use crate::feed::{Block, Entry};
use crate::interest::{InterestId, Interests, effective_partition};

/// A run of bytes in a block: one message with its tag and length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// What one interest wants of a block.
#[derive(Debug)]
struct Matched {
    interest: InterestId,
    first: u32,
    count: u32,
    /// Put together when the first reader asks.
    framed: Option<Bytes>,
}

/// What all interests want of a block.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    /// Ascending by interest.
    matched: Vec<Matched>,
    pieces: Vec<Piece>,
    gathered_bytes: usize,
}

/// Which of a block's messages are wanted.
#[derive(Debug)]
pub(crate) enum Found {
    All,
    Some(Vec<Piece>),
}

/// What a reader gets of a block.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) framed: Bytes,
    /// Bytes that had to be copied for it just now.
    pub(crate) gathered_bytes: usize,
}

impl Matches {
    /// Interests that want something.
    pub(crate) fn interests(&self) -> impl Iterator<Item = InterestId> {
        self.matched.iter().map(|matched| matched.interest)
    }

    pub(crate) fn gathered_bytes(&self) -> usize {
        self.gathered_bytes
    }

    /// Where that which `interest` wants stands, and how many messages it is; `None` when that is nothing.
    pub(crate) fn find(&self, interest: InterestId) -> Option<(usize, u32)> {
        let at = self.matched.binary_search_by_key(&interest, |matched| matched.interest).ok()?;
        self.matched.get(at).map(|matched| (at, matched.count))
    }

    /// The messages that any of the interests for which `is_asked` holds wants, each once, in order.
    pub(crate) fn union(&self, is_asked: impl Fn(InterestId) -> bool, block: &Block) -> Option<Found> {
        let mut pieces = Vec::new();
        let mut lists = 0;
        for matched in self.matched.iter().filter(|matched| is_asked(matched.interest)) {
            if matched.count == block.messages {
                return Some(Found::All);
            }
            let of = self.pieces.get(matched.first as usize..(matched.first + matched.count) as usize);
            pieces.extend_from_slice(of.unwrap_or_default());
            lists += 1;
        }
        if lists > 1 {
            pieces.sort_unstable_by_key(|piece| piece.start);
            pieces.dedup();
        }
        (!pieces.is_empty()).then_some(Found::Some(pieces))
    }

    /// What [`Matches::find`] found, framed. The caller accounts for the bytes gathered.
    pub(crate) fn wanted(&mut self, at: usize, block: &Block) -> Option<Wanted> {
        let matched = self.matched.get_mut(at)?;
        if let Some(framed) = &matched.framed {
            return Some(Wanted { framed: framed.clone(), gathered_bytes: 0 });
        }
        let pieces = self.pieces.get(matched.first as usize..(matched.first + matched.count) as usize)?;
        let framed = frame_pieces(block, pieces);
        // A frame of the whole block is the block itself and costs nothing.
        let gathered_bytes = if matched.count == block.messages { 0 } else { framed.len() };
        matched.framed = Some(framed.clone());
        self.gathered_bytes += gathered_bytes;
        Some(Wanted { framed, gathered_bytes })
    }
}

/// Every message of a block.
pub(crate) fn all_pieces(block: &Block) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(block.messages as usize);
    let mut start = PREFIX_LEN;
    for (span, _) in broky_proto::wire::stored_messages(block.encoded()).flatten() {
        let end = PREFIX_LEN + (span.start + span.len) as usize;
        #[expect(clippy::cast_possible_truncation, reason = "positions inside a block")]
        pieces.push(Piece { start: start as u32, len: (end - start) as u32 });
        start = end;
    }
    pieces
}

/// A framed delivery of these messages of a block: the block's own bytes when that is all of them.
pub(crate) fn frame_pieces(block: &Block, pieces: &[Piece]) -> Bytes {
    if pieces.len() == block.messages as usize {
        return block.framed.clone();
    }
    let len = pieces.iter().map(|piece| piece.len as usize).sum();
    let mut out = BytesMut::with_capacity(PREFIX_LEN + len);
    out.put_slice(&prefix(len));
    for piece in pieces {
        let start = piece.start as usize;
        out.put_slice(block.framed.get(start..start + piece.len as usize).unwrap_or_default());
    }
    out.freeze()
}

/// Matches blocks; keeps its buffers between them.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    /// (interest, number of the message) in message order.
    hits: Vec<(InterestId, u32)>,
    found: Vec<InterestId>,
}

impl Matcher {
    pub(crate) fn match_block(&mut self, interests: &Interests, block: &Block, entries: &[Entry]) -> Matches {
        self.hits.clear();
        if interests.has_indexed() || (block.has_system && !interests.match_all.is_empty()) {
            self.match_entries(interests, block, entries);
        }
        let mut matches = self.collect(entries);
        if !block.has_system {
            let whole = interests.match_all.iter().map(|interest| Matched {
                interest: *interest,
                first: 0,
                count: block.messages,
                framed: Some(block.framed.clone()),
            });
            matches.matched.extend(whole);
        }
        matches.matched.sort_unstable_by_key(|matched| matched.interest);
        matches
    }

    fn match_entries(&mut self, interests: &Interests, block: &Block, entries: &[Entry]) {
        let mut previous: &[u8] = &[];
        for (number, entry) in (0_u32..).zip(entries) {
            let start = entry.key_start as usize;
            let key = block.framed.get(start..start + entry.key_len as usize).unwrap_or_default();
            if number == 0 || key != previous {
                previous = key;
                self.found.clear();
                if interests.has_indexed() {
                    interests.index.matches(key, &mut self.found);
                }
                if block.has_system && !crate::pattern::is_system_key(key) {
                    self.found.extend_from_slice(&interests.match_all);
                }
            }
            for interest in &self.found {
                if wants_partition(interests, *interest, block, entry) {
                    self.hits.push((*interest, number));
                }
            }
        }
    }

    /// Turns the hits, which are in message order, into runs per interest.
    fn collect(&mut self, entries: &[Entry]) -> Matches {
        let mut matches = Matches::default();
        if self.hits.is_empty() {
            return matches;
        }
        self.hits.sort_unstable();
        matches.pieces.reserve_exact(self.hits.len());
        for (interest, number) in &self.hits {
            let Some(entry) = entries.get(*number as usize) else { continue };
            match matches.matched.last_mut() {
                Some(last) if last.interest == *interest => last.count += 1,
                _ => {
                    #[expect(clippy::cast_possible_truncation, reason = "bounded by the hits of one block")]
                    let first = matches.pieces.len() as u32;
                    matches.matched.push(Matched { interest: *interest, first, count: 1, framed: None });
                }
            }
            matches.pieces.push(Piece { start: entry.start, len: entry.len });
        }
        matches
    }
}

/// The narrowing by key_partition: by token first, which is at hand, then by the bytes.
fn wants_partition(interests: &Interests, interest: InterestId, block: &Block, entry: &Entry) -> bool {
    let Some(interest) = interests.get(interest) else { return false };
    if !interest.is_narrowed() {
        return true;
    }
    if !interest.may_want_token(entry.token) {
        return false;
    }
    let start = entry.start as usize;
    let stored = block.framed.get(start..start + entry.len as usize).unwrap_or_default();
    let Some(Ok((_, message))) = broky_proto::wire::stored_messages(stored).next() else { return false };
    Fields::scan(message).is_ok_and(|fields| interest.wants_partition(effective_partition(message, &fields)))
}
