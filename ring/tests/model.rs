//! Replicas that follow the rules, run on this state machine, lose nothing.
//!
//! A model of the data path: processes with logs, leaders that replicate, commit and propose ISR changes, each going by
//! its own and possibly old map. Pushes, copying, commits, deaths, fencing, restarts and entries on their way
//! interleave at random. What must hold after every step: a committed log only ever grows within a lineage, and
//! **whoever the state counts as a holder (ISR or eligible) holds all of it**, so that electing a holder loses nothing.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use broky_proto::id::{ClusterId, Epoch, IsrVersion, Lineage, NodeId, VBucketCount, VBucketId};
use broky_ring::command::{Command, IsrChange, Outcome, Step};
use broky_ring::map::{ClusterMap, Liveness, VBucket};
use broky_ring::member::{Addresses, BootId, Copies, LogIndex, Member, Zone};
use broky_ring::state::{ClusterState, MoveLimits};
use proptest::prelude::*;

/// What one process holds of one vbucket, and what it does with it.
#[derive(Clone, Default, Debug)]
struct Replica {
    lineage: Lineage,
    log: Vec<u32>,
    /// The highest epoch heard of, from the map or a leader.
    epoch: Epoch,
    /// As a leader: how long the log was when the epoch began, what is committed, and what followers have.
    epoch_start: usize,
    high_watermark: usize,
    acked: BTreeMap<Member, usize>,
    /// As a leader: the change proposed and not yet decided, and on top of which version.
    proposed: Option<(IsrVersion, Vec<Member>)>,
}

struct Process {
    view: ClusterMap,
    replicas: BTreeMap<VBucketId, Replica>,
}

struct World {
    state: ClusterState,
    processes: BTreeMap<Member, Process>,
    in_flight: Vec<Command>,
    committed: BTreeMap<(VBucketId, Lineage), Vec<u32>>,
    next_id: u32,
    boots: u64,
}

const VBUCKETS: u32 = 2;

impl World {
    fn new(nodes: u8, copies: Copies) -> Self {
        let mut world = Self {
            state: ClusterState::new(),
            processes: BTreeMap::new(),
            in_flight: Vec::new(),
            committed: BTreeMap::new(),
            next_id: 0,
            boots: 0,
        };
        let vbuckets = VBucketCount::new(VBUCKETS).unwrap();
        world.apply(Command::Found {
            cluster: ClusterId([1; 16]),
            vbuckets,
            shards: NonZeroU16::MIN,
            copies,
            expect: u16::from(nodes),
        });
        (0..nodes).for_each(|name| world.start(name));
        world.control();
        world.processes.keys().copied().collect::<Vec<_>>().into_iter().for_each(|member| world.learn(member));
        world
    }

    fn apply(&mut self, command: Command) -> Outcome {
        let before = self.state.clone();
        let outcome = self.state.apply(LogIndex(self.state.applied().0 + 1), command);
        self.state.check_invariants().unwrap();
        self.state.check_successor(&before).unwrap();
        outcome
    }

    /// A process of this name starts; an older one of that name is dead.
    fn start(&mut self, name: u8) {
        self.boots += 1;
        let boot = BootId(u128::from(self.boots).to_le_bytes());
        let name = format!("n{name}");
        let known = self.state.map().nodes().find(|(_, node)| node.name == name).map(|(id, _)| id);
        self.processes.retain(|member, _| Some(member.node) != known);
        let register = Command::Register { name, boot, addresses: Addresses::default(), zone: Zone::default() };
        if let Outcome::Register(Ok(registration)) = self.apply(register) {
            let process = Process { view: ClusterMap::default(), replicas: BTreeMap::new() };
            self.processes.insert(registration.member, process);
        }
    }

    fn control(&mut self) {
        for command in self.state.next_moves(MoveLimits::default()) {
            self.apply(command);
        }
    }

    /// A process learns the newest map and takes the roles it gives.
    fn learn(&mut self, member: Member) {
        let Some(process) = self.processes.get_mut(&member) else { return };
        process.view = self.state.map().clone();
        for (id, vb) in process.view.vbuckets() {
            let replica = process.replicas.entry(id).or_default();
            if vb.lineage > replica.lineage {
                *replica = Replica { lineage: vb.lineage, epoch: replica.epoch, ..Replica::default() };
            }
            if vb.epoch > replica.epoch || vb.leader != Some(member) {
                replica.acked.clear();
                replica.proposed = None;
                replica.epoch_start = replica.log.len();
            }
            if replica.proposed.as_ref().is_some_and(|(version, _)| *version != vb.isr_version) {
                replica.proposed = None;
            }
            replica.epoch = replica.epoch.max(vb.epoch);
        }
    }

    /// Calls `lead` when the process believes that it leads the vbucket, in the highest epoch it has heard of.
    fn as_leader<T>(
        &mut self,
        member: Member,
        id: VBucketId,
        lead: impl FnOnce(&VBucket, &mut Replica) -> T,
    ) -> Option<T> {
        let process = self.processes.get_mut(&member)?;
        let vb = process.view.vbucket(id)?;
        let replica = process.replicas.get_mut(&id)?;
        let leads = vb.leader == Some(member) && vb.epoch == replica.epoch && vb.lineage == replica.lineage;
        leads.then(|| lead(vb, replica))
    }

    fn push(&mut self, member: Member, id: VBucketId) {
        self.next_id += 1;
        let message = self.next_id;
        self.as_leader(member, id, |vb, replica| {
            if !vb.is_frozen() {
                replica.log.push(message);
            }
        });
    }

    /// The leader sends a follower up to `count` messages, and hears how far it has got.
    fn replicate(&mut self, leader: Member, follower: Member, id: VBucketId, count: usize) {
        let fits = |vb: &VBucket, from: &mut Replica| vb.has_copy_at(follower.node).then(|| from.clone());
        let Some(Some(from)) = self.as_leader(leader, id, fits) else { return };
        let Some(process) = self.processes.get_mut(&follower) else { return };
        let to = process.replicas.entry(id).or_default();
        if leader == follower || to.epoch > from.epoch {
            return;
        }
        to.epoch = from.epoch;
        if to.lineage != from.lineage {
            *to = Replica { lineage: from.lineage, epoch: from.epoch, ..Replica::default() };
        }
        let same = from.log.iter().zip(&to.log).take_while(|(one, other)| one == other).count();
        to.log.truncate(same);
        to.log.extend(from.log.iter().skip(same).take(count));
        let end = to.log.len();
        self.as_leader(leader, id, |_, replica| replica.acked.insert(follower, end));
    }

    /// The leader commits what all that are, or are about to be, in sync have.
    fn commit(&mut self, leader: Member, id: VBucketId) {
        let committed = self.as_leader(leader, id, |vb, replica| {
            let proposed = replica.proposed.iter().flat_map(|(_, isr)| isr);
            let end = |member: &Member| match *member == leader {
                true => replica.log.len(),
                false => replica.acked.get(member).copied().unwrap_or(0),
            };
            let least = vb.isr.iter().chain(proposed).map(end).min().unwrap_or(0);
            if !vb.is_frozen() {
                replica.high_watermark = replica.high_watermark.max(least);
            }
            (replica.lineage, replica.log[..replica.high_watermark].to_vec())
        });
        if let Some((lineage, log)) = committed {
            let known = self.committed.entry((id, lineage)).or_default();
            let common = known.len().min(log.len());
            assert_eq!(known[..common], log[..common], "{id} {lineage}: committed twice, differently");
            if log.len() > known.len() {
                *known = log;
            }
        }
    }

    /// The leader proposes an ISR of those in `mask`: whoever is in it, and whoever has caught up.
    fn propose(&mut self, leader: Member, id: VBucketId, mask: u8) {
        let change = self.as_leader(leader, id, |vb, replica| {
            let enough = replica.high_watermark.max(replica.epoch_start);
            let caught_up = replica.acked.iter().filter(|(m, end)| **end >= enough && vb.has_copy_at(m.node));
            let mut isr: Vec<Member> = vb.isr.iter().copied().chain(caught_up.map(|(member, _)| *member)).collect();
            isr.retain(|member| *member == leader || mask >> (member.node.0 % 8) & 1 == 1);
            isr.sort();
            isr.dedup();
            if replica.proposed.is_some() || isr == vb.isr {
                return None;
            }
            replica.proposed = Some((vb.isr_version, isr.clone()));
            Some(IsrChange { vbucket: id, epoch: vb.epoch, expected: vb.isr_version, isr })
        });
        if let Some(Some(change)) = change {
            self.in_flight.push(Command::AlterIsr { leader, changes: vec![change] });
        }
    }

    /// An entry on its way arrives, now and then one of two; its proposer hears of it by the map.
    fn arrive(&mut self, nth: u8) {
        if self.in_flight.is_empty() {
            return;
        }
        let command = self.in_flight.remove(usize::from(nth) % self.in_flight.len());
        if nth.is_multiple_of(5) {
            self.in_flight.push(command.clone());
        }
        self.apply(command);
    }

    fn check(&self) {
        for (id, vb) in self.state.map().vbuckets() {
            let Some(committed) = self.committed.get(&(id, vb.lineage)) else { continue };
            for holder in vb.isr.iter().chain(&vb.eligible) {
                let Some(process) = self.processes.get(holder) else { continue };
                let empty = Replica::default();
                let replica = process.replicas.get(&id).unwrap_or(&empty);
                let has_all = replica.lineage == vb.lineage && replica.log.starts_with(committed);
                assert!(has_all || committed.is_empty(), "{holder} lacks {committed:?}: {replica:?} in {vb:?}");
            }
        }
    }

    fn member(&self, at: u8) -> Option<Member> {
        let len = self.processes.len().max(1);
        self.processes.keys().nth(usize::from(at) % len).copied()
    }

    fn step(&mut self, (kind, a, b, c): (u8, u8, u8, u8)) {
        let id = VBucketId(u16::from(c) % u16::try_from(VBUCKETS).unwrap());
        let Some(one) = self.member(a) else { return self.start(a % 4) };
        let other = self.member(b).unwrap_or(one);
        // Mostly what the leader does, sometimes what anybody who believes to be one does.
        let leader =
            self.state.map().vbucket(id).and_then(|vb| vb.leader).filter(|_| !a.is_multiple_of(8)).unwrap_or(one);
        match kind % 64 {
            0..=7 => self.push(leader, id),
            8..=25 => self.replicate(leader, other, id, usize::from(c >> 4)),
            26..=35 => self.commit(leader, id),
            36..=40 => self.propose(leader, id, b),
            41..=45 => self.arrive(b),
            46..=55 => self.learn(one),
            56 => {
                if let Some(member) = self.member(a) {
                    self.apply(Command::Fence { member });
                }
            }
            57 | 58 => {
                let dead = |n: &broky_ring::map::Node| n.liveness != Liveness::Alive;
                let fenced = self.state.map().nodes().find(|(_, node)| dead(node));
                let member = fenced.map(|(node, n)| Member { node, incarnation: n.incarnation });
                if let Some(member) = member.filter(|member| self.processes.contains_key(member)) {
                    self.apply(Command::Unfence { member });
                }
            }
            59 => self.restart(a, b),
            60 => self.rare(b, c, id),
            61 | 62 => self.calm(id),
            _ => self.control(),
        }
    }

    /// A process dies. It is back at once, or later, or never.
    fn restart(&mut self, a: u8, b: u8) {
        let Some(member) = self.member(a) else { return };
        let name = self.state.map().node(member.node).map(|node| node.name.clone());
        self.processes.remove(&member);
        if b.is_multiple_of(2)
            && let Some(name) = name.and_then(|name| name.trim_start_matches('n').parse().ok())
        {
            self.start(name);
        }
    }

    /// A while in which all goes well.
    fn calm(&mut self, id: VBucketId) {
        self.control();
        let members: Vec<Member> = self.processes.keys().copied().collect();
        for _ in 0..2 {
            members.iter().for_each(|member| self.learn(*member));
            let Some(leader) = self.state.map().vbucket(id).and_then(|vb| vb.leader) else { return };
            self.push(leader, id);
            members.iter().for_each(|member| self.replicate(leader, *member, id, usize::MAX));
            self.commit(leader, id);
            self.propose(leader, id, u8::MAX);
            (0..self.in_flight.len()).for_each(|_| self.arrive(0));
        }
    }

    fn rare(&mut self, b: u8, c: u8, id: VBucketId) {
        let node = NodeId(u32::from(b % 5) + 1);
        let command = match c % 8 {
            0 => Command::Drain { node, force: b > 128 },
            1 => Command::Undrain { node },
            2 => Command::Forget { node },
            3 => Command::Configure { copies: Copies { replicas: 3, min_isr: 1 + b % 3 } },
            4 => Command::Move { steps: vec![Step::TransferLeadership { vbucket: id, to: node }] },
            5 => return self.start(b % 5),
            _ => {
                let Some(vb) = self.state.map().vbucket(id) else { return };
                let Some(leader) = vb.leader else { return };
                Command::Resign { leader, vbuckets: vec![(id, vb.epoch)] }
            }
        };
        self.apply(command);
        // A forgotten process finds out and exits.
        let map = self.state.map();
        self.processes.retain(|member, _| map.is_current(*member));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn holders_hold_everything_committed(
        steps in prop::collection::vec(any::<(u8, u8, u8, u8)>(), 1..800),
        nodes in 1..5_u8,
        min_isr in 1..4_u8,
    ) {
        let mut world = World::new(nodes, Copies { replicas: 3, min_isr });
        for step in steps {
            world.step(step);
            world.check();
        }
    }
}
