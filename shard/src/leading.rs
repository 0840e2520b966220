//! The leader's side of replication: attaching followers, sending them blocks, hearing their acknowledgements.

use std::time::Duration;

use broky_delivery::Block;
use broky_proto::data_v1::{
    Attach, AttachVBucket, Begin, BeginVBucket, Detached, Ping, Reading, Replicated, Summary, to_follower, to_leader,
};
use broky_proto::frame::PREFIX_LEN;
use broky_proto::id::{Epoch, Lineage, Member, Offset, VBucketId};
use broky_proto::replicate::{
    PeerError, ReplicatedOrigin, ReplicatedRun, encode_block, encode_to_follower, vbucket as vbucket_of,
};
use broky_proto::time::Timestamp;
use broky_replication::{Attachment, EpochHistory, LogSummary, Replica};

use crate::block::{Part, origins_of, part_of};
use crate::open_block::{Origin, Sealed};
use crate::outbox::{Frame, Outbox, SessionId};
use crate::sessions::{Ends, Session, Stage, Turn};
use crate::shard::Shard;
use crate::writers::SetId;

/// Bytes of a frame beside the messages, for accounting.
const FRAME_OVERHEAD: usize = 64;
/// How late a follower without readers may hear what is committed.
pub const NOTICE_DELAY: Duration = Duration::from_millis(2);

impl Shard {
    /// Takes a link to a follower that has just been opened.
    pub fn handle_session_open(&mut self, now: Timestamp, id: SessionId, member: Member, out: &mut Outbox) {
        self.now = self.now.max(now);
        // A link that breaks again and again is as bad as none: how long there was none counts until this one is of
        // use.
        if let Some(absent) = self.absent.get_mut(&member) {
            absent.is_refused = false;
        }
        let mut session = Session::new(member, self.config.vbuckets, now);
        let led = self.led_with_copy_at(member);
        led.for_each(|vbucket| session.set_stage(vbucket, Stage::Asked));
        self.sessions.insert(id, session);
        self.ask(id, out);
    }

    /// Takes the end of a link to a follower. `is_refused` when nothing listens there any more.
    pub fn handle_session_closed(&mut self, now: Timestamp, id: SessionId, is_refused: bool) {
        self.now = self.now.max(now);
        let Some(session) = self.sessions.remove(&id) else { return };
        self.note_absent(session.member, is_refused);
    }

    /// Notes that a follower's process cannot be reached. `is_refused` when nothing listens there any more.
    pub fn note_absent(&mut self, member: Member, is_refused: bool) {
        let absent = self.absent.entry(member).or_insert(crate::isr::Absent { since: self.now, is_refused });
        absent.is_refused |= is_refused;
    }

    /// Vbuckets led here of which a member's node is to hold a copy.
    pub(crate) fn led_with_copy_at(&self, member: Member) -> impl Iterator<Item = VBucketId> {
        let all = self.config.vbuckets.iter().zip(&self.places);
        let me = self.config.me;
        all.filter(move |(_, place)| place.leader == Some(me) && place.others.contains(&member.node))
            .map(|(vbucket, _)| vbucket)
    }

    /// Asks a follower about every vbucket that is to be attached.
    pub(crate) fn ask(&mut self, id: SessionId, out: &mut Outbox) {
        let Some(session) = self.sessions.get(&id).filter(|session| !session.is_settled()) else { return };
        let asked = session.stages().filter(|(_, stage)| *stage == Stage::Asked);
        let epoch = |vbucket: VBucketId| self.replica(vbucket).map(|replica| replica.epoch().0).unwrap_or_default();
        let vbuckets: Vec<_> =
            asked.map(|(vbucket, _)| AttachVBucket { vbucket: u32::from(vbucket.0), epoch: epoch(vbucket) }).collect();
        if !vbuckets.is_empty() {
            let attach = Attach { map_version: self.map_version.0, vbuckets };
            out.to_followers.push((id, encode_to_follower(to_follower::Frame::Attach(attach)).into()));
        }
    }

    /// Takes a frame from a follower.
    ///
    /// # Errors
    /// The follower breaks the protocol: close the link.
    pub fn handle_to_leader(
        &mut self,
        now: Timestamp,
        id: SessionId,
        frame: to_leader::Frame,
        out: &mut Outbox,
    ) -> Result<(), PeerError> {
        self.now = self.now.max(now);
        match frame {
            to_leader::Frame::Summaries(summaries) => self.handle_summaries(id, summaries.summaries, out),
            to_leader::Frame::Ack(ack) => self.handle_ack(id, ack.seq, out),
            to_leader::Frame::Detached(detached) => self.handle_detached(id, &detached),
            to_leader::Frame::Reading(Reading { is_read }) => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.is_read = is_read;
                }
                self.send_notices(out);
                Ok(())
            }
        }
    }

    fn handle_ack(&mut self, id: SessionId, seq: u64, out: &mut Outbox) -> Result<(), PeerError> {
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        let (member, replicas) = (session.member, &mut self.replicas);
        let mut has_moved = false;
        let mut has_joiner = false;
        let is_sane = session.handle_ack(seq, |vbucket, end| {
            if let Some(Some(replica)) = replicas.get_mut(usize::from(vbucket.0)) {
                has_moved |= replica.handle_ack(member, end);
                has_joiner |= replica.leader().is_some_and(|leader| !leader.isr().members.contains(&member));
            }
        });
        session.has_joiners |= has_joiner;
        if !is_sane {
            return Err(PeerError::Malformed(format!("frame {seq} was never sent")));
        }
        if has_moved {
            self.deliver_committed(out);
        }
        self.catch_up(id, out);
        Ok(())
    }

    /// Takes the news that a follower takes nothing of some logs: most likely there is a newer map, which says why. The
    /// next tick asks anew.
    fn handle_detached(&mut self, id: SessionId, detached: &Detached) -> Result<(), PeerError> {
        if detached.vbuckets.len() != detached.epochs.len() {
            return Err(PeerError::Lengths);
        }
        for (number, epoch) in detached.vbuckets.iter().zip(&detached.epochs) {
            let vbucket = vbucket_of(*number, self.config.vbuckets)?;
            let is_present = self.replica(vbucket).is_some_and(|replica| replica.epoch().0 == *epoch);
            if let Some(session) = self.sessions.get_mut(&id).filter(|_| is_present)
                && session.stage(vbucket) != Stage::Absent
            {
                session.set_stage(vbucket, Stage::Asked);
            }
        }
        Ok(())
    }

    fn handle_summaries(&mut self, id: SessionId, summaries: Vec<Summary>, out: &mut Outbox) -> Result<(), PeerError> {
        let mut begins = Vec::new();
        for summary in summaries {
            let vbucket = vbucket_of(summary.vbucket, self.config.vbuckets)?;
            let Some(session) = self.sessions.get(&id) else { return Ok(()) };
            if session.stage(vbucket) != Stage::Asked || summary.is_refused {
                continue;
            }
            let Some(replica) = self.replica(vbucket).filter(|replica| replica.leader().is_some()) else { continue };
            if replica.epoch().0 != summary.epoch {
                continue;
            }
            let attachment = replica.attachment(&log_summary(&summary)?);
            begins.push((vbucket, attachment));
        }
        self.begin(id, &begins, out);
        self.catch_up(id, out);
        Ok(())
    }

    /// Tells a follower where logs go on.
    pub(crate) fn begin(&mut self, id: SessionId, begins: &[(VBucketId, Attachment)], out: &mut Outbox) {
        if begins.is_empty() {
            return;
        }
        let entry = |(vbucket, attachment): &(VBucketId, Attachment)| {
            let replica = self.replica(*vbucket)?;
            Some(BeginVBucket {
                vbucket: u32::from(vbucket.0),
                epoch: replica.epoch().0,
                lineage: replica.log().lineage().0,
                next: attachment.next().0,
                restart: matches!(attachment, Attachment::Restart { .. }),
            })
        };
        let vbuckets = begins.iter().filter_map(entry).collect();
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        // What was said of these logs so far is told before they begin anew.
        send_notice(id, session, out);
        let offsets = begins.iter().map(|(vbucket, attachment)| (*vbucket, attachment.next())).collect();
        let seq = session.send(now, FRAME_OVERHEAD, false, Ends::Offsets(offsets));
        let member = session.member;
        for (vbucket, attachment) in begins {
            let stage = Stage::Behind { begun: seq, next: attachment.next(), turn: Turn::Waits };
            session.set_stage(*vbucket, stage);
        }
        let frame = to_follower::Frame::Begin(Begin { seq, vbuckets });
        out.to_followers.push((id, encode_to_follower(frame).into()));
        // What was known of an earlier copy is not known of this one.
        for (vbucket, _) in begins {
            let leader = self.replica_mut(*vbucket).and_then(Replica::leader_mut);
            if let Some(leader) = leader.filter(|leader| !leader.isr().members.contains(&member)) {
                leader.forget(member);
            }
        }
    }

    /// Sends a sealed block to every follower that gets its vbuckets live.
    pub(crate) fn send_block(&mut self, set: SetId, sealed: &mut Sealed, out: &mut Outbox) {
        if self.sessions.is_empty() || self.writers.nodes(set).is_empty() {
            return;
        }
        let mut meta: Option<Replicated> = None;
        let nodes = self.writers.nodes(set);
        for (id, session) in &mut self.sessions {
            if !nodes.contains(&session.member.node) {
                continue;
            }
            let is_live = |vbucket| session.stage(vbucket).is_live();
            if session.is_settled() || sealed.block.runs.iter().all(|run| is_live(run.vbucket)) {
                let block = &sealed.block;
                let meta = meta.get_or_insert_with(|| meta_of(block, &sealed.origins, &self.replicas));
                let body = block.framed.slice(PREFIX_LEN..);
                meta.seq = session.send(self.now, body.len(), false, Ends::Runs(block.runs.clone()));
                meta.committed = session.notices.take();
                sealed.sent.push((*id, meta.seq));
                out.to_followers.push((*id, Frame { head: encode_block(meta, body.len()), body }));
            } else if let Some(Part { block, numbers }) = part_of(&sealed.block, |vbucket, _| is_live(vbucket)) {
                let mut meta = meta_of(&block, &origins_of(&sealed.origins, &numbers), &self.replicas);
                let body = block.framed.slice(PREFIX_LEN..);
                meta.seq = session.send(self.now, body.len(), false, Ends::Runs(block.runs));
                meta.committed = session.notices.take();
                out.to_followers.push((*id, Frame { head: encode_block(&meta, body.len()), body }));
            }
        }
    }

    /// Notes for the followers what has been committed.
    pub(crate) fn note_commit(&mut self, sealed: &Sealed) {
        for (id, session) in &mut self.sessions {
            match sealed.sent.iter().find(|(sent, _)| sent == id) {
                Some((_, seq)) => {
                    session.notices.seqs.push(*seq);
                    // What was attached anew since was sent again, in another frame.
                    let runs = sealed.block.runs.iter().filter(|run| session.stage(run.vbucket).is_newer_than(*seq));
                    let highs: Vec<_> = runs.map(|run| (run.vbucket, run.end())).collect();
                    session.notices.highs.extend(highs);
                }
                None => {
                    let live = sealed.block.runs.iter().filter(|run| session.stage(run.vbucket).is_live());
                    let highs: Vec<_> = live.map(|run| (run.vbucket, run.end())).collect();
                    session.notices.highs.extend(highs);
                }
            }
        }
    }

    /// Tells followers that are read what has been committed. The others need not be woken for it: they hear it with
    /// the next block, or by [`Shard::send_late_notices`].
    pub(crate) fn send_notices(&mut self, out: &mut Outbox) {
        for (id, session) in &mut self.sessions {
            if session.is_read {
                send_notice(*id, session, out);
            }
            out.has_late_notices |= !session.notices.is_empty();
        }
    }

    /// Tells all followers what has been committed. Call it [`NOTICE_DELAY`] after the outbox said that there is
    /// something to tell.
    pub fn send_late_notices(&mut self, out: &mut Outbox) {
        for (id, session) in &mut self.sessions {
            send_notice(*id, session, out);
        }
    }

    /// Sends a frame that only asks to be acknowledged, so that a silent follower is noticed.
    pub(crate) fn ping(&mut self, id: SessionId, out: &mut Outbox) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let seq = session.send(now, FRAME_OVERHEAD, false, Ends::Nothing);
        out.to_followers.push((id, encode_to_follower(to_follower::Frame::Ping(Ping { seq })).into()));
    }
}

fn send_notice(id: SessionId, session: &mut Session, out: &mut Outbox) {
    if let Some(committed) = session.notices.take() {
        out.to_followers.push((id, encode_to_follower(to_follower::Frame::Committed(committed)).into()));
    }
}

/// What goes in front of a live block: all of it was stored in the present epochs.
fn meta_of(block: &Block, origins: &[Origin], replicas: &[Option<Replica>]) -> Replicated {
    let crc32 = crc32fast::hash(block.encoded());
    let mut meta = Replicated { has_system: block.has_system, crc32, ..Replicated::default() };
    for run in block.runs.iter() {
        let replica = replicas.get(usize::from(run.vbucket.0)).and_then(Option::as_ref);
        let epoch = replica.map(|replica| replica.epoch()).unwrap_or_default();
        let (vbucket, first, count) = (run.vbucket, run.first, run.count);
        meta.push_run(ReplicatedRun { vbucket, leader_epoch: epoch, epoch, first, count });
    }
    note_origins(&mut meta, origins);
    meta
}

/// Says whose messages a frame holds.
pub(crate) fn note_origins(meta: &mut Replicated, origins: &[Origin]) {
    for origin in origins.iter().filter(|origin| origin.producer.0 != 0) {
        let (first, count, producer, sequence) = (origin.first, origin.count, origin.producer, origin.sequence);
        meta.push_origin(ReplicatedOrigin { first, count, producer, sequence });
    }
}

fn log_summary(summary: &Summary) -> Result<LogSummary, PeerError> {
    if summary.epochs.len() != summary.epoch_starts.len() {
        return Err(PeerError::Lengths);
    }
    let starts = summary.epochs.iter().zip(&summary.epoch_starts).map(|(epoch, at)| (Epoch(*epoch), Offset(*at)));
    let epochs = EpochHistory::from_starts(starts.collect());
    let epochs = epochs.ok_or_else(|| PeerError::Malformed("epochs do not ascend".to_owned()))?;
    let (start, end) = (Offset(summary.start), Offset(summary.end));
    Ok(LogSummary { lineage: Lineage(summary.lineage), start, end, epochs })
}
