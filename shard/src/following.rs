//! The follower's side of replication: taking what leaders send.
//!
//! A frame that does not fit the logs closes the link; then both sides begin anew with comparing them. But where a map
//! that is newer than the leader's has given a vbucket another leader, only that one is *detached*: the leader is told
//! before the frame is acknowledged, so that it does not take this as said of that vbucket, and the rest of the frame
//! is kept. Otherwise every planned change of one leader would hold up all vbuckets that two nodes share.
//!
//! What was taken is acknowledged at the end of the turn, once for all frames. Messages become readable when the leader
//! says that they are committed.

use std::collections::VecDeque;
use std::sync::Arc;

use broky_delivery::{Block, Run};
use broky_proto::data_v1::{
    Ack, Attach, Begin, BeginVBucket, Committed, Detached, Reading, Replicated, Summaries, Summary, Synced,
    to_follower, to_leader,
};
use broky_proto::frame::PREFIX_LEN;
use broky_proto::id::{Epoch, Lineage, MapVersion, Member, Offset, ProducerId, Sequence, VBucketId};
use broky_proto::replicate::{PeerError, ReplicatedOrigin, ReplicatedRun, encode_to_leader, vbucket as vbucket_of};
use broky_proto::time::Timestamp;
use broky_proto::wire::{Fields, stored_messages};
use broky_replication::{AttachError, Attachment, ProducerState, Role, SequenceRun};
use thiserror::Error;

use crate::block::{Part, origins_of, part_of};
use crate::open_block::{Origin, Sealed};
use crate::outbox::{Frame, InboundId, Mirror, Outbox};
use crate::shard::Shard;

/// Why a link from a leader cannot go on. What was taken before stands; the leader opens another one.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum InboundError {
    /// The frame breaks the protocol.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Messages do not fit the log.
    #[error("vbucket {vbucket}: {source}")]
    Accept {
        /// Whose log.
        vbucket: VBucketId,
        /// Why not.
        source: broky_replication::AcceptError,
    },
    /// The log cannot go on where the leader says.
    #[error("vbucket {vbucket}: {source}")]
    Attach {
        /// Whose log.
        vbucket: VBucketId,
        /// Why not.
        source: broky_replication::AttachError,
    },
    /// The messages are others than the runs say.
    #[error("the block's messages are not those announced")]
    Content,
    /// The link is not known, or was closed.
    #[error("the link is closed")]
    Closed,
}

/// One link from a leader.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) leader: Member,
    /// What the leader asked before this node had its version of the map.
    waiting: Option<Attach>,
    /// Blocks taken whose commit is not known.
    blocks: VecDeque<(u64, Arc<[Run]>)>,
    taken: u64,
    acknowledged: u64,
}

impl Shard {
    /// Takes a link that a leader has just opened. An older one of the same node is closed.
    pub fn handle_inbound_open(&mut self, id: InboundId, leader: Member, out: &mut Outbox) {
        let older: Vec<InboundId> =
            self.inbound.iter().filter(|(_, link)| link.leader.node == leader.node).map(|(id, _)| *id).collect();
        for older in older {
            self.inbound.remove(&older);
            out.close_inbound.push((older, "replaced by a newer link".to_owned()));
        }
        let link = Inbound { leader, waiting: None, blocks: VecDeque::new(), taken: 0, acknowledged: 0 };
        self.inbound.insert(id, link);
        if self.upstreams.is_read() {
            out.to_leaders.push((id, reading(true)));
        }
    }

    /// Tells leaders when the first of this node's subscribers has come, or the last has gone.
    pub(crate) fn note_readers(&mut self, were_here: bool, out: &mut Outbox) {
        let is_read = self.upstreams.is_read();
        if is_read != were_here {
            out.to_leaders.extend(self.inbound.keys().map(|id| (*id, reading(is_read))));
        }
    }

    /// Takes the end of a link from a leader.
    pub fn handle_inbound_closed(&mut self, id: InboundId) {
        self.inbound.remove(&id);
    }

    /// Takes a frame from a leader. Acknowledged by the next [`Shard::flush`].
    ///
    /// # Errors
    /// See [`InboundError`]: close the link.
    pub fn handle_to_follower(
        &mut self,
        now: Timestamp,
        id: InboundId,
        frame: to_follower::Frame,
        out: &mut Outbox,
    ) -> Result<(), InboundError> {
        self.now = self.now.max(now);
        let leader = self.inbound.get(&id).ok_or(InboundError::Closed)?.leader;
        let seq = match frame {
            to_follower::Frame::Attach(attach) => {
                self.handle_attach(id, attach, out)?;
                None
            }
            to_follower::Frame::Begin(begin) => Some(self.handle_begin(id, begin, out)?),
            to_follower::Frame::Block(block) => Some(self.handle_block(id, leader, &block, out)?),
            to_follower::Frame::Synced(synced) => Some(self.handle_synced(leader, synced)?),
            to_follower::Frame::Committed(committed) => {
                self.handle_committed(id, leader, &committed)?;
                None
            }
            to_follower::Frame::Ping(ping) => Some(ping.seq),
        };
        if let Some(seq) = seq
            && let Some(link) = self.inbound.get_mut(&id)
        {
            link.taken = link.taken.max(seq);
        }
        self.is_turn_due = true;
        Ok(())
    }

    /// Acknowledges what was taken since the last turn.
    pub(crate) fn acknowledge(&mut self, out: &mut Outbox) {
        for (id, link) in &mut self.inbound {
            if link.taken > link.acknowledged {
                link.acknowledged = link.taken;
                let ack = to_leader::Frame::Ack(Ack { seq: link.taken });
                out.to_leaders.push((*id, encode_to_leader(ack).into()));
            }
        }
    }

    /// Answers what leaders asked before this node had their version of the map.
    pub(crate) fn answer_waiting(&mut self, out: &mut Outbox) {
        let waiting = self.inbound.iter_mut().filter_map(|(id, link)| Some((*id, link.waiting.take()?)));
        for (id, attach) in waiting.collect::<Vec<_>>() {
            // What was malformed would have been refused when it came.
            let _ = self.handle_attach(id, attach, out);
        }
    }

    fn handle_attach(&mut self, id: InboundId, attach: Attach, out: &mut Outbox) -> Result<(), InboundError> {
        if MapVersion(attach.map_version) > self.map_version {
            if let Some(link) = self.inbound.get_mut(&id) {
                link.waiting = Some(attach);
            }
            return Ok(());
        }
        let mut summaries = Vec::with_capacity(attach.vbuckets.len());
        for asked in attach.vbuckets {
            let vbucket = vbucket_of(asked.vbucket, self.config.vbuckets)?;
            summaries.push(self.summary(vbucket, Epoch(asked.epoch)));
        }
        let frame = to_leader::Frame::Summaries(Summaries { summaries });
        out.to_leaders.push((id, encode_to_leader(frame).into()));
        Ok(())
    }

    fn summary(&self, vbucket: VBucketId, epoch: Epoch) -> Summary {
        let asked = Summary { vbucket: u32::from(vbucket.0), epoch: epoch.0, ..Summary::default() };
        let Some(replica) = self.replica(vbucket) else { return Summary { is_refused: true, ..asked } };
        if !matches!(replica.role(), Role::Follower(following) if following.epoch == epoch) {
            return Summary { is_refused: true, ..asked };
        }
        let log = replica.summary();
        Summary {
            lineage: log.lineage.0,
            start: log.start.0,
            end: log.end.0,
            epochs: log.epochs.starts().iter().map(|(epoch, _)| epoch.0).collect(),
            epoch_starts: log.epochs.starts().iter().map(|(_, start)| start.0).collect(),
            ..asked
        }
    }

    fn handle_begin(&mut self, id: InboundId, begin: Begin, out: &mut Outbox) -> Result<u64, InboundError> {
        let mut detached = Detached::default();
        for entry in begin.vbuckets {
            let vbucket = vbucket_of(entry.vbucket, self.config.vbuckets)?;
            if !self.attach(vbucket, &entry, out)? {
                detached.vbuckets.push(entry.vbucket);
                detached.epochs.push(entry.epoch);
            }
        }
        detach(id, detached, out);
        Ok(begin.seq)
    }

    /// Attaches a log. Returns false when another epoch is followed, or the leader was told of another copy.
    fn attach(&mut self, vbucket: VBucketId, entry: &BeginVBucket, out: &mut Outbox) -> Result<bool, InboundError> {
        let next = Offset(entry.next);
        let attachment =
            if entry.restart { Attachment::Restart { start: next } } else { Attachment::Keep { to: next } };
        if entry.restart {
            // What is committed comes before the gap that readers are told of.
            self.deliver_committed(out);
        }
        let Some(Some(replica)) = self.replicas.get_mut(usize::from(vbucket.0)) else { return Ok(false) };
        let before = replica.log().clone();
        let attached = replica.attach(Epoch(entry.epoch), Lineage(entry.lineage), attachment);
        match attached {
            Ok(_) => {}
            Err(AttachError::OtherEpoch { .. } | AttachError::OtherLineage { .. } | AttachError::Short { .. }) => {
                return Ok(false);
            }
            Err(source @ AttachError::Diverged { .. }) => return Err(InboundError::Attach { vbucket, source }),
        }
        let after = replica.log().clone();
        let kept = if entry.restart { before.high_watermark() } else { after.end() };
        if before.end() > kept {
            self.purge(vbucket, kept);
        }
        if entry.restart && after.start() > before.high_watermark() {
            let feed = self.feed();
            self.delivery.skip_to(feed, vbucket, after.start(), &mut out.wake);
            self.mirror(Mirror::Skip { vbucket, next: after.start() }, out);
        }
        Ok(true)
    }

    fn handle_block(
        &mut self,
        id: InboundId,
        leader: Member,
        block: &Replicated,
        out: &mut Outbox,
    ) -> Result<u64, InboundError> {
        block.check()?;
        if let Some(committed) = &block.committed {
            self.handle_committed(id, leader, committed)?;
        }
        let mut runs = block.runs(self.config.vbuckets)?;
        let origins: Vec<Origin> = block.origins()?.iter().map(origin).collect();
        let (arena, framed) = self.keep_copy(&block.messages, out);
        let messages = runs.iter().map(|run| run.count).fold(0_u32, u32::saturating_add);
        let whole = Block { framed, runs: merged(&runs), messages, has_system: block.has_system, arena };
        let detached = self.detached_runs(leader, &runs);
        let (stored, origins) = if detached.vbuckets.is_empty() {
            (whole, origins)
        } else {
            let is_detached = |vbucket: VBucketId| detached.vbuckets.contains(&u32::from(vbucket.0));
            runs.retain(|run| !is_detached(run.vbucket));
            let part = part_of(&whole, |vbucket, _| !is_detached(vbucket));
            self.arenas.note_gone(whole.arena);
            detach(id, detached, out);
            let Some(Part { block: kept, numbers }) = part else { return Ok(block.seq) };
            (kept, origins_of(&origins, &numbers))
        };
        if let Err(error) = self.accept(&runs) {
            self.arenas.note_gone(stored.arena);
            return Err(error);
        }
        self.note_producers(&origins, &runs, &stored)?;
        if block.is_committed {
            for run in stored.runs.iter() {
                self.commit_to(leader, run.vbucket, run.end());
            }
        } else if let Some(link) = self.inbound.get_mut(&id) {
            link.blocks.push_back((block.seq, stored.runs.clone()));
        }
        for run in stored.runs.iter() {
            self.count_producers(run.vbucket);
        }
        self.stats.replicated_messages += u64::from(stored.messages);
        self.pending.push(Sealed {
            block: stored,
            entries: Vec::new(),
            origins,
            waiting: Vec::new(),
            sent: Vec::new(),
        });
        Ok(block.seq)
    }

    /// What of a frame belongs to logs that do not follow its sender in its epoch.
    fn detached_runs(&self, leader: Member, runs: &[ReplicatedRun]) -> Detached {
        let mut detached = Detached::default();
        for run in runs {
            let follows = self.replica(run.vbucket).is_some_and(|replica| {
                is_following(replica.role(), leader) && replica_epoch(replica.role()) == Some(run.leader_epoch)
            });
            let vbucket = u32::from(run.vbucket.0);
            if !follows && !detached.vbuckets.contains(&vbucket) {
                detached.vbuckets.push(vbucket);
                detached.epochs.push(run.leader_epoch.0);
            }
        }
        detached
    }

    /// Extends the logs by the runs: by all of them, or by none.
    fn accept(&mut self, runs: &[ReplicatedRun]) -> Result<(), InboundError> {
        for (at, run) in runs.iter().enumerate() {
            let not_attached = broky_replication::AcceptError::NotAttached { asked: run.leader_epoch };
            let accepted = match self.replica_mut(run.vbucket) {
                Some(replica) => replica.accept(run.leader_epoch, run.first, u64::from(run.count), run.epoch),
                None => Err(not_attached),
            };
            if let Err(source) = accepted {
                for accepted in runs.iter().take(at).rev() {
                    if let Some(replica) = self.replica_mut(accepted.vbucket) {
                        replica.retract(accepted.first);
                    }
                }
                return Err(InboundError::Accept { vbucket: run.vbucket, source });
            }
        }
        Ok(())
    }

    /// Notes whose messages they are, so that a retry is recognised should this node come to lead.
    fn note_producers(
        &mut self,
        origins: &[Origin],
        runs: &[ReplicatedRun],
        stored: &Block,
    ) -> Result<(), InboundError> {
        if origins.is_empty() {
            return Ok(());
        }
        if let [run] = runs {
            for origin in origins {
                let offset = run.first.plus(u64::from(origin.first));
                let noted = SequenceRun { first: origin.sequence, count: u64::from(origin.count), offset };
                if let Some(replica) = self.replica_mut(run.vbucket) {
                    replica.note_producer(origin.producer, noted);
                }
            }
            return Ok(());
        }
        let places = places_of(stored);
        for origin in origins {
            let messages = places.get(origin.first as usize..).and_then(|rest| rest.get(..origin.count as usize));
            let messages = messages.ok_or(InboundError::Content)?;
            for (sequence, (vbucket, offset)) in (origin.sequence.0..).map(Sequence).zip(messages) {
                let noted = SequenceRun { first: sequence, count: 1, offset: *offset };
                if let Some(replica) = self.replica_mut(*vbucket) {
                    replica.note_producer(origin.producer, noted);
                }
            }
        }
        Ok(())
    }

    fn handle_synced(&mut self, leader: Member, synced: Synced) -> Result<u64, InboundError> {
        for entry in synced.vbuckets {
            let vbucket = vbucket_of(entry.vbucket, self.config.vbuckets)?;
            let states = entry.producers.into_iter().map(producer_state).collect::<Result<Vec<_>, _>>()?;
            if let Some(replica) = self.replica_mut(vbucket)
                && is_following(replica.role(), leader)
                && replica_epoch(replica.role()) == Some(Epoch(entry.epoch))
            {
                replica.restore_producers(states, entry.has_forgotten);
                replica.commit_to(Offset(entry.high_watermark));
            }
            self.count_producers(vbucket);
        }
        Ok(synced.seq)
    }

    fn handle_committed(&mut self, id: InboundId, leader: Member, news: &Committed) -> Result<(), InboundError> {
        for seq in &news.seqs {
            let Some(link) = self.inbound.get_mut(&id) else { return Err(InboundError::Closed) };
            let Some(at) = link.blocks.iter().position(|(known, _)| known == seq) else { continue };
            let Some((_, runs)) = link.blocks.remove(at) else { continue };
            for run in runs.iter() {
                self.commit_to(leader, run.vbucket, run.end());
            }
        }
        if news.vbuckets.len() != news.high_watermarks.len() {
            return Err(PeerError::Lengths.into());
        }
        for (number, high) in news.vbuckets.iter().zip(&news.high_watermarks) {
            let vbucket = vbucket_of(*number, self.config.vbuckets)?;
            self.commit_to(leader, vbucket, Offset(*high));
            self.pending.note_uneven();
        }
        if !news.vbuckets.is_empty() {
            self.forget_committed(id);
        }
        Ok(())
    }

    /// Forgets the oldest blocks of a link that are committed by high watermark: no notice will name them.
    fn forget_committed(&mut self, id: InboundId) {
        let Some(link) = self.inbound.get_mut(&id) else { return };
        let replicas = &self.replicas;
        let is_committed = |run: &Run| {
            let replica = replicas.get(usize::from(run.vbucket.0)).and_then(Option::as_ref);
            replica.is_none_or(|replica| replica.log().high_watermark() >= run.end())
        };
        while link.blocks.front().is_some_and(|(_, runs)| runs.iter().all(is_committed)) {
            link.blocks.pop_front();
        }
    }

    fn commit_to(&mut self, leader: Member, vbucket: VBucketId, to: Offset) {
        if let Some(replica) = self.replica_mut(vbucket)
            && is_following(replica.role(), leader)
        {
            replica.commit_to(to);
        }
    }
}

fn reading(is_read: bool) -> Frame {
    encode_to_leader(to_leader::Frame::Reading(Reading { is_read })).into()
}

/// Tells the leader what is not taken, before the frame is acknowledged.
fn detach(id: InboundId, detached: Detached, out: &mut Outbox) {
    if !detached.vbuckets.is_empty() {
        out.to_leaders.push((id, encode_to_leader(to_leader::Frame::Detached(detached)).into()));
    }
}

/// Whether a replica takes messages from this leader: news of an earlier one do not count.
fn is_following(role: &Role, leader: Member) -> bool {
    matches!(role, Role::Follower(following) if following.leader == leader && following.is_attached)
}

fn replica_epoch(role: &Role) -> Option<Epoch> {
    match role {
        Role::Follower(following) => Some(following.epoch),
        Role::Leader(_) | Role::Idle => None,
    }
}

fn origin(origin: &ReplicatedOrigin) -> Origin {
    let ReplicatedOrigin { first, count, producer, sequence } = *origin;
    Origin { first, index: first, count, producer, sequence, reply: None }
}

/// The runs with each vbucket once.
fn merged(runs: &[ReplicatedRun]) -> Arc<[Run]> {
    let mut merged: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        let known = merged.iter_mut().rev().take(16).find(|known| known.vbucket == run.vbucket);
        match known {
            Some(known) => known.count += run.count,
            None => merged.push(Run { vbucket: run.vbucket, count: run.count, first: run.first }),
        }
    }
    merged.into()
}

/// Vbucket and offset of each message.
fn places_of(block: &Block) -> Vec<(VBucketId, Offset)> {
    let encoded = block.framed.get(PREFIX_LEN..).unwrap_or_default();
    let fields = stored_messages(encoded).flatten().filter_map(|(_, message)| Fields::scan(message).ok());
    fields
        .filter_map(|fields| Some((u16::try_from(fields.vbucket).map(VBucketId).ok()?, Offset(fields.offset))))
        .collect()
}

fn producer_state(known: broky_proto::data_v1::ProducerState) -> Result<ProducerState, PeerError> {
    if [known.run_counts.len(), known.run_offsets.len()] != [known.run_firsts.len(); 2] {
        return Err(PeerError::Lengths);
    }
    let runs = known.run_firsts.iter().zip(&known.run_counts).zip(&known.run_offsets);
    let run = |((first, count), offset): ((&u64, &u64), &u64)| SequenceRun {
        first: Sequence(*first),
        count: *count,
        offset: Offset(*offset),
    };
    Ok(ProducerState {
        id: ProducerId(known.id),
        last: Sequence(known.last),
        runs: runs.map(run).collect(),
        has_dropped: known.has_dropped,
        used: Offset(known.used),
    })
}
