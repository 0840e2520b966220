//! Who is dead: decided by the raft leader, by heartbeats and by refused connections.
//!
//! A process whose connection breaks and whose port refuses another one is gone, if a second peer sees it so too (one
//! may have been cut off by a rule of its own firewall). A process that is merely silent is dead after four heartbeats;
//! it may be paused, and comes back as what it was. What is decided is one entry per process, for all of its vbuckets.
//!
//! The hard case is the leader that is wrong about itself: paused, starved, or cut off. It notices that its own round
//! came late, and begins to count anew; and before it declares anybody dead for silence it asks a quorum whether it
//! leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use broky_proto::id::Member;
use broky_proto::peer_v1 as pb;
use broky_ring::command::Command;
use broky_ring::map::{ClusterMap, Liveness};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::group::Group;
use super::ids::pb_member;
use super::shared::{Shared, lock};
use super::timing;
use super::types::Request;
use crate::peer::DialError;

/// How a peer cannot be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    /// It refuses connections, or the connection broke.
    Refused,
    /// It does not answer.
    Silent,
}

/// Somebody has trouble to reach a member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspicion {
    pub(super) member: Member,
    pub(super) how: How,
    pub(super) by: Option<Member>,
}

/// When each member was last heard of.
#[derive(Debug, Default)]
pub(crate) struct Heard(BTreeMap<Member, Life>);

#[derive(Clone, Copy, Debug)]
struct Life {
    /// When its silence began to be counted: its last heartbeat, as a rule.
    heard: Instant,
    /// Its last heartbeat to this process.
    beat: Option<Instant>,
    /// Heartbeats since it was fenced.
    beats: u32,
    fenced: Option<Instant>,
}

/// Heartbeats after which a fenced member takes part again.
const BEATS_TO_RETURN: u32 = 2;
/// Suspicions looked into at the same time.
const INQUIRIES_MAX: usize = 64;

impl Life {
    fn new(heard: Instant) -> Self {
        Self { heard, beat: None, beats: 0, fenced: None }
    }
}

impl Heard {
    fn note(&mut self, member: Member, now: Instant) {
        let life = self.0.entry(member).or_insert(Life::new(now));
        life.heard = now;
        life.beat = Some(now);
        life.beats += 1;
    }

    /// Counts a member's silence from an earlier moment on, but for what was heard of it since.
    fn antedate(&mut self, member: Member, since: Instant) {
        if let Some(life) = self.0.get_mut(&member) {
            let since = life.beat.map_or(since, |beat| beat.max(since));
            life.heard = life.heard.min(since);
        }
    }

    /// Begins to count anew for everybody: the silence was our own.
    fn forgive(&mut self, now: Instant) {
        for life in self.0.values_mut() {
            life.heard = now;
        }
    }

    /// Brings the list in step with the map.
    fn follow(&mut self, map: &ClusterMap, now: Instant) {
        self.0.retain(|member, _| map.is_current(*member));
        for (id, node) in map.nodes() {
            let member = Member { node: id, incarnation: node.incarnation };
            let life = self.0.entry(member).or_insert(Life::new(now));
            match node.liveness {
                Liveness::Alive => life.fenced = None,
                Liveness::Fenced | Liveness::Evicted if life.fenced.is_none() => {
                    life.fenced = Some(now);
                    life.beats = 0;
                }
                Liveness::Fenced | Liveness::Evicted => {}
            }
        }
    }

    /// Those who are alive according to the map, and silent.
    fn silent(&self, map: &ClusterMap, me: Member, now: Instant) -> Vec<Member> {
        let is_silent = |life: &Life| now.duration_since(life.heard) > timing::SILENCE;
        let silent = self.0.iter().filter(|(member, life)| **member != me && map.is_alive(**member) && is_silent(life));
        silent.map(|(member, _)| *member).collect()
    }

    /// Those who are fenced, and are heard again.
    fn returned(&self, now: Instant) -> Vec<Member> {
        let is_back = |life: &Life| {
            life.fenced.is_some()
                && life.beats >= BEATS_TO_RETURN
                && now.duration_since(life.heard) < timing::HEARTBEAT * 2
        };
        self.0.iter().filter(|(_, life)| is_back(life)).map(|(member, _)| *member).collect()
    }

    /// When there may be something new: somebody's silence may have lasted for long enough, or who is fenced was heard.
    fn next_look(&self, me: Member, now: Instant) -> Instant {
        let soon = now + timing::WATCH;
        if self.0.values().any(|life| life.fenced.is_some()) {
            return soon;
        }
        let others = self.0.iter().filter(|(member, _)| **member != me);
        let silent = others.map(|(_, life)| life.heard + timing::SILENCE).min().unwrap_or(soon);
        silent.clamp(soon, now + timing::HEARTBEAT)
    }

    /// Those who have been fenced for so long.
    fn lost(&self, map: &ClusterMap, after: Duration, now: Instant) -> Vec<Member> {
        let is_fenced = |member: &Member| map.node(member.node).is_some_and(|node| node.liveness == Liveness::Fenced);
        let is_lost = |life: &Life| life.fenced.is_some_and(|since| now.duration_since(since) > after);
        self.0.iter().filter(|(member, life)| is_fenced(member) && is_lost(life)).map(|(member, _)| *member).collect()
    }
}

impl Shared {
    /// Notes a sign of life.
    pub(super) fn heard_of(&self, member: Member) {
        lock(&self.heard).note(member, Instant::now());
    }
}

/// Looks for dead members while this process leads the group and there are others. For ever.
pub(super) async fn keep_watch(shared: Arc<Shared>, group: Arc<Group>) {
    let (mut metrics, mut maps) = (group.raft.server_metrics(), group.replicated.map());
    let (mut last, mut was_leader) = (Instant::now(), false);
    loop {
        let map = maps.borrow_and_update().clone();
        let me = shared.me().filter(|_| group.is_leader() && map.nodes().count() > 1);
        let Some(me) = me else {
            was_leader = false;
            tokio::select! {
                _ = metrics.changed() => {}
                _ = maps.changed() => {}
                () = tokio::time::sleep(timing::SILENCE) => {}
            }
            last = Instant::now();
            continue;
        };
        let now = Instant::now();
        let was_paused = now.duration_since(last) > timing::PAUSED;
        let lost = shared.take_lost_leader();
        {
            let mut heard = lock(&shared.heard);
            heard.follow(&map, now);
            if was_paused || !was_leader {
                heard.forgive(now);
            }
            // Its silence is known to a majority, and has lasted for long enough.
            if let Some((member, since)) = lost.filter(|_| !was_paused) {
                heard.antedate(member, since);
            }
        }
        if !was_leader {
            shared.suspect_refusers();
        }
        was_leader = true;
        watch_once(&shared, &group, &map, me, now).await;
        // What took long by itself is no sign of a pause.
        last = Instant::now();
        let next = lock(&shared.heard).next_look(me, last);
        tokio::time::sleep_until(next).await;
    }
}

async fn watch_once(shared: &Arc<Shared>, group: &Arc<Group>, map: &ClusterMap, me: Member, now: Instant) {
    let silent = lock(&shared.heard).silent(map, me, now);
    if !silent.is_empty() && still_leads(group).await {
        // Asking took a while; whoever was heard in between is not silent.
        let still = lock(&shared.heard).silent(map, me, Instant::now());
        for member in still.into_iter().filter(|member| silent.contains(member)) {
            tracing::warn!(node = %member.node, "silent for four heartbeats");
            decide(group, Command::Fence { member }).await;
        }
    }
    let (returned, lost) = {
        let heard = lock(&shared.heard);
        (heard.returned(now), heard.lost(map, shared.config.dead_after, now))
    };
    for member in returned {
        tracing::info!(node = %member.node, "heard again");
        decide(group, Command::Unfence { member }).await;
    }
    for member in lost {
        tracing::warn!(node = %member.node, "dead for so long that its copies are rebuilt");
        decide(group, Command::Evict { member }).await;
    }
}

/// Whether a quorum agrees that this process leads.
async fn still_leads(group: &Group) -> bool {
    matches!(tokio::time::timeout(timing::CALL, group.raft.ensure_linearizable()).await, Ok(Ok(_)))
}

async fn decide(group: &Group, command: Command) {
    if let Err(error) = group.write(Request::Command(command)).await {
        tracing::debug!(%error, "a decision about a member could not be recorded; it will be looked at again");
    }
}

/// Looks into suspicions while this process leads, for ever. Each is looked into once at a time.
pub(super) async fn keep_inquiring(shared: Arc<Shared>, mut suspicions: mpsc::UnboundedReceiver<Suspicion>) {
    let mut inquiries: JoinSet<Member> = JoinSet::new();
    let mut under_way = BTreeSet::new();
    loop {
        let suspicion = tokio::select! {
            Some(done) = inquiries.join_next() => {
                if let Ok(member) = done {
                    under_way.remove(&member);
                }
                continue;
            }
            suspicion = suspicions.recv() => suspicion,
        };
        let Some(Suspicion { member, how, by }) = suspicion else { return };
        let Some(group) = shared.group().filter(|group| group.is_leader()) else { continue };
        let is_new = shared.map().is_alive(member) && shared.me() != Some(member) && !under_way.contains(&member);
        // Silence is counted by the leader itself.
        if how == How::Refused && is_new && under_way.len() < INQUIRIES_MAX {
            under_way.insert(member);
            let shared = shared.clone();
            inquiries.spawn(async move {
                if is_gone(&shared, member, by).await {
                    tracing::warn!(node = %member.node, "refuses connections");
                    decide(&group, Command::Fence { member }).await;
                }
                member
            });
        }
    }
}

/// Whether a process is gone: its port refuses us, and somebody else sees it so too, unless there is nobody else.
async fn is_gone(shared: &Arc<Shared>, member: Member, by: Option<Member>) -> bool {
    let map = shared.map();
    let Some(node) = map.node(member.node) else { return false };
    let address = node.addresses.peer.clone();
    match shared.probe(member, &address).await {
        Err(DialError::Refused) => {}
        // Another process answers in its place: that one cannot be alive.
        Err(error) if error.is_gone() => return true,
        Ok(()) | Err(_) => return false,
    }
    let me = shared.me();
    if by.is_some() && by != me {
        return true;
    }
    let others: Vec<_> = map
        .nodes()
        .filter_map(|(id, node)| Some((map.alive(id)?, node.addresses.peer.clone())))
        .filter(|(other, _)| Some(*other) != me && *other != member)
        .collect();
    let verdicts = second_opinions(shared, member, &address, others).await;
    verdicts.is_empty() || verdicts.into_iter().any(|reach| reach == Some(pb::Reach::Refused))
}

/// What others say of whether a process can be reached; `None` for those who say nothing.
pub(super) async fn second_opinions(
    shared: &Arc<Shared>,
    member: Member,
    address: &str,
    others: Vec<(Member, String)>,
) -> Vec<Option<pb::Reach>> {
    let mut asking = JoinSet::new();
    for (_, other) in others {
        let shared = shared.clone();
        let request = pb::ProbeRequest { member: Some(pb_member(member)), address: address.to_owned() };
        asking.spawn(async move {
            let call = |mut client: super::Client| async move { client.probe(request).await };
            shared.ask(&other, timing::PROBE * 2, call).await.ok().map(|response| response.reach())
        });
    }
    asking.join_all().await
}

#[cfg(test)]
mod tests {
    use broky_proto::id::{ClusterId, Incarnation, NodeId, VBucketCount};
    use broky_ring::member::{Addresses, BootId, Copies, LogIndex, Zone};
    use broky_ring::state::ClusterState;

    use super::*;

    fn member(node: u32) -> Member {
        Member { node: NodeId(node), incarnation: Incarnation(1) }
    }

    #[tokio::test]
    async fn fenced_member_returns_after_two_heartbeats_and_not_on_an_old_one() {
        let (mut heard, start) = (Heard::default(), Instant::now());
        heard.note(member(1), start);
        heard.0.get_mut(&member(1)).unwrap().fenced = Some(start);
        heard.0.get_mut(&member(1)).unwrap().beats = 0;
        assert!(heard.returned(start).is_empty());
        heard.note(member(1), start + timing::HEARTBEAT);
        assert!(heard.returned(start + timing::HEARTBEAT).is_empty());
        heard.note(member(1), start + timing::HEARTBEAT * 2);
        assert_eq!(heard.returned(start + timing::HEARTBEAT * 2), [member(1)]);
        assert!(heard.returned(start + timing::HEARTBEAT * 5).is_empty());
    }

    /// A map of two nodes that live.
    fn map() -> ClusterMap {
        let mut state = ClusterState::new();
        let vbuckets = VBucketCount::new(8).unwrap();
        let found = Command::Found {
            cluster: ClusterId([1; 16]),
            vbuckets,
            shards: std::num::NonZeroU16::MIN,
            copies: Copies::DEFAULT,
            expect: 1,
        };
        state.apply(LogIndex(1), found);
        for (index, name) in [(2, "a"), (3, "b")] {
            let (boot, addresses) = (BootId([index; 16]), Addresses::default());
            let register = Command::Register { name: name.to_owned(), boot, addresses, zone: Zone::default() };
            state.apply(LogIndex(index.into()), register);
        }
        state.map().clone()
    }

    #[tokio::test]
    async fn lost_leader_is_silent_since_its_last_answer_and_not_since_the_election() {
        let (map, mut heard, elected) = (map(), Heard::default(), Instant::now() + timing::SILENCE * 2);
        let [me, old] = map.nodes().map(|(id, _)| map.alive(id).unwrap()).collect::<Vec<_>>()[..] else { panic!() };
        heard.follow(&map, elected);
        heard.forgive(elected);
        assert!(heard.silent(&map, me, elected).is_empty());
        heard.antedate(old, elected - timing::SILENCE * 2);
        assert_eq!(heard.silent(&map, me, elected), [old]);
    }

    #[tokio::test]
    async fn next_look_is_when_the_first_may_be_silent_and_soon_when_somebody_is_fenced() {
        let (mut heard, start) = (Heard::default(), Instant::now());
        let late = start + timing::HEARTBEAT;
        heard.note(member(1), start);
        heard.note(member(2), late);
        // This process itself, of which nothing is heard.
        heard.note(member(3), start - timing::SILENCE);
        assert_eq!(heard.next_look(member(3), late), late + timing::HEARTBEAT);
        let nearly = start + timing::SILENCE - timing::WATCH * 2;
        assert_eq!(heard.next_look(member(3), nearly), start + timing::SILENCE);
        assert_eq!(heard.next_look(member(3), start + timing::SILENCE), start + timing::SILENCE + timing::WATCH);
        heard.0.get_mut(&member(2)).unwrap().fenced = Some(late);
        assert_eq!(heard.next_look(member(3), late), late + timing::WATCH);
    }

    #[tokio::test]
    async fn lost_leader_that_was_heard_since_is_not_silent() {
        let (map, mut heard, elected) = (map(), Heard::default(), Instant::now() + timing::SILENCE * 2);
        let [me, old] = map.nodes().map(|(id, _)| map.alive(id).unwrap()).collect::<Vec<_>>()[..] else { panic!() };
        heard.follow(&map, elected);
        heard.note(old, elected);
        heard.antedate(old, elected - timing::SILENCE * 2);
        assert!(heard.silent(&map, me, elected + timing::SILENCE).is_empty());
        assert_eq!(heard.silent(&map, me, elected + timing::SILENCE * 2), [old]);
    }
}
