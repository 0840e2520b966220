//! Who keeps up: when a leader proposes that a follower leave or join an ISR.
//!
//! A follower is out of sync when it has not acknowledged a frame for a second, and at once when nothing listens at its
//! address any more; and when it is in an ISR and its link does not come to where it gets every block, be it that it
//! breaks again and again. Links are pinged, so an idle one tells as well. One verdict per link is for all vbuckets on
//! it. A follower joins when it holds everything committed, all that the leader began with, and what is known of
//! producers.
//!
//! A leader never proposes an ISR below `min_isr`. Were it to do so it would stand alone and freeze, although the
//! others may well reach one another: it offers to resign instead, and whoever has died is fenced by the control plane.
//! A leader that the control plane left alone, because it did not hear the others for a while, makes way for one of
//! these when they are back and it does not reach them: who left while nothing was committed still holds everything.

use std::time::Duration;

use broky_proto::id::{Epoch, Member, VBucketId};
use broky_proto::time::Timestamp;
use broky_ring::command::{BATCH_MAX, IsrChange};
use broky_ring::lineage::extension_due;

use crate::outbox::{Outbox, SessionId};
use crate::sessions::{Session, Stage};
use crate::shard::Shard;

/// Without an acknowledgement for this long a follower is out of sync.
pub const LAG_MAX: Duration = Duration::from_secs(1);
/// A link hears something at least this often.
const PING_PERIOD: Duration = Duration::from_millis(250);
/// Proposals that were not decided are made again after this long.
const PROPOSE_AGAIN: Duration = Duration::from_secs(1);
/// Between proposals that followers join: each is a new map for every node, and those who have caught up a little later
/// can be in it as well.
const JOIN_PACE: Duration = Duration::from_millis(250);
/// How often [`Shard::handle_tick`] is to be called while there are other nodes.
pub const TICK: Duration = Duration::from_millis(50);
/// A relay whose readers are sent nothing hears this often how far it has come.
const PASS_PERIOD: Duration = Duration::from_secs(1);
/// Work of catching up per link and tick, where copies lack: 400 MiB/s of messages of 1 KiB, 140 MiB/s of 128 B. It
/// takes a leader and its follower a third of a core each. With half of that a follower that comes back to 512 MiB of
/// small messages would not be in sync within ten seconds.
const CATCH_UP_PER_TICK: usize = 32 << 20;
/// The same where copies only move, and nobody waits but those who push.
const MOVE_PER_TICK: usize = 1 << 20;

/// A leader that is alone makes way no sooner after its vbucket changed, or somebody was heard of again: links take a
/// while.
const ALONE_MIN: Duration = Duration::from_millis(1_500);

/// A worker that comes this much too late takes what looks like the silence of others for its own.
const STALLED: Duration = Duration::from_millis(500);

/// A process without a link, or with one that does not bring what its copies need to be in sync.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Absent {
    pub(crate) since: Timestamp,
    pub(crate) is_refused: bool,
}

impl Shard {
    /// Looks at what time does to links and ISRs. Call it every [`TICK`] in a cluster of several nodes.
    pub fn handle_tick(&mut self, now: Timestamp, out: &mut Outbox) {
        self.now = self.now.max(now);
        if self.now.since(self.ticked_at) >= STALLED {
            self.excuse_all();
        }
        self.ticked_at = self.now;
        self.note_who_is_absent();
        for id in self.sessions.keys().copied().collect::<Vec<SessionId>>() {
            let is_urgent = self.lacks_copies(id);
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            session.allowance = if is_urgent { CATCH_UP_PER_TICK } else { MOVE_PER_TICK };
            if self.now.since(session.last_sent) >= PING_PERIOD {
                self.ping(id, out);
            }
            self.ask(id, out);
            self.catch_up(id, out);
        }
        self.close_laggards(out);
        self.propose(out);
        self.extend_lineages(out);
        self.flush(out);
        self.send_late_notices(out);
        self.rewatch(out);
        self.settle_subscriptions(out);
        if self.now.since(self.passed_at) >= PASS_PERIOD {
            self.passed_at = self.now;
            self.delivery.pass_relays();
            self.wake_relays(out);
        }
    }

    /// Begins anew to wait for everybody: this worker stood still, and may have heard nobody for that.
    fn excuse_all(&mut self) {
        self.sessions.values_mut().for_each(|session| session.excuse(self.now));
        self.absent.values_mut().for_each(|absent| absent.since = absent.since.max(self.now));
    }

    /// Notes who has no link, or one that is not good enough.
    fn note_who_is_absent(&mut self) {
        let is_current = |member: &Member| {
            self.sessions.values().any(|session| session.member == *member && self.keeps_in_sync(session))
        };
        let (present, lacking): (Vec<Member>, Vec<Member>) = self.wanted_sessions.iter().partition(|it| is_current(it));
        for member in present {
            self.absent.remove(&member);
        }
        for member in lacking {
            self.absent.entry(member).or_insert(Absent { since: self.now, is_refused: false });
        }
    }

    /// Whether a link has come to where its follower gets, and has acknowledged, what keeps it in every ISR that it is
    /// in.
    fn keeps_in_sync(&self, session: &Session) -> bool {
        let is_in_isr = |vbucket: VBucketId| {
            let place = self.places.get(usize::from(vbucket.0));
            place.is_some_and(|place| place.isr.contains(&session.member))
        };
        let lacks = |(vbucket, stage): (VBucketId, Stage)| {
            stage != Stage::Absent && !session.is_synced(vbucket) && is_in_isr(vbucket)
        };
        session.is_synced_throughout() || !session.stages().any(lacks)
    }

    /// Whether a link brings up to date what has fewer copies in sync than it is to have.
    fn lacks_copies(&self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(&id).filter(|session| !session.is_settled()) else { return false };
        let mut places = session.stages().zip(&self.places);
        places.any(|((_, stage), place)| stage.is_behind() && !place.is_whole)
    }

    /// Closes links whose follower does not acknowledge, or is so far behind that it takes too much memory.
    fn close_laggards(&mut self, out: &mut Outbox) {
        let bytes_max = (self.config.memory_bytes / 2).max(8 << 20);
        let now = self.now;
        let lags = |session: &Session| {
            let waits = session.waits_since().is_some_and(|since| now.since(since) >= LAG_MAX);
            waits || session.in_flight_bytes() > bytes_max
        };
        let laggards: Vec<(SessionId, Member)> = self
            .sessions
            .iter()
            .filter(|(_, session)| lags(session))
            .map(|(id, session)| (*id, session.member))
            .collect();
        for (id, member) in laggards {
            self.sessions.remove(&id);
            out.close_sessions.push(id);
            self.absent.insert(member, Absent { since: Timestamp(0), is_refused: true });
        }
    }

    /// Proposes who leaves and who joins.
    fn propose(&mut self, out: &mut Outbox) {
        let now = self.now;
        let out_of_sync = |absent: &Absent| absent.is_refused || now.since(absent.since) >= LAG_MAX;
        let leaving: Vec<Member> =
            self.absent.iter().filter(|(_, absent)| out_of_sync(absent)).map(|(member, _)| *member).collect();
        let is_again = self.now.since(self.proposed_at) >= PROPOSE_AGAIN;
        let may_join = is_again || self.now.since(self.joined_at) >= JOIN_PACE;
        let has_joiners = may_join && self.sessions.values().any(|session| session.has_joiners);
        if !has_joiners && !self.isr_is_due && !is_again && leaving == self.leaving {
            return;
        }
        self.isr_is_due = false;
        if is_again || leaving != self.leaving {
            self.proposed_at = self.now;
        }
        let considered = self.sessions.iter().filter(|(_, s)| is_again || may_join && s.has_joiners);
        let sessions: Vec<(SessionId, Member)> = considered.map(|(id, s)| (*id, s.member)).collect();
        if !sessions.is_empty() {
            self.joined_at = self.now;
        }
        let led: Vec<VBucketId> = self.led_vbuckets().collect();
        let mut still_joining = Vec::new();
        for vbucket in led {
            self.propose_one(vbucket, &leaving, &sessions, is_again, &mut still_joining, out);
        }
        for (id, _) in sessions {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.has_joiners = still_joining.contains(&id);
            }
        }
        self.leaving = leaving;
    }

    fn propose_one(
        &mut self,
        vbucket: VBucketId,
        leaving: &[Member],
        sessions: &[(SessionId, Member)],
        is_again: bool,
        still_joining: &mut Vec<SessionId>,
        out: &mut Outbox,
    ) {
        if out.isr_changes.len() >= BATCH_MAX {
            self.isr_is_due = true;
            return;
        }
        let live = |id: &SessionId| self.sessions.get(id).is_some_and(|session| session.stage(vbucket).is_live());
        let may_enter = |member: &Member| !self.barred.contains(&member.node) && !leaving.contains(member);
        let candidates: Vec<(SessionId, Member)> =
            sessions.iter().copied().filter(|(id, member)| live(id) && may_enter(member)).collect();
        let is_alone = self.is_cut_off(vbucket, leaving);
        let Some(Some(replica)) = self.replicas.get_mut(usize::from(vbucket.0)) else { return };
        let high_watermark = replica.log().high_watermark();
        let Some(leader) = replica.leader_mut() else { return };
        if let Some(proposal) = leader.proposed() {
            if is_again {
                out.isr_changes.push(change(vbucket, proposal));
            }
            still_joining.extend(candidates.iter().map(|(id, _)| *id));
            return;
        }
        let mut joins = Vec::new();
        for (id, member) in candidates {
            if leader.isr().members.contains(&member) {
                continue;
            }
            still_joining.push(id);
            let is_synced = self.sessions.get(&id).is_some_and(|session| session.is_synced(vbucket));
            if is_synced && leader.may_join(member, high_watermark) {
                joins.push(member);
            }
        }
        let isr = leader.isr();
        let leaves: Vec<Member> = isr.members.iter().copied().filter(|member| leaving.contains(member)).collect();
        let left = isr.members.len() + joins.len() - leaves.len();
        if left < isr.min && (!leaves.is_empty() || is_alone) {
            // The rest has its turn when these are decided.
            if is_again && out.resign.len() < BATCH_MAX {
                out.resign.push((vbucket, leader.epoch()));
            }
            return;
        }
        out.isr_changes.extend(leader.propose(&joins, &leaves).map(|proposal| change(vbucket, proposal)));
    }

    /// Whether nobody is on the way into a vbucket's ISR here, and somebody lives who may lead it, and whom this
    /// process does not reach.
    fn is_cut_off(&self, vbucket: VBucketId, leaving: &[Member]) -> bool {
        let Some(place) = self.places.get(usize::from(vbucket.0)) else { return false };
        if self.now.since(place.since.max(self.returned_at)) < ALONE_MIN {
            return false;
        }
        let may_lead = |member: &Member| leaving.contains(member) && !self.barred.contains(&member.node);
        place.eligible.iter().any(may_lead) && !self.sessions.values().any(|it| it.stage(vbucket) != Stage::Absent)
    }

    fn extend_lineages(&mut self, out: &mut Outbox) {
        if self.now.since(self.extended_at) < PROPOSE_AGAIN {
            return;
        }
        self.extended_at = self.now;
        for vbucket in self.led_vbuckets().collect::<Vec<_>>() {
            let Some(place) = self.places.get(usize::from(vbucket.0)) else { continue };
            let Some(replica) = self.replica(vbucket) else { continue };
            if let Some(end) = extension_due(place.lineage_end, replica.log().end()) {
                out.extend.push((vbucket, place.epoch, end));
            }
        }
    }

    /// Vbuckets that this shard leads.
    pub(crate) fn led_vbuckets(&self) -> impl Iterator<Item = VBucketId> {
        let me = self.config.me;
        let all = self.config.vbuckets.iter().zip(&self.places);
        all.filter(move |(_, place)| place.leader == Some(me) && place.is_held).map(|(vbucket, _)| vbucket)
    }

    /// The vbuckets led here, each with its epoch.
    pub fn led_epochs(&self) -> impl Iterator<Item = (VBucketId, Epoch)> {
        self.led_vbuckets().filter_map(|vbucket| Some((vbucket, self.places.get(usize::from(vbucket.0))?.epoch)))
    }
}

fn change(vbucket: VBucketId, proposal: broky_replication::Proposal) -> IsrChange {
    IsrChange { vbucket, epoch: proposal.epoch, expected: proposal.expected, isr: proposal.isr }
}
