//! What other nodes relay to this one: the vbuckets that clients here subscribe to and of which this node holds no copy
//! in sync.
//!
//! A shard tells every leader of such vbuckets of its own what all clients of the node ask for, and watches the
//! vbuckets there. What comes goes into the shard's feed, beside the logs, and from there to the node's readers. Which
//! vbucket is watched where is read off the map and the interests, again and again; a vbucket that changes its leader
//! is watched at the next one from where it is here. So readers notice nothing, whoever dies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use broky_delivery::{Block, History, InterestKey, Kind, Run, Want, WantId};
use broky_proto::data_v1::{
    self, RelayedBlock, Spans, Unwant, Unwatch, Watch, WatchVBucket, Watching, to_owner, to_relay,
};
use broky_proto::id::{Epoch, Lineage, Member, Offset, VBucketCount, VBucketId};
use broky_proto::relay::{Span, encode_to_owner};
use broky_proto::replicate::{PeerError, vbucket as vbucket_of};
use broky_proto::time::Timestamp;
use broky_proto::v1::Gap;
use rustc_hash::FxHashMap;

use crate::block::{Part, entries_of, part_of};
use crate::config::ShardId;
use crate::memory::cost;
use crate::outbox::{Mirror, MirrorBlock, Outbox, UpstreamId};
use crate::shard::Shard;

/// After this long without anybody who relays a vbucket, its readers are sent elsewhere.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a vbucket is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    None,
    /// Asked for under this name, and not answered.
    Asked(UpstreamId, u64),
    Attached(UpstreamId, u64),
}

impl Source {
    fn link(self) -> Option<UpstreamId> {
        match self {
            Self::None => None,
            Self::Asked(link, _) | Self::Attached(link, _) => Some(link),
        }
    }

    /// Whether an answer of a link is to this and no earlier watch.
    fn is(self, id: UpstreamId, watch: u64) -> bool {
        match self {
            Self::None => false,
            Self::Asked(link, name) | Self::Attached(link, name) => (link, name) == (id, watch),
        }
    }

    fn is_attached_to(self, id: UpstreamId) -> bool {
        matches!(self, Self::Attached(link, _) if link == id)
    }
}

/// What some clients of this node ask for.
#[derive(Debug)]
struct Asked {
    key: InterestKey,
    holders: Vec<(ShardId, WantId)>,
    /// Links whose streams may not hold it yet.
    pending: BTreeSet<UpstreamId>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Upstreams {
    links: BTreeMap<UpstreamId, Member>,
    asked: BTreeMap<u64, Asked>,
    names: FxHashMap<InterestKey, u64>,
    next_name: u64,
    /// How many interests can want something of every vbucket.
    wide: usize,
    /// Per vbucket: how many others can want something of it.
    narrow: Vec<u32>,
    sources: Vec<Source>,
    /// Per vbucket: since when it is wanted and nobody relays it.
    missing_since: Vec<Option<Timestamp>>,
}

impl Upstreams {
    pub(crate) fn new(vbuckets: VBucketCount) -> Self {
        Self {
            links: BTreeMap::new(),
            asked: BTreeMap::new(),
            names: FxHashMap::default(),
            next_name: 0,
            wide: 0,
            narrow: vec![0; vbuckets.len()],
            sources: vec![Source::None; vbuckets.len()],
            missing_since: vec![None; vbuckets.len()],
        }
    }

    /// Whether anybody subscribes at this node.
    pub(crate) fn is_read(&self) -> bool {
        !self.asked.is_empty()
    }

    fn wants(&self, vbucket: VBucketId) -> bool {
        self.wide > 0 || self.narrow.get(usize::from(vbucket.0)).is_some_and(|count| *count > 0)
    }

    fn count(&mut self, key: &InterestKey, vbuckets: VBucketCount, is_more: bool) {
        let step = |count: &mut u32| *count = if is_more { *count + 1 } else { *count - 1 };
        match key.vbuckets(vbuckets) {
            None => self.wide = if is_more { self.wide + 1 } else { self.wide - 1 },
            Some(of) => of.iter().filter_map(|it| self.narrow.get_mut(usize::from(it.0)).map(step)).for_each(drop),
        }
    }

    fn source(&self, vbucket: VBucketId) -> Source {
        self.sources.get(usize::from(vbucket.0)).copied().unwrap_or(Source::None)
    }

    fn set_source(&mut self, vbucket: VBucketId, source: Source) {
        if let Some(known) = self.sources.get_mut(usize::from(vbucket.0)) {
            *known = source;
        }
    }
}

fn want(name: u64, key: &InterestKey) -> to_owner::Frame {
    let (patterns, key_partitions) = key.to_parts();
    to_owner::Frame::Want(data_v1::Want { interest: name, patterns, key_partitions })
}

impl Shard {
    /// Processes that are to relay something to this shard, ascending.
    #[must_use]
    pub fn wanted_upstreams(&self) -> Vec<Member> {
        let mut members: Vec<Member> = self.owned().filter_map(|vbucket| self.wanted_source(vbucket)).collect();
        members.sort_unstable();
        members.dedup();
        members.retain(|member| self.members.contains(member));
        members
    }

    fn owned(&self) -> impl Iterator<Item = VBucketId> + use<'_> {
        self.config.vbuckets.iter().filter(|vbucket| self.config.owns(*vbucket))
    }

    /// Who is to relay a vbucket; `None` where nobody has to, or can.
    fn wanted_source(&self, vbucket: VBucketId) -> Option<Member> {
        let place = self.places.get(usize::from(vbucket.0))?;
        if !self.upstreams.wants(vbucket) || self.is_in_sync(vbucket) {
            return None;
        }
        place.leader.filter(|leader| *leader != self.config.me)
    }

    /// Takes what readers of one of this node's shards have come to ask for, or ask for no more.
    pub(crate) fn handle_wants(&mut self, from: ShardId, wants: Vec<Want>, out: &mut Outbox) {
        let were_here = self.upstreams.is_read();
        for want in wants {
            match want {
                Want::Begun(id, key) => self.begin_want(from, id, key, out),
                Want::Ended(id) => self.end_want(from, id, out),
            }
        }
        self.note_readers(were_here, out);
        self.rewatch(out);
    }

    fn begin_want(&mut self, from: ShardId, id: WantId, key: InterestKey, out: &mut Outbox) {
        let vbuckets = self.config.vbuckets;
        let upstreams = &mut self.upstreams;
        let name = match upstreams.names.get(&key) {
            Some(name) => *name,
            None => {
                upstreams.next_name += 1;
                let name = upstreams.next_name;
                upstreams.count(&key, vbuckets, true);
                for link in upstreams.links.keys() {
                    out.to_owners.push((*link, encode_to_owner(want(name, &key)).into()));
                }
                let pending = upstreams.links.keys().copied().collect();
                upstreams.names.insert(key.clone(), name);
                upstreams.asked.insert(name, Asked { key, holders: Vec::new(), pending });
                name
            }
        };
        let Some(asked) = upstreams.asked.get_mut(&name) else { return };
        asked.holders.push((from, id));
        if asked.pending.is_empty() {
            self.cover(&[(from, id)], out);
        }
    }

    fn end_want(&mut self, from: ShardId, id: WantId, out: &mut Outbox) {
        let upstreams = &mut self.upstreams;
        let held = upstreams.asked.iter_mut().find(|(_, asked)| asked.holders.contains(&(from, id)));
        let Some((name, asked)) = held.map(|(name, asked)| (*name, asked)) else { return };
        asked.holders.retain(|holder| *holder != (from, id));
        if !asked.holders.is_empty() {
            return;
        }
        let Some(asked) = upstreams.asked.remove(&name) else { return };
        upstreams.names.remove(&asked.key);
        upstreams.count(&asked.key, self.config.vbuckets, false);
        for link in upstreams.links.keys() {
            let frame = to_owner::Frame::Unwant(Unwant { interest: name });
            out.to_owners.push((*link, encode_to_owner(frame).into()));
        }
    }

    /// Tells readers that all of what they ask for is relayed from here on.
    fn cover(&mut self, holders: &[(ShardId, WantId)], out: &mut Outbox) {
        for (shard, want) in holders {
            if *shard == self.config.shard {
                self.delivery.set_covered(*want, self.feed(), &mut out.wake);
            } else {
                self.mirror(Mirror::Covered { shard: *shard, want: *want }, out);
            }
        }
    }

    /// Takes a link to an owner that has just been opened.
    pub fn handle_upstream_open(&mut self, id: UpstreamId, member: Member, out: &mut Outbox) {
        self.upstreams.links.insert(id, member);
        for (name, asked) in &self.upstreams.asked {
            out.to_owners.push((id, encode_to_owner(want(*name, &asked.key)).into()));
        }
        self.rewatch(out);
    }

    /// Takes the end of a link to an owner.
    pub fn handle_upstream_closed(&mut self, id: UpstreamId, out: &mut Outbox) {
        if self.upstreams.links.remove(&id).is_none() {
            return;
        }
        for vbucket in self.owned().collect::<Vec<_>>() {
            if self.upstreams.source(vbucket).link() == Some(id) {
                self.leave_source(vbucket, out);
            }
        }
        // What it would have sent before it had heard of an interest is sent by whoever is asked next, who has.
        for name in self.upstreams.asked.keys().copied().collect::<Vec<_>>() {
            self.note_answered(name, id, out);
        }
        self.rewatch(out);
    }

    fn note_answered(&mut self, name: u64, id: UpstreamId, out: &mut Outbox) {
        let Some(asked) = self.upstreams.asked.get_mut(&name) else { return };
        if asked.pending.remove(&id) && asked.pending.is_empty() {
            let holders = asked.holders.clone();
            self.cover(&holders, out);
        }
    }

    fn leave_source(&mut self, vbucket: VBucketId, out: &mut Outbox) {
        if matches!(self.upstreams.source(vbucket), Source::Attached(..)) {
            self.delivery.pause_relayed(vbucket);
            self.mirror(Mirror::PauseRelayed { vbucket }, out);
        }
        self.upstreams.set_source(vbucket, Source::None);
    }

    /// Watches each vbucket where it is to be watched.
    pub(crate) fn rewatch(&mut self, out: &mut Outbox) {
        if self.upstreams.asked.is_empty() && self.upstreams.links.is_empty() {
            return;
        }
        let links: BTreeMap<Member, UpstreamId> = self.upstreams.links.iter().map(|(id, it)| (*it, *id)).collect();
        let mut watch: BTreeMap<UpstreamId, Watch> = BTreeMap::new();
        let mut unwatch: BTreeMap<UpstreamId, Unwatch> = BTreeMap::new();
        for vbucket in self.owned().collect::<Vec<_>>() {
            let wanted = self.wanted_source(vbucket).and_then(|member| links.get(&member).copied());
            let present = self.upstreams.source(vbucket).link();
            let number = u32::from(vbucket.0);
            if present != wanted {
                self.leave_source(vbucket, out);
                if let Some(present) = present.filter(|link| self.upstreams.links.contains_key(link)) {
                    unwatch.entry(present).or_default().vbuckets.push(number);
                }
                if let Some(link) = wanted {
                    self.upstreams.next_name += 1;
                    let name = self.upstreams.next_name;
                    self.upstreams.set_source(vbucket, Source::Asked(link, name));
                    let (lineage, _, offset) = self.delivery.seen(vbucket);
                    // Planted: another source goes on from where it is, not from where this node is.
                    let is_forgotten = cfg!(feature = "bug-relay-without-position");
                    let has_position = self.delivery.is_relayed(vbucket) && !is_forgotten;
                    let (lineage, offset) = (lineage.0, offset.0);
                    let entry = WatchVBucket { vbucket: number, watch: name, has_position, lineage, offset };
                    watch.entry(link).or_default().vbuckets.push(entry);
                }
            }
            self.note_missing(vbucket, out);
        }
        for (link, frame) in unwatch {
            out.to_owners.push((link, encode_to_owner(to_owner::Frame::Unwatch(frame)).into()));
        }
        for (link, frame) in watch {
            out.to_owners.push((link, encode_to_owner(to_owner::Frame::Watch(frame)).into()));
        }
    }

    /// Notes since when a vbucket that is wanted is not to be had, and that one is not wanted any more.
    fn note_missing(&mut self, vbucket: VBucketId, out: &mut Outbox) {
        let is_wanted = self.upstreams.wants(vbucket);
        if !is_wanted && self.delivery.is_relayed(vbucket) {
            self.delivery.end_relayed(vbucket);
            self.mirror(Mirror::EndRelayed { vbucket }, out);
        }
        let is_missing = is_wanted && !self.delivery.is_ready(vbucket);
        let now = self.now;
        let Some(since) = self.upstreams.missing_since.get_mut(usize::from(vbucket.0)) else { return };
        if !is_missing {
            *since = None;
            return;
        }
        if now.since(*since.get_or_insert(now)) >= PATIENCE {
            *since = Some(now);
            self.delivery.end_readers_of(vbucket, &mut out.wake);
            self.mirror(Mirror::EndReaders { vbucket }, out);
        }
    }

    /// Takes a frame from an owner.
    ///
    /// # Errors
    /// The owner breaks the protocol: close the link.
    pub fn handle_to_relay(
        &mut self,
        id: UpstreamId,
        frame: to_relay::Frame,
        out: &mut Outbox,
    ) -> Result<(), PeerError> {
        let vbuckets = self.config.vbuckets;
        match frame {
            to_relay::Frame::Block(block) => self.take_relayed(id, &block, out)?,
            to_relay::Frame::Wanted(wanted) => {
                self.pass(id, &wanted.passed.unwrap_or_default(), out)?;
                self.note_answered(wanted.interest, id, out);
            }
            to_relay::Frame::Watching(watching) => self.take_watching(id, watching, out)?,
            to_relay::Frame::Left(left) => {
                let vbucket = vbucket_of(left.vbucket, vbuckets)?;
                // The next tick asks anew, or a newer map says where.
                if self.upstreams.source(vbucket).is(id, left.watch) {
                    self.leave_source(vbucket, out);
                }
            }
            to_relay::Frame::Passed(passed) => self.pass(id, &passed.spans.unwrap_or_default(), out)?,
        }
        Ok(())
    }

    fn take_watching(&mut self, id: UpstreamId, watching: Watching, out: &mut Outbox) -> Result<(), PeerError> {
        let vbucket = vbucket_of(watching.vbucket, self.config.vbuckets)?;
        if !self.upstreams.source(vbucket).is(id, watching.watch) {
            return Ok(());
        }
        self.upstreams.set_source(vbucket, Source::Attached(id, watching.watch));
        let gap = |it: data_v1::RelayedGap| Gap {
            vbucket: watching.vbucket,
            lineage: it.lineage,
            from: it.from,
            to: it.to,
            reason: it.reason,
        };
        let gaps: Vec<Gap> = watching.gaps.into_iter().map(gap).collect();
        let (lineage, epoch) = (Lineage(watching.lineage), Epoch(watching.epoch));
        let history = History { lineage, epoch, base: Offset(watching.base) };
        let next = Offset(watching.next);
        self.mirror(Mirror::BeginRelayed { vbucket, history, next, gaps: gaps.clone() }, out);
        self.delivery.begin_relayed(vbucket, history, next, gaps, &mut out.wake);
        Ok(())
    }

    /// The spans of a link's frame that are of vbuckets it is watched for.
    fn attached_spans(&self, id: UpstreamId, spans: &Spans) -> Result<(Vec<Span>, bool), PeerError> {
        let mut spans = spans.all(self.config.vbuckets)?;
        let all = spans.len();
        spans.retain(|span| self.upstreams.source(span.vbucket).is_attached_to(id));
        for Span { vbucket, first, .. } in &spans {
            let (_, _, end) = self.delivery.seen(*vbucket);
            if *first != end {
                return Err(PeerError::Malformed(format!("vbucket {vbucket} goes on at {first}, not at {end}")));
            }
        }
        let is_all = spans.len() == all;
        Ok((spans, is_all))
    }

    fn pass(&mut self, id: UpstreamId, spans: &Spans, out: &mut Outbox) -> Result<(), PeerError> {
        for Span { vbucket, end, .. } in self.attached_spans(id, spans)?.0 {
            self.delivery.pass_relayed_to(vbucket, end);
            self.mirror(Mirror::PassRelayed { vbucket, next: end }, out);
        }
        Ok(())
    }

    fn take_relayed(&mut self, id: UpstreamId, block: &RelayedBlock, out: &mut Outbox) -> Result<(), PeerError> {
        block.check()?;
        let (spans, is_all) = self.attached_spans(id, block.spans.as_ref().unwrap_or(&Spans::default()))?;
        if spans.is_empty() {
            return Ok(());
        }
        let mut runs = Vec::with_capacity(spans.len());
        for Span { vbucket, first, end } in &spans {
            // The offsets of a span need not all be messages; only far apart do they not fit a run.
            let first = Offset(first.0.max(end.0.saturating_sub(u64::from(u32::MAX))));
            #[expect(clippy::cast_possible_truncation, reason = "just made to fit")]
            let count = (end.0 - first.0) as u32;
            self.delivery.pass_relayed_to(*vbucket, first);
            runs.push(Run { vbucket: *vbucket, count, first });
        }
        let (arena, framed) = self.keep_copy(&block.messages, out);
        let whole = Block { framed, runs: runs.into(), messages: block.count, has_system: block.has_system, arena };
        let taken = if is_all {
            Some(whole)
        } else {
            let part = part_of(&whole, |vbucket, _| spans.iter().any(|span| span.vbucket == vbucket));
            self.arenas.note_gone(arena);
            part.map(|Part { block, .. }| Block { runs: whole.runs, ..block })
        };
        match taken {
            Some(block) => self.deliver_relayed(block, out),
            None => {
                for Span { vbucket, end, .. } in spans {
                    self.delivery.pass_relayed_to(vbucket, end);
                    self.mirror(Mirror::PassRelayed { vbucket, next: end }, out);
                }
            }
        }
        self.enforce_budget(out);
        Ok(())
    }

    /// Gives readers messages beside the logs.
    pub(crate) fn deliver_relayed(&mut self, block: Block, out: &mut Outbox) {
        let feed = self.feed();
        self.overhead_bytes += cost(&block);
        self.stats.relayed_messages += u64::from(block.messages);
        self.arenas.note_delivered(block.arena, self.delivery.tail(feed));
        let entries = if self.delivery.needs_entries(&block) { entries_of(&block) } else { Vec::new() };
        if self.config.shards > 1 {
            let mirrored =
                MirrorBlock { kind: Kind::Relayed, block: block.clone(), entries: entries.as_slice().into() };
            out.mirror.push(Mirror::Block(mirrored));
        }
        self.delivery.handle_block(feed, Kind::Relayed, block, &entries, &mut out.wake);
    }
}
