//! Bringing a follower's logs up to date.
//!
//! One pass goes through the committed blocks, from the oldest that any of the lagging vbuckets lacks to the newest,
//! and sends what they lack of each. So a follower that lacks everything costs one look at every block, whatever the
//! number of vbuckets. At the end, in one go, the uncommitted rest is sent and the vbuckets become live: nothing can
//! come in between. What is known of their producers goes along, for it stands in no block.
//!
//! A vbucket that lacks nothing committed does not wait for a pass: it gets the rest at once. That is the case of
//! nearly all of them when a leader changes, and they must not wait for what learners are being sent over the same
//! link.
//!
//! A pass is slower than pushes may be, and blocks may be evicted under it. Then the follower's log begins anew where
//! the leader's starts by then.

use broky_delivery::{Block, BlockSeq};
use broky_proto::data_v1::{ProducerState, Replicated, Synced, SyncedVBucket, to_follower};
use broky_proto::frame::PREFIX_LEN;
use broky_proto::id::{Epoch, Offset, VBucketId};
use broky_proto::replicate::{ReplicatedRun, encode_block, encode_to_follower};
use broky_proto::time::Timestamp;
use broky_replication::{Attachment, Replica};
use prost::Message as _;

use crate::block::{PartBuilder, StoredMessage, add_origin, origins_of, stored_of};
use crate::leading::note_origins;
use crate::open_block::Origin;
use crate::outbox::{Frame, Outbox, SessionId};
use crate::sessions::{Ends, Pass, Session, Stage, Turn};
use crate::shard::Shard;

/// A chunk is sent when it has this many bytes: 256 KiB.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of catching up that one follower may have unacknowledged: 1 MiB.
const IN_FLIGHT_BYTES_MAX: usize = 1 << 20;

/// What a message takes beside its bytes, to look at it, send it and store it, in bytes that are copied meanwhile.
const MESSAGE_WORK: usize = 512;
/// What a block takes that holds nothing of what is lacked: its runs tell that at a glance.
const SKIPPED: usize = 64;

/// What is known of producers goes in frames of about this many bytes: far below what a frame may have.
const SYNCED_BYTES: usize = 1 << 20;

/// Steps taken in one call; the next acknowledgement or tick goes on.
const STEPS_MAX: usize = 16;

/// A chunk being put together.
#[derive(Default)]
struct Chunk {
    part: PartBuilder,
    meta: Replicated,
    runs: Vec<ReplicatedRun>,
    origins: Vec<Origin>,
}

/// What is known of the producers of some vbuckets.
#[derive(Default)]
struct SyncedChunk {
    vbuckets: Vec<SyncedVBucket>,
    bytes: usize,
}

impl SyncedChunk {
    fn add(&mut self, vbucket: SyncedVBucket) {
        self.bytes += vbucket.encoded_len();
        self.vbuckets.push(vbucket);
    }

    /// Sends what there is, under the number that the vbuckets were told to be synced by.
    fn send(&mut self, session: &mut Session, id: SessionId, now: Timestamp, out: &mut Outbox) {
        let Self { vbuckets, bytes } = std::mem::take(self);
        if !vbuckets.is_empty() {
            let seq = session.send(now, bytes, false, Ends::Nothing);
            let frame = to_follower::Frame::Synced(Synced { seq, vbuckets });
            out.to_followers.push((id, encode_to_follower(frame).into()));
        }
    }
}

impl Chunk {
    fn add(&mut self, stored: &StoredMessage<'_>, leader_epoch: Epoch) {
        self.part.add(stored);
        let (vbucket, epoch, first) = (stored.vbucket, stored.epoch, stored.offset);
        match self.runs.iter_mut().rev().find(|run| run.vbucket == vbucket) {
            Some(run) if run.epoch == epoch => run.count += 1,
            Some(_) | None => self.runs.push(ReplicatedRun { vbucket, leader_epoch, epoch, first, count: 1 }),
        }
    }
}

impl Shard {
    /// Sends a follower more of what it lacks, as far as its window and the pace allow.
    pub(crate) fn catch_up(&mut self, id: SessionId, out: &mut Outbox) {
        self.finish_current(id, out);
        for _ in 0..STEPS_MAX {
            let Some(session) = self.sessions.get(&id) else { return };
            if session.is_settled() || session.catch_up_bytes() >= IN_FLIGHT_BYTES_MAX {
                return;
            }
            let Some(pass) = session.pass else {
                if !self.start_pass(id, out) {
                    return;
                }
                continue;
            };
            let feed = self.feed();
            if pass.at >= self.delivery.tail(feed) {
                // What is being written goes first to those who are live, and becomes part of the rest.
                self.flush(out);
                if pass.at >= self.delivery.tail(feed) {
                    if let Some(session) = self.sessions.get_mut(&id) {
                        session.pass = None;
                    }
                    self.finish(id, Turn::InPass, out);
                }
                continue;
            }
            if self.sessions.get(&id).is_some_and(|session| session.allowance == 0) {
                return;
            }
            self.send_chunk(id, pass, out);
        }
    }

    /// Lets the vbuckets go live that lack nothing committed.
    fn finish_current(&mut self, id: SessionId, out: &mut Outbox) {
        let lacks_nothing = |shard: &Self, stage: &(VBucketId, Stage)| match stage {
            (vbucket, Stage::Behind { next, turn: Turn::Waits, .. }) => {
                let (start, end) = shard.delivery.bounds(*vbucket).unwrap_or_default();
                *next >= end && *next >= start
            }
            (_, Stage::Absent | Stage::Asked | Stage::Behind { .. } | Stage::Live { .. }) => false,
        };
        let is_current = |shard: &Self| {
            let session = shard.sessions.get(&id).filter(|session| !session.is_settled());
            session.is_some_and(|session| session.stages().any(|stage| lacks_nothing(shard, &stage)))
        };
        if !is_current(self) {
            return;
        }
        // What is being written goes first to those who are live, and becomes part of the rest.
        self.flush(out);
        let Some(session) = self.sessions.get(&id) else { return };
        let current: Vec<_> = session.stages().filter(|stage| lacks_nothing(self, stage)).collect();
        let Some(session) = self.sessions.get_mut(&id) else { return };
        for (vbucket, stage) in current {
            if let Stage::Behind { begun, next, .. } = stage {
                session.set_stage(vbucket, Stage::Behind { begun, next, turn: Turn::Now });
            }
        }
        self.finish(id, Turn::Now, out);
    }

    /// Begins a pass for all vbuckets that are behind. False when there is none.
    fn start_pass(&mut self, id: SessionId, out: &mut Outbox) -> bool {
        let Some(session) = self.sessions.get(&id) else { return false };
        let behind: Vec<(VBucketId, Offset)> = session
            .stages()
            .filter_map(|(vbucket, stage)| match stage {
                Stage::Behind { next, .. } => Some((vbucket, next)),
                Stage::Absent | Stage::Asked | Stage::Live { .. } => None,
            })
            .collect();
        if behind.is_empty() {
            return false;
        }
        let restarts: Vec<(VBucketId, Attachment)> = behind
            .iter()
            .filter_map(|(vbucket, next)| {
                let start = self.replica(*vbucket)?.log().start();
                (*next < start).then_some((*vbucket, Attachment::Restart { start }))
            })
            .collect();
        self.begin(id, &restarts, out);
        let feed = self.feed();
        let first = behind.iter().filter_map(|(vbucket, next)| self.delivery.block_of(*vbucket, *next)).min();
        let at = first.unwrap_or_else(|| self.delivery.tail(feed));
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        for (vbucket, _) in behind {
            if let Stage::Behind { begun, next, .. } = session.stage(vbucket) {
                session.set_stage(vbucket, Stage::Behind { begun, next, turn: Turn::InPass });
            }
        }
        session.pass = Some(Pass { at });
        true
    }

    /// Sends what the pass finds next.
    fn send_chunk(&mut self, id: SessionId, pass: Pass, out: &mut Outbox) {
        let feed = self.feed();
        let oldest = self.delivery.oldest(feed);
        if pass.at < oldest {
            // Blocks went under it: some logs may have to begin anew, which the next pass finds out.
            if let Some(session) = self.sessions.get_mut(&id) {
                session.pass = None;
            }
            return;
        }
        let tail = self.delivery.tail(feed);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let mut chunk = Chunk { meta: Replicated { is_committed: true, ..Replicated::default() }, ..Chunk::default() };
        let mut at = pass.at;
        let (mut looked, mut work) = (0, 0);
        while at < tail && chunk.part.len() < CHUNK_BYTES && looked < 4 * CHUNK_BYTES {
            if let Some(block) = self.delivery.block(feed, at) {
                let has_some = collect(session, Turn::InPass, &self.replicas, block, &[], &mut chunk);
                work += if has_some { work_of(block) } else { SKIPPED };
                looked += if has_some { block.framed.len() } else { SKIPPED };
            }
            at = BlockSeq(at.0 + 1);
        }
        session.pass = Some(Pass { at });
        session.allowance = session.allowance.saturating_sub(work);
        send(session, id, self.now, chunk, out);
    }

    /// Sends the uncommitted rest; from here on the vbuckets whose turn it is are live.
    fn finish(&mut self, id: SessionId, turn: Turn, out: &mut Outbox) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        for sealed in self.pending.iter() {
            let mut chunk = Chunk::default();
            collect(session, turn, &self.replicas, &sealed.block, &sealed.origins, &mut chunk);
            send(session, id, now, chunk, out);
        }
        let mut synced = SyncedChunk::default();
        let stages: Vec<(VBucketId, Stage)> = session.stages().collect();
        for (vbucket, stage) in stages {
            let Stage::Behind { begun, next, turn: of } = stage else { continue };
            if of != turn {
                continue;
            }
            let Some(Some(replica)) = self.replicas.get(usize::from(vbucket.0)) else { continue };
            if next != replica.log().end() {
                // It lacks what was evicted during the pass.
                session.set_stage(vbucket, Stage::Behind { begun, next, turn: Turn::Waits });
                continue;
            }
            session.set_stage(vbucket, Stage::Live { begun, synced: session.next_seq() });
            session.has_joiners = true;
            synced.add(SyncedVBucket {
                vbucket: u32::from(vbucket.0),
                epoch: replica.epoch().0,
                high_watermark: replica.log().high_watermark().0,
                producers: replica.dedup().snapshot().into_iter().map(producer_state).collect(),
                has_forgotten: replica.dedup().has_forgotten(),
            });
            if synced.bytes >= SYNCED_BYTES {
                synced.send(session, id, now, out);
            }
        }
        synced.send(session, id, now, out);
    }
}

/// What looking through a block takes, in bytes that are copied meanwhile.
fn work_of(block: &Block) -> usize {
    block.framed.len() + block.messages as usize * MESSAGE_WORK
}

/// Adds what the vbuckets whose turn it is lack of a block. `origins` are known while it is not committed: whoever is
/// in sync can lack nothing else, and must recognise retries of whatever it acknowledges. Returns whether the block was
/// looked through.
fn collect(
    session: &mut Session,
    turn: Turn,
    replicas: &[Option<Replica>],
    block: &Block,
    origins: &[Origin],
    chunk: &mut Chunk,
) -> bool {
    let lacks = |session: &Session, vbucket, end| matches!(session.stage(vbucket), Stage::Behind { next, turn: of, .. } if of == turn && next < end);
    if !block.runs.iter().any(|run| lacks(session, run.vbucket, run.end())) {
        return false;
    }
    for (number, stored) in (0..).zip(stored_of(block.encoded())) {
        let Stage::Behind { begun, next, turn: of } = session.stage(stored.vbucket) else { continue };
        if of != turn || stored.offset != next {
            continue;
        }
        let Some(Some(replica)) = replicas.get(usize::from(stored.vbucket.0)) else { continue };
        session.set_stage(stored.vbucket, Stage::Behind { begun, next: next.plus(1), turn });
        for origin in origins_of(origins, &[number]) {
            add_origin(&mut chunk.origins, Origin { first: chunk.part.messages(), ..origin });
        }
        chunk.add(&stored, replica.epoch());
    }
    true
}

fn send(session: &mut Session, id: SessionId, now: Timestamp, chunk: Chunk, out: &mut Outbox) {
    let Chunk { part, mut meta, runs, origins } = chunk;
    let Some(block) = part.finish() else { return };
    runs.into_iter().for_each(|run| meta.push_run(run));
    note_origins(&mut meta, &origins);
    meta.has_system = block.has_system;
    let body = block.framed.slice(PREFIX_LEN..);
    meta.crc32 = crc32fast::hash(&body);
    meta.seq = session.send(now, body.len(), true, Ends::Runs(block.runs));
    out.to_followers.push((id, Frame { head: encode_block(&meta, body.len()), body }));
}

fn producer_state(known: broky_replication::ProducerState) -> ProducerState {
    ProducerState {
        id: known.id.0,
        last: known.last.0,
        used: known.used.0,
        run_firsts: known.runs.iter().map(|run| run.first.0).collect(),
        run_counts: known.runs.iter().map(|run| run.count).collect(),
        run_offsets: known.runs.iter().map(|run| run.offset.0).collect(),
        has_dropped: known.has_dropped,
    }
}
