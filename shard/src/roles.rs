//! From the cluster map to what this shard does with each vbucket: level-triggered, from the whole map, never from
//! events, so that it does not matter how many versions were missed, nor how they came.

use broky_proto::id::{Epoch, IsrVersion, Lineage, MapVersion, Member, NodeId, Numbered, Offset, VBucketId};
use broky_proto::time::Timestamp;
use broky_replication::{Isr, Replica, Role};
use broky_ring::lineage::lineage_base;
use broky_ring::map::{ClusterMap, VBucket};

use crate::outbox::{Mirror, Outbox, SessionId};
use crate::sessions::Stage;
use crate::shard::Shard;

/// What the map says of one vbucket, as far as a shard goes by it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Place {
    pub(crate) version: MapVersion,
    /// When that became known here.
    pub(crate) since: Timestamp,
    pub(crate) is_held: bool,
    pub(crate) leader: Option<Member>,
    pub(crate) epoch: Epoch,
    pub(crate) isr: Vec<Member>,
    pub(crate) isr_version: IsrVersion,
    pub(crate) min_isr: usize,
    /// Who left the ISR while it was frozen: they hold everything committed, too.
    pub(crate) eligible: Vec<Member>,
    /// Whether all that are to be in sync are.
    pub(crate) is_whole: bool,
    pub(crate) lineage: Lineage,
    pub(crate) lineage_end: Lineage,
    /// Who copies in order to hold one.
    pub(crate) learners: Vec<NodeId>,
    /// Other nodes that hold a copy, or are to.
    pub(crate) others: Vec<NodeId>,
}

impl Place {
    fn of(vbucket: &VBucket, map: &ClusterMap, me: Member, since: Timestamp) -> Self {
        let all = vbucket.replicas.iter().chain(&vbucket.learners);
        Self {
            version: vbucket.version,
            since,
            is_held: vbucket.has_copy_at(me.node) && map.is_current(me),
            leader: vbucket.leader.filter(|_| map.is_current(me)),
            epoch: vbucket.epoch,
            isr: vbucket.isr.clone(),
            isr_version: vbucket.isr_version,
            min_isr: usize::from(vbucket.min_isr).max(1),
            eligible: vbucket.eligible.clone(),
            is_whole: vbucket.isr.len() >= vbucket.replicas.len(),
            lineage: vbucket.lineage,
            lineage_end: vbucket.lineage_end,
            learners: vbucket.learners.clone(),
            others: all.copied().filter(|node| *node != me.node).collect(),
        }
    }

    fn isr(&self) -> Isr {
        Isr { members: self.isr.clone(), version: self.isr_version, min: self.min_isr }
    }
}

impl Shard {
    /// Takes a newer cluster map. Older ones are ignored.
    pub fn handle_map(&mut self, map: &ClusterMap, out: &mut Outbox) {
        if map.version() <= self.map_version {
            return;
        }
        // What was written under the old roles is sealed under them.
        self.flush(out);
        self.map_version = map.version();
        self.delivery.set_map_version(map.version());
        self.members = map.nodes().map(|(node, entry)| Member { node, incarnation: entry.incarnation }).collect();
        let is_barred = |node: &NodeId| map.alive(*node).is_none() || map.node(*node).is_some_and(|it| it.is_draining);
        let barred: Vec<NodeId> = map.nodes().map(|(node, _)| node).filter(is_barred).collect();
        if self.barred.iter().any(|node| !barred.contains(node)) {
            self.returned_at = self.now;
        }
        self.barred = barred;
        self.delivery.set_has_others(self.members.len() > 1);
        let (me, members) = (self.config.me, &self.members);
        self.absent.retain(|member, _| members.contains(member));
        for (leader, (_, vbucket)) in self.leaders.iter_mut().zip(map.vbuckets()) {
            *leader = vbucket.leader;
        }
        let mut has_changed = false;
        for (id, vbucket) in map.vbuckets().filter(|(id, _)| self.config.owns(*id)).collect::<Vec<_>>() {
            let known = self.places.get(usize::from(id.0));
            let place = Place::of(vbucket, map, me, known.map_or(self.now, |known| known.since));
            if known.is_some_and(|known| *known != place) {
                let place = Place { since: self.now, ..place };
                self.take_place(id, place, out);
                has_changed = true;
            }
        }
        self.wanted_sessions = self.find_wanted_sessions();
        if has_changed {
            self.pending.note_uneven();
            for id in self.sessions.keys().copied().collect::<Vec<SessionId>>() {
                self.ask(id, out);
                self.catch_up(id, out);
            }
            self.isr_is_due = true;
        }
        self.answer_waiting(out);
        self.deliver_committed(out);
        self.rewatch(out);
        self.settle_subscriptions(out);
        self.wake_relays(out);
    }

    fn take_place(&mut self, id: VBucketId, place: Place, out: &mut Outbox) {
        let at = usize::from(id.0);
        let mut has_other_isr = false;
        if let Some(known) = self.places.get_mut(at) {
            has_other_isr = known.isr_version != place.isr_version;
            *known = place.clone();
        }
        let others = if place.leader == Some(self.config.me) { place.others.clone() } else { Vec::new() };
        if let Some(arena) = self.writers.assign(id, others) {
            self.arenas.close(arena);
        }
        let early = self.early.take(id, place.epoch);
        if !place.is_held {
            self.lose_waiters(id);
            self.drop_replica(id);
        } else {
            self.hold(id, &place, out);
            self.take_role(id, &place, early);
        }
        self.restage(id, &place, has_other_isr);
        self.show(id, out);
    }

    /// Makes sure that there is a replica of the right history.
    fn hold(&mut self, id: VBucketId, place: &Place, out: &mut Outbox) {
        // Planted: every history begins at the same offset.
        let is_reset = cfg!(feature = "bug-reset-offset-after-loss");
        let base = if is_reset { Offset::ZERO } else { lineage_base(place.lineage) };
        let (lineage, epoch) = (place.lineage, place.epoch);
        match self.replica(id).map(|replica| replica.log().lineage()) {
            Some(known) if known == lineage => {
                self.delivery.set_epoch(id, epoch);
                self.mirror(Mirror::Epoch { vbucket: id, epoch }, out);
                return;
            }
            Some(_) => {
                self.lose_waiters(id);
                self.purge(id, Offset::ZERO);
                let feed = self.feed();
                self.delivery.begin_lineage(feed, id, (lineage, epoch), base, &mut out.wake);
                self.mirror(Mirror::Lineage { vbucket: id, lineage, epoch, base }, out);
            }
            None => {
                self.delivery.set_view(id, (lineage, epoch), base, &mut out.wake);
                self.mirror(Mirror::View { vbucket: id, lineage, epoch, base }, out);
            }
        }
        if let Some(slot) = self.replicas.get_mut(usize::from(id.0)) {
            *slot = Some(Replica::new(lineage, base));
        }
    }

    /// `early`: what was refused for this epoch, because it was not known here.
    fn take_role(&mut self, id: VBucketId, place: &Place, early: Vec<Numbered>) {
        let me = self.config.me;
        let limit = lineage_base(place.lineage_end);
        let Some(Some(replica)) = self.replicas.get_mut(usize::from(id.0)) else { return };
        match (replica.role(), place.leader) {
            (Role::Leader(leader), Some(member)) if member == me && leader.epoch() == place.epoch => {
                if let Some(leader) = replica.leader_mut() {
                    leader.set_limit(limit);
                    leader.handle_isr(place.isr());
                }
                replica.advance_high_watermark();
            }
            (Role::Leader(_) | Role::Follower(_) | Role::Idle, Some(member)) if member == me => {
                let isr = place.isr();
                replica.lead(place.epoch, me, isr);
                if let Some(leader) = replica.leader_mut() {
                    leader.set_limit(limit);
                }
                early.into_iter().for_each(|message| replica.refused_before(message));
                replica.advance_high_watermark();
                self.lose_waiters(id);
            }
            (Role::Follower(following), Some(leader))
                if following.epoch == place.epoch && following.leader == leader => {}
            (Role::Leader(_) | Role::Follower(_) | Role::Idle, Some(leader)) => {
                replica.follow(place.epoch, leader);
                // Where the lead was handed over, the next leader holds most likely what is not committed yet, and
                // commits it: whoever waits is told by that. What it lacks is cut off when it attaches this copy, and
                // then they are told that nobody knows. A leader that was deposed is not in the ISR: it answers nothing
                // more.
                if !place.isr.contains(&me) {
                    self.lose_waiters(id);
                }
            }
            (Role::Leader(_) | Role::Follower(_) | Role::Idle, None) => {
                replica.rest();
                self.lose_waiters(id);
            }
        }
    }

    /// Lets a copy go that is not wanted here any more. What readers have not read stays until its time.
    fn drop_replica(&mut self, id: VBucketId) {
        self.purge(id, Offset::ZERO);
        if let Some(slot) = self.replicas.get_mut(usize::from(id.0)) {
            *slot = None;
        }
        self.count_producers(id);
    }

    /// Tells whoever waits for messages of a vbucket that nobody can tell what becomes of them.
    pub(crate) fn lose_waiters(&mut self, id: VBucketId) {
        let replies = &mut self.replies;
        let mut done = Vec::new();
        for sealed in self.pending.holding(id) {
            for origin in &mut sealed.origins {
                if let Some(reply) = origin.reply.take() {
                    replies.lose(reply, origin.index, origin.count);
                }
            }
            for waiter in &sealed.waiting {
                if let Some(index) = waiter.duplicate {
                    replies.lose(waiter.reply, index, 1);
                }
            }
            done.append(&mut sealed.waiting);
        }
        for waiter in done {
            self.replies.done(waiter.reply, &mut self.lost);
        }
    }

    /// Takes what is not committed of a vbucket, from `from` on, out of memory.
    pub(crate) fn purge(&mut self, id: VBucketId, from: Offset) {
        self.lose_waiters(id);
        self.pending.purge(id, from);
        for arena in self.pending.take_gone() {
            self.arenas.note_gone(arena);
        }
    }

    /// Begins anew, or gives up, replicating a vbucket on every link. With every other version of the ISR also on those
    /// of learners: theirs may be a new copy, the old one having been dropped in a version of the map that was passed
    /// over.
    fn restage(&mut self, id: VBucketId, place: &Place, has_other_isr: bool) {
        let leads = place.leader == Some(self.config.me) && place.is_held;
        let epoch_changed = self.staged.get(usize::from(id.0)).is_none_or(|epoch| *epoch != place.epoch);
        if let Some(staged) = self.staged.get_mut(usize::from(id.0)) {
            *staged = place.epoch;
        }
        for session in self.sessions.values_mut() {
            let is_wanted = leads && place.others.contains(&session.member.node);
            let stage = session.stage(id);
            if !is_wanted {
                session.set_stage(id, Stage::Absent);
            } else if stage == Stage::Absent
                || epoch_changed
                || has_other_isr && place.learners.contains(&session.member.node)
            {
                session.set_stage(id, Stage::Asked);
            }
        }
    }

    /// The processes to which this shard needs a link, ascending.
    #[must_use]
    pub fn wanted_sessions(&self) -> &[Member] {
        &self.wanted_sessions
    }

    fn find_wanted_sessions(&self) -> Vec<Member> {
        let me = self.config.me;
        let led = self.places.iter().filter(|place| place.leader == Some(me) && place.is_held);
        let mut nodes: Vec<NodeId> = led.flat_map(|place| place.others.iter().copied()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        self.members.iter().copied().filter(|member| nodes.binary_search(&member.node).is_ok()).collect()
    }
}
