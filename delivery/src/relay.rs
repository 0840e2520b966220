//! Other nodes that read here what they do not hold: each as one reader, with the merged interest of all its clients.
//!
//! A relay follows the feeds as a subscription does, and pulls. Unlike one, it knows for each vbucket how far it has
//! come, so it can go back for a vbucket that it begins to watch in the middle without getting anything twice. What it
//! gets of a block is every message that any of its interests wants, once; where that is all of the block, the block's
//! own bytes.

use std::collections::VecDeque;

use broky_proto::error::Refusal;
use broky_proto::id::{Lineage, Offset, VBucketId};
use broky_proto::relay::Span;
use broky_proto::v1;
use broky_proto::wire::{Fields, stored_messages};
use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;

use crate::delivery::Delivery;
use crate::feed::{Block, BlockSeq, FeedId};
use crate::interest::{InterestId, InterestKey};
use crate::matching::{Found, Matches, Piece, all_pieces, frame_pieces};
use crate::view::{History, Kind};

/// Another node's relay, reading here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelayId(usize);

/// What a relay gets next.
#[derive(Clone, Debug)]
pub enum Relayed {
    /// Messages, framed as a delivery, and the offsets they stand for: nothing else in there is asked for.
    Block {
        /// A gRPC prefix and an encoded `Delivery` of messages only.
        framed: Bytes,
        /// How many messages.
        messages: u32,
        /// Whether a key among them begins with `!system`.
        has_system: bool,
        /// What they stand for.
        spans: Vec<Span>,
    },
    /// From here on it gets what the interest with this name wants. Nothing was asked for in these offsets.
    Wanted(u64, Vec<Span>),
    /// Nothing was asked for in these offsets.
    Passed(Vec<Span>),
    /// From here on it gets a vbucket.
    Watching {
        /// The vbucket.
        vbucket: VBucketId,
        /// The relay's name for its watch.
        watch: u64,
        /// Its history.
        history: History,
        /// The first offset.
        next: Offset,
        /// What it asked for and cannot have.
        gaps: Vec<v1::Gap>,
    },
    /// Nothing more of a vbucket comes from here until it is watched again.
    Left(VBucketId, u64),
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    watch: u64,
    /// The first offset it has not come to.
    next: Offset,
    /// The first offset it has not been told of.
    told: Offset,
}

#[derive(Debug)]
struct Relay {
    interests: FxHashMap<u64, InterestId>,
    asked: FxHashSet<InterestId>,
    watched: Vec<Option<Watched>>,
    /// Per feed: the block to read next.
    next: Vec<BlockSeq>,
    control: VecDeque<Relayed>,
    is_waiting: bool,
}

/// All relays that read here.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    table: Slab<Relay>,
    /// Waited for something, and something has come.
    woken: Vec<RelayId>,
}

impl Relays {
    /// Notes a committed block; relays that may want some of it are woken.
    pub(crate) fn note_block(&mut self, block: &Block, matches: &Matches) {
        for (at, relay) in &mut self.table {
            let watches = |vbucket: VBucketId| relay.watched.get(usize::from(vbucket.0)).is_some_and(Option::is_some);
            if relay.is_waiting
                && block.runs.iter().any(|run| watches(run.vbucket))
                && matches.interests().any(|interest| relay.asked.contains(&interest))
            {
                relay.is_waiting = false;
                self.woken.push(RelayId(at));
            }
        }
    }

    /// Tells whoever watches a vbucket that it is not to be had here any more.
    pub(crate) fn leave(&mut self, vbucket: VBucketId) {
        for (at, relay) in &mut self.table {
            if let Some(watched) = relay.watched.get_mut(usize::from(vbucket.0)).and_then(Option::take) {
                relay.control.push_back(Relayed::Left(vbucket, watched.watch));
                relay.is_waiting = false;
                self.woken.push(RelayId(at));
            }
        }
    }

    fn wake(&mut self, RelayId(at): RelayId) {
        if let Some(relay) = self.table.get_mut(at).filter(|relay| relay.is_waiting) {
            relay.is_waiting = false;
            self.woken.push(RelayId(at));
        }
    }
}

/// Bytes of blocks that one call looks through before others get their turn: 1 MiB.
const SCAN_BYTES_MAX: usize = 1 << 20;

impl Delivery {
    /// Takes another node as a reader.
    pub fn open_relay(&mut self) -> RelayId {
        RelayId(self.relays.table.insert(Relay {
            interests: FxHashMap::default(),
            asked: FxHashSet::default(),
            watched: vec![None; self.views.len()],
            next: self.feeds.iter().map(|feed| feed.tail()).collect(),
            control: VecDeque::new(),
            is_waiting: false,
        }))
    }

    /// Ends a relay.
    pub fn close_relay(&mut self, RelayId(at): RelayId) {
        let Some(relay) = self.relays.table.try_remove(at) else { return };
        relay.asked.into_iter().for_each(|interest| self.interests.release(interest));
    }

    /// Relays that have something to read, since the last call.
    pub fn take_woken_relays(&mut self) -> Vec<RelayId> {
        std::mem::take(&mut self.relays.woken)
    }

    /// Other nodes that read here.
    #[must_use]
    pub fn relays(&self) -> usize {
        self.relays.table.len()
    }

    /// Adds to what a relay asks for, under a name of its own.
    pub fn add_relay_interest(&mut self, id: RelayId, name: u64, key: InterestKey) {
        self.remove_relay_interest(id, name);
        let interest = self.acquire(key);
        let Some(relay) = self.relays.table.get_mut(id.0) else { return self.interests.release(interest) };
        relay.interests.insert(name, interest);
        if !relay.asked.insert(interest) {
            // Two names for the same.
            self.interests.release(interest);
        }
        let passed = relay.pass();
        relay.control.push_back(Relayed::Wanted(name, passed));
        self.relays.wake(id);
    }

    /// Takes from what a relay asks for.
    pub fn remove_relay_interest(&mut self, id: RelayId, name: u64) {
        let Some(relay) = self.relays.table.get_mut(id.0) else { return };
        let Some(interest) = relay.interests.remove(&name) else { return };
        if !relay.interests.values().any(|other| *other == interest) && relay.asked.remove(&interest) {
            self.interests.release(interest);
        }
    }

    /// Begins to give a relay a vbucket, under a name of its own: from a position on, or, without one, from the end.
    /// Where it cannot be had here, the relay is told so.
    ///
    /// # Errors
    /// The vbucket does not exist.
    pub fn watch(
        &mut self,
        id: RelayId,
        vbucket: VBucketId,
        watch: u64,
        from: Option<(Lineage, Offset)>,
    ) -> Result<(), Refusal> {
        let (_, view) = self.view_of(u32::from(vbucket.0))?;
        let (epoch, base, end) = (view.epoch, view.seen().base, view.seen().end);
        let history = History { lineage: view.seen().lineage, epoch, base };
        let is_here = view.is_ready && !view.is_relayed();
        let mut gaps = Vec::new();
        let number = u32::from(vbucket.0);
        let next = match from.filter(|_| is_here) {
            Some((lineage, offset)) => {
                let cursor = v1::Cursor { vbucket: number, lineage: lineage.0, epoch: epoch.0, offset: offset.0 };
                self.resume_cursor(vbucket, &cursor, &mut gaps).ok()
            }
            None => Some(end),
        };
        // Whoever knows a newer lineage than this node finds it elsewhere.
        let next = next.filter(|_| is_here);
        self.count_gaps(&gaps);
        let feed = self.feed_of(vbucket);
        let Some(relay) = self.relays.table.get_mut(id.0) else { return Ok(()) };
        let Some(next) = next else {
            relay.control.push_back(Relayed::Left(vbucket, watch));
            self.relays.wake(id);
            return Ok(());
        };
        let first = self.views.get(usize::from(vbucket.0)).and_then(|view| view.log.block_of(next));
        if let Some(watched) = relay.watched.get_mut(usize::from(vbucket.0)) {
            *watched = Some(Watched { watch, next, told: next });
        }
        if let (Some(first), Some(at)) = (first, relay.next.get_mut(usize::from(feed.0))) {
            *at = (*at).min(first);
        }
        relay.control.push_back(Relayed::Watching { vbucket, watch, history, next, gaps });
        self.relays.wake(id);
        Ok(())
    }

    /// Gives a relay nothing more of a vbucket.
    pub fn unwatch(&mut self, id: RelayId, vbucket: VBucketId) {
        let relay = self.relays.table.get_mut(id.0);
        if let Some(watched) = relay.and_then(|relay| relay.watched.get_mut(usize::from(vbucket.0))) {
            *watched = None;
        }
    }

    /// Has every relay told how far it has come, where nothing it asked for has come for a while.
    pub fn pass_relays(&mut self) {
        for at in self.relays.table.iter().map(|(at, _)| at).collect::<Vec<_>>() {
            let Some(relay) = self.relays.table.get_mut(at) else { continue };
            let passed = relay.pass();
            if !passed.is_empty() {
                relay.control.push_back(Relayed::Passed(passed));
                self.relays.wake(RelayId(at));
            }
        }
    }

    /// What a relay gets next; `None` when it will be woken.
    pub fn poll_relay(&mut self, id: RelayId) -> Option<Relayed> {
        if let Some(first) = self.relays.table.get_mut(id.0)?.control.pop_front() {
            return Some(first);
        }
        for feed in self.feed_ids() {
            if let Some(next) = self.relay_on(id, feed) {
                return Some(next);
            }
        }
        if let Some(relay) = self.relays.table.get_mut(id.0) {
            relay.is_waiting = true;
        }
        None
    }

    fn relay_on(&mut self, id: RelayId, feed: FeedId) -> Option<Relayed> {
        self.overtake_relay(id, feed);
        let mut looked = 0;
        loop {
            let relay = self.relays.table.get_mut(id.0)?;
            if let Some(control) = relay.control.pop_front() {
                return Some(control);
            }
            let seq = *relay.next.get(usize::from(feed.0))?;
            let slot = self.feeds.get(usize::from(feed.0))?.slot(seq)?;
            *relay.next.get_mut(usize::from(feed.0))? = seq.next();
            if slot.kind == Kind::Relayed {
                continue;
            }
            let Some(wanted) = relay.wanted_runs(&slot.block) else { continue };
            looked += slot.block.framed.len();
            let found = self.found_for(id, feed, seq, wanted);
            let relay = self.relays.table.get_mut(id.0)?;
            let block = &self.feeds.get(usize::from(feed.0))?.slot(seq)?.block;
            let spans = relay.come_to(block, found.is_some());
            if let Some(found) = found {
                let (framed, messages) = found.framed(block);
                self.stats.relayed_messages += u64::from(messages);
                self.stats.relayed_bytes += framed.len() as u64;
                return Some(Relayed::Block { framed, messages, has_system: block.has_system, spans });
            }
            if looked > SCAN_BYTES_MAX {
                // Others get their turn, and the relay hears that it gets on.
                return Some(Relayed::Passed(relay.pass()));
            }
        }
    }

    /// Tells a relay what was evicted before it came.
    fn overtake_relay(&mut self, id: RelayId, feed: FeedId) {
        let oldest = self.oldest(feed);
        let feeds = self.config.feeds;
        let Some(relay) = self.relays.table.get_mut(id.0) else { return };
        let Some(next) = relay.next.get_mut(usize::from(feed.0)).filter(|next| **next < oldest) else { return };
        *next = oldest;
        let mut gone = 0;
        for (vbucket, view) in self.config.vbuckets.iter().zip(&self.views) {
            let at = usize::from(vbucket.0);
            let Some(watched) = relay.watched.get_mut(at).and_then(Option::as_mut) else { continue };
            if !crate::view::is_fed_by(vbucket, feed.0, feeds) || watched.next >= view.log.start {
                continue;
            }
            let gap = v1::Gap {
                vbucket: u32::from(vbucket.0),
                lineage: view.log.lineage.0,
                from: watched.told.0,
                to: view.log.start.0,
                reason: v1::GapReason::Slow.into(),
            };
            gone += 1;
            let watch = watched.watch;
            *watched = Watched { watch, next: view.log.start, told: view.log.start };
            relay.control.push_back(Relayed::Watching {
                vbucket,
                watch,
                history: History { lineage: view.log.lineage, epoch: view.epoch, base: view.log.base },
                next: view.log.start,
                gaps: vec![gap],
            });
        }
        self.stats.gaps += gone;
    }

    /// The messages of a block that a relay gets.
    fn found_for(&self, id: RelayId, feed: FeedId, seq: BlockSeq, wanted: Wanted) -> Option<Found> {
        let relay = self.relays.table.get(id.0)?;
        let source = self.feeds.get(usize::from(feed.0))?;
        let slot = source.slot(seq)?;
        let since = |interest: &InterestId| {
            let known = self.interests.get(*interest);
            known.and_then(|known| known.since.get(usize::from(feed.0)).copied()).unwrap_or_default()
        };
        let is_matched = slot.kind == Kind::Log
            && source.remembers_matches(seq)
            && relay.asked.iter().all(|asked| since(asked) <= seq);
        let matches = slot.matches.as_ref().filter(|_| is_matched);
        let found = match matches {
            Some(matches) => matches.union(|interest| relay.asked.contains(&interest), &slot.block),
            None => self.matching_pieces(relay, &slot.block),
        };
        if wanted == Wanted::All {
            return found;
        }
        let mut pieces = match found? {
            Found::All => all_pieces(&slot.block),
            Found::Some(pieces) => pieces,
        };
        pieces.retain(|piece| {
            let bytes = slot.block.framed.get(piece.start as usize..(piece.start + piece.len) as usize);
            let message = stored_messages(bytes.unwrap_or_default()).next().and_then(Result::ok);
            let fields = message.and_then(|(_, message)| Fields::scan(message).ok());
            fields.is_some_and(|fields| relay.wants(&fields, &slot.block))
        });
        (!pieces.is_empty()).then_some(Found::Some(pieces))
    }

    /// The messages of a block that any of a relay's interests wants, found by looking at each.
    fn matching_pieces(&self, relay: &Relay, block: &Block) -> Option<Found> {
        let mut asked = relay.asked.iter().filter_map(|interest| self.interests.get(*interest));
        if !block.has_system && asked.any(crate::interest::Interest::is_match_all) {
            return Some(Found::All);
        }
        let (mut pieces, mut found) = (Vec::new(), Vec::new());
        let mut start = broky_proto::frame::PREFIX_LEN;
        for (span, message) in stored_messages(block.encoded()).flatten() {
            let end = broky_proto::frame::PREFIX_LEN + (span.start + span.len) as usize;
            let begin = std::mem::replace(&mut start, end);
            let Ok(fields) = Fields::scan(message) else { continue };
            found.clear();
            self.interests.find(fields.key.of(message), &mut found);
            let is_wanted = found.iter().any(|interest| {
                relay.asked.contains(interest)
                    && self.interests.get(*interest).is_some_and(|it| it.wants_partition_of(message, &fields))
            });
            if is_wanted {
                #[expect(clippy::cast_possible_truncation, reason = "positions inside a block")]
                pieces.push(Piece { start: begin as u32, len: (end - begin) as u32 });
            }
        }
        (!pieces.is_empty()).then_some(Found::Some(pieces))
    }
}

impl Found {
    /// What was found, framed, and how many messages it is.
    fn framed(&self, block: &Block) -> (Bytes, u32) {
        match self {
            Self::All => (block.framed.clone(), block.messages),
            #[expect(clippy::cast_possible_truncation, reason = "a block holds fewer than u32::MAX messages")]
            Self::Some(pieces) => (frame_pieces(block, pieces), pieces.len() as u32),
        }
    }
}

/// How much of a block a relay may get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    All,
    Part,
}

impl Relay {
    fn watched(&self, vbucket: VBucketId) -> Option<Watched> {
        self.watched.get(usize::from(vbucket.0)).copied().flatten()
    }

    /// Whether a block goes on where the relay is, for all vbuckets in it or for some. A run that does not is of a log
    /// that was held here before, or was read already.
    fn wanted_runs(&self, block: &Block) -> Option<Wanted> {
        let goes_on = |vbucket, first: Offset, end: Offset| {
            self.watched(vbucket).map(|watched| (first <= watched.next && watched.next < end, first == watched.next))
        };
        let (mut some, mut all) = (false, true);
        for run in block.runs.iter() {
            let (is_wanted, is_whole) = goes_on(run.vbucket, run.first, run.end()).unwrap_or_default();
            some |= is_wanted;
            all &= is_wanted && is_whole;
        }
        some.then_some(if all { Wanted::All } else { Wanted::Part })
    }

    fn wants(&self, fields: &Fields, block: &Block) -> bool {
        let Ok(vbucket) = u16::try_from(fields.vbucket).map(VBucketId) else { return false };
        let Some(watched) = self.watched(vbucket) else { return false };
        let run = block.runs.iter().find(|run| run.vbucket == vbucket);
        run.is_some_and(|run| run.first <= watched.next) && fields.offset >= watched.next.0
    }

    /// Moves behind a block. What it stands for is told if it goes out.
    fn come_to(&mut self, block: &Block, is_told: bool) -> Vec<Span> {
        let mut spans = Vec::new();
        for run in block.runs.iter() {
            let watched = self.watched.get_mut(usize::from(run.vbucket.0)).and_then(Option::as_mut);
            let Some(watched) = watched.filter(|it| run.first <= it.next && it.next < run.end()) else { continue };
            watched.next = run.end();
            if is_told {
                spans.push(Span { vbucket: run.vbucket, first: watched.told, end: watched.next });
                watched.told = watched.next;
            }
        }
        spans
    }

    /// Offsets that the relay has come to and was not told of.
    fn pass(&mut self) -> Vec<Span> {
        let mut spans = Vec::new();
        for (vbucket, watched) in (0..).map(VBucketId).zip(&mut self.watched) {
            let Some(watched) = watched.as_mut().filter(|watched| watched.told < watched.next) else { continue };
            spans.push(Span { vbucket, first: watched.told, end: watched.next });
            watched.told = watched.next;
        }
        spans
    }
}
