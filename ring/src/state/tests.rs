//! The machine, claim by claim.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use broky_proto::id::{ClusterId, Epoch, Incarnation, IsrVersion, Lineage, NodeId, VBucketCount, VBucketId};

use super::*;
use crate::command::{IsrChange, Step};
use crate::lineage::lineage_base;
use crate::map::Liveness;
use crate::member::{Addresses, Member, Zone};
use crate::placement::Placement;

const VB: VBucketId = VBucketId(0);

/// A state, and the log index that comes next. Checks every entry.
struct Cluster {
    state: ClusterState,
    index: u64,
}

impl Cluster {
    /// A cluster that is founded, expecting as many nodes as it gets, and placed.
    fn of(names: &[&str], vbuckets: u32, copies: Copies) -> Self {
        let mut cluster = Self { state: ClusterState::new(), index: 0 };
        let vbuckets = VBucketCount::new(vbuckets).unwrap();
        let expect = u16::try_from(names.len()).unwrap();
        let found = Command::Found { cluster: ClusterId([7; 16]), vbuckets, shards: NonZeroU16::MIN, copies, expect };
        assert_eq!(cluster.apply(found), Outcome::Found(Ok(())));
        for name in names {
            cluster.register(name);
        }
        cluster.converge();
        cluster
    }

    fn three(vbuckets: u32) -> Self {
        Self::of(&["a", "b", "c"], vbuckets, Copies::DEFAULT)
    }

    fn apply(&mut self, command: Command) -> Outcome {
        let before = self.state.clone();
        self.index += 1;
        let outcome = self.state.apply(LogIndex(self.index), command);
        self.state.check_invariants().unwrap();
        self.state.check_successor(&before).unwrap();
        outcome
    }

    /// A new process of this name.
    fn register(&mut self, name: &str) -> Member {
        let boot = BootId(u128::from(self.index + 1).to_le_bytes());
        match self.apply(register(name, boot, "")) {
            Outcome::Register(Ok(registration)) => registration.member,
            other => panic!("{other:?}"),
        }
    }

    fn member(&self, node: u32) -> Member {
        let incarnation = self.state.map().node(NodeId(node)).unwrap().incarnation;
        Member { node: NodeId(node), incarnation }
    }

    fn vb(&self) -> &VBucket {
        self.state.map().vbucket(VB).unwrap()
    }

    fn leader(&self) -> Member {
        self.vb().leader.unwrap()
    }

    fn fence(&mut self, node: u32) {
        let member = self.member(node);
        assert_eq!(self.apply(Command::Fence { member }), Outcome::Node(Ok(Effect::Changed)));
    }

    fn unfence(&mut self, node: u32) {
        let member = self.member(node);
        assert_eq!(self.apply(Command::Unfence { member }), Outcome::Node(Ok(Effect::Changed)));
    }

    /// The leader of the first vbucket proposes this ISR on top of the present one.
    fn alter(&mut self, isr: &[Member]) -> Result<IsrVersion, IsrRefusal> {
        let vb = self.vb();
        let change = IsrChange { vbucket: VB, epoch: vb.epoch, expected: vb.isr_version, isr: isr.to_vec() };
        let leader = self.leader();
        self.alter_as(leader, change)
    }

    fn alter_as(&mut self, leader: Member, change: IsrChange) -> Result<IsrVersion, IsrRefusal> {
        match self.apply(Command::AlterIsr { leader, changes: vec![change] }) {
            Outcome::AlterIsr(Ok(outcomes)) => outcomes[0],
            other => panic!("{other:?}"),
        }
    }

    fn step(&mut self, step: Step) -> Result<Effect, MoveRefusal> {
        match self.apply(Command::Move { steps: vec![step] }) {
            Outcome::Move(Ok(outcomes)) => outcomes[0],
            other => panic!("{other:?}"),
        }
    }

    /// Every leader takes every living copy into its ISR: all have caught up.
    fn catch_up(&mut self) -> bool {
        let map = self.state.map().clone();
        let mut has_changed = false;
        for (id, vb) in map.vbuckets() {
            let Some(leader) = vb.leader else { continue };
            let fits = |node: &&NodeId| {
                map.node(**node).is_some_and(|n| !n.is_draining) || vb.isr.iter().any(|m| m.node == **node)
            };
            let isr: Vec<Member> =
                vb.replicas.iter().chain(&vb.learners).filter(fits).filter_map(|node| map.alive(*node)).collect();
            let change = IsrChange { vbucket: id, epoch: vb.epoch, expected: vb.isr_version, isr };
            self.alter_as(leader, change).unwrap();
            has_changed |= self.state.map().vbucket(id) != Some(vb);
        }
        has_changed
    }

    /// Asks and proposes until nothing is left to do. Returns the rounds.
    fn converge(&mut self) -> usize {
        for round in 0..2000 {
            let moves = self.state.next_moves(MoveLimits::default());
            let is_idle = moves.is_empty();
            moves.into_iter().for_each(|command| assert_accepted(&self.apply(command)));
            if !self.catch_up() && is_idle {
                return round;
            }
        }
        panic!("does not converge: {:?}", self.state.next_moves(MoveLimits::default()));
    }

    fn leads(&self, node: u32) -> usize {
        self.state.map().vbuckets().filter(|(_, vb)| vb.leader.is_some_and(|l| l.node.0 == node)).count()
    }
}

fn register(name: &str, boot: BootId, zone: &str) -> Command {
    Command::Register { name: name.into(), boot, addresses: Addresses::default(), zone: Zone(zone.into()) }
}

fn assert_accepted(outcome: &Outcome) {
    match outcome {
        Outcome::Reassign(Ok(each)) => assert!(each.iter().all(|one| *one == Ok(Effect::Changed)), "{each:?}"),
        Outcome::Move(Ok(each)) => assert!(each.iter().all(|one| *one == Ok(Effect::Changed)), "{each:?}"),
        other => panic!("{other:?}"),
    }
}

mod leaving;
mod safety;

#[test]
fn nothing_is_done_before_the_founding() {
    let mut state = ClusterState::new();
    assert_eq!(state.apply(LogIndex(1), register("a", BootId::default(), "")), Outcome::NotFounded);
    assert_eq!(state.next_moves(MoveLimits::default()), []);
    state.check_invariants().unwrap();
}

#[test]
fn single_node_leads_everything_from_offset_zero() {
    let cluster = Cluster::of(&["a"], 16, Copies::DEFAULT);
    assert_eq!(cluster.leads(1), 16);
    assert_eq!((cluster.vb().lineage, lineage_base(cluster.vb().lineage).0), (Lineage(0), 0));
    assert_eq!((cluster.vb().isr.len(), cluster.vb().min_isr), (1, 1));
}

#[test]
fn expected_nodes_are_waited_for_and_placed_once() {
    let mut cluster = Cluster { state: ClusterState::new(), index: 0 };
    let vbuckets = VBucketCount::new(64).unwrap();
    let found = Command::Found {
        cluster: ClusterId([7; 16]),
        vbuckets,
        shards: NonZeroU16::MIN,
        copies: Copies::DEFAULT,
        expect: 3,
    };
    cluster.apply(found.clone());
    assert_eq!(cluster.apply(found), Outcome::Found(Err(FoundRefusal::Founded { cluster: ClusterId([7; 16]) })));
    cluster.register("a");
    cluster.register("b");
    assert_eq!(cluster.state.next_moves(MoveLimits::default()), []);
    cluster.register("c");
    for command in cluster.state.next_moves(MoveLimits::default()) {
        assert_accepted(&cluster.apply(command));
    }
    assert!(cluster.state.map().vbuckets().all(|(_, vb)| vb.isr.len() == 3 && vb.min_isr == 2 && vb.leader.is_some()));
    assert_eq!(cluster.state.next_moves(MoveLimits::default()), []);
    assert!((1..=3).all(|node| (21..=22).contains(&cluster.leads(node))));
}

#[test]
fn lead_that_was_given_up_is_given_back_when_that_is_not_too_soon() {
    let mut cluster = Cluster::three(1);
    let (leader, epoch) = (cluster.vb().leader.unwrap(), cluster.vb().epoch);
    cluster.apply(Command::Resign { leader, vbuckets: vec![(VBucketId(0), epoch)] });
    assert_ne!(cluster.vb().leader, Some(leader));
    let restless = BTreeSet::from([VBucketId(0)]);
    assert_eq!(cluster.state.next_moves_around(MoveLimits::default(), &restless), []);
    let steps = vec![Step::TransferLeadership { vbucket: VBucketId(0), to: leader.node }];
    assert_eq!(cluster.state.next_moves(MoveLimits::default()), [Command::Move { steps }]);
}

#[test]
fn restless_vbucket_is_taken_from_a_leader_that_is_drained() {
    let mut cluster = Cluster::three(1);
    let (leader, epoch) = (cluster.vb().leader.unwrap(), cluster.vb().epoch);
    cluster.apply(Command::Resign { leader, vbuckets: vec![(VBucketId(0), epoch)] });
    let successor = cluster.vb().leader.unwrap();
    cluster.apply(Command::Drain { node: successor.node, force: true });
    let restless = BTreeSet::from([VBucketId(0)]);
    for _ in 0..20 {
        for command in cluster.state.next_moves_around(MoveLimits::default(), &restless) {
            cluster.apply(command);
        }
    }
    assert_ne!(cluster.vb().leader, Some(successor));
}

#[test]
fn index_must_rise() {
    let mut cluster = Cluster::three(1);
    let before = cluster.state.clone();
    let stale = cluster.state.apply(before.applied(), Command::Fence { member: cluster.member(1) });
    assert_eq!(stale, Outcome::StaleIndex { applied: before.applied() });
    assert_eq!(cluster.state, before);
}

#[test]
fn registration_sent_twice_is_one() {
    let mut cluster = Cluster::three(4);
    let boot = BootId([9; 16]);
    let first = cluster.apply(register("a", boot, ""));
    let before = cluster.state.clone();
    assert_eq!(cluster.apply(register("a", boot, "")), first);
    assert_eq!(cluster.state.map(), before.map());
}

#[test]
fn late_registration_of_a_dead_process_unseats_nobody() {
    let mut cluster = Cluster::three(4);
    let (old, new) = (BootId([1; 16]), BootId([2; 16]));
    cluster.apply(register("a", old, ""));
    cluster.apply(register("a", new, ""));
    let current = cluster.member(1).incarnation;
    let outcome = cluster.apply(register("a", old, ""));
    assert_eq!(outcome, Outcome::Register(Err(RegisterRefusal::Replaced { current })));
    assert_eq!(cluster.member(1).incarnation, current);
}

#[test]
fn node_keeps_its_id_and_gets_a_new_incarnation() {
    let mut cluster = Cluster::three(4);
    let before = cluster.member(2);
    let after = cluster.register("b");
    assert_eq!(after.node, before.node);
    assert_eq!(after.incarnation, Incarnation(cluster.index));
    assert_eq!(cluster.register("d").node, NodeId(4));
}

#[test]
fn names_that_are_empty_or_too_long_are_refused() {
    let mut cluster = Cluster::three(4);
    for name in [String::new(), "x".repeat(NAME_BYTES_MAX + 1)] {
        let outcome = cluster.apply(register(&name, BootId([3; 16]), ""));
        assert_eq!(outcome, Outcome::Register(Err(RegisterRefusal::Name)));
    }
}

#[test]
fn oversized_batch_is_refused_whole() {
    let mut cluster = Cluster::three(4);
    let steps = vec![Step::Drop { vbucket: VB, node: NodeId(1) }; BATCH_MAX + 1];
    let outcome = cluster.apply(Command::Move { steps });
    assert_eq!(outcome, Outcome::Move(Err(BatchRefusal { len: BATCH_MAX + 1 })));
}

#[test]
fn dead_nodes_leaderships_are_spread_and_come_back() {
    let mut cluster = Cluster::three(128);
    let leads = |cluster: &Cluster| [1, 2, 3].map(|node| cluster.leads(node));
    let before = (leads(&cluster), cluster.index);
    assert_eq!(before.0, [43, 43, 42]);
    cluster.fence(1);
    assert_eq!(cluster.index, before.1 + 1, "one entry");
    assert_eq!(leads(&cluster), [0, 64, 64]);
    cluster.unfence(1);
    assert_eq!(leads(&cluster), [0, 64, 64], "it has to catch up first");
    cluster.converge();
    assert_eq!(leads(&cluster), before.0);
}

#[test]
fn second_node_joins_without_a_vbucket_ever_being_frozen() {
    let mut cluster = Cluster::of(&["a"], 8, Copies::DEFAULT);
    cluster.register("b");
    for _ in 0..10 {
        assert!(cluster.state.map().vbuckets().all(|(_, vb)| !vb.is_frozen()));
        for command in cluster.state.next_moves(MoveLimits::default()) {
            cluster.apply(command);
        }
        assert!(cluster.state.map().vbuckets().all(|(_, vb)| !vb.is_frozen()));
        cluster.catch_up();
    }
    assert!(cluster.state.map().vbuckets().all(|(_, vb)| vb.isr.len() == 2 && vb.min_isr == 2));
    assert_eq!((cluster.leads(1), cluster.leads(2)), (4, 4));
}

#[test]
fn death_lowers_neither_copies_nor_min_isr() {
    let mut cluster = Cluster::three(8);
    cluster.fence(2);
    cluster.fence(3);
    assert_eq!(cluster.state.goal(), Copies::DEFAULT);
    assert!(cluster.state.map().vbuckets().all(|(_, vb)| vb.min_isr == 2 && vb.is_frozen() && vb.replicas.len() == 3));
}

#[test]
fn configured_min_isr_holds_at_once() {
    let mut cluster = Cluster::of(&["a", "b", "c"], 4, Copies { replicas: 3, min_isr: 1 });
    cluster.fence(2);
    cluster.fence(3);
    assert!(!cluster.vb().is_frozen());
    let outcome = cluster.apply(Command::Configure { copies: Copies::DEFAULT });
    assert_eq!(outcome, Outcome::Configure(Ok(Effect::Changed)));
    assert!(cluster.vb().is_frozen());
    let bad = Copies { replicas: 2, min_isr: 3 };
    assert_eq!(cluster.apply(Command::Configure { copies: bad }), Outcome::Configure(Err(ConfigureRefusal(bad))));
}

#[test]
fn leader_reserves_offsets_one_stretch_at_a_time() {
    let mut cluster = Cluster::three(1);
    let (leader, epoch) = (cluster.leader(), cluster.vb().epoch);
    let extend = |epoch, end| Command::ExtendLineage { leader, vbucket: VB, epoch, end: Lineage(end) };
    assert_eq!(cluster.apply(extend(epoch, 2)), Outcome::ExtendLineage(Ok(Effect::Changed)));
    assert_eq!(cluster.apply(extend(epoch, 2)), Outcome::ExtendLineage(Ok(Effect::Unchanged)));
    let too_far = ExtendRefusal::TooFar { next: Lineage(2) };
    assert_eq!(cluster.apply(extend(epoch, 4)), Outcome::ExtendLineage(Err(too_far)));
    let not_leader = ExtendRefusal::NotLeader { epoch };
    assert_eq!(cluster.apply(extend(Epoch(1), 3)), Outcome::ExtendLineage(Err(not_leader)));
    for name in ["a", "b", "c"] {
        cluster.register(name);
    }
    assert_eq!((cluster.vb().lineage, cluster.vb().lineage_end), (Lineage(2), Lineage(3)));
}

#[test]
fn state_in_doubt_begins_everything_above_what_others_may_have_begun() {
    let doubted = |cluster: &mut Cluster| {
        let before = cluster.state.clone();
        cluster.index += 1_000;
        cluster.state.doubt(LogIndex(cluster.index));
        cluster.state.check_invariants().unwrap();
        for ((_, before), (_, now)) in before.map().vbuckets().zip(cluster.state.map().vbuckets()) {
            assert_eq!(now.leader, before.leader);
            let what = "another leader may have led in every epoch between";
            assert!(now.leader.is_none() || now.epoch == Epoch(cluster.index), "{what}");
            assert!(now.lineage > before.lineage_end, "another lineage may have begun and ended");
        }
    };
    // All that is left to lead is what led before.
    let mut cluster = Cluster::three(16);
    cluster.fence(2);
    cluster.fence(3);
    doubted(&mut cluster);
    // Nobody leads, and a lineage has yet to begin.
    let mut cluster = Cluster::of(&["a"], 16, Copies::DEFAULT);
    cluster.fence(1);
    doubted(&mut cluster);
    let member = cluster.member(1);
    cluster.apply(Command::Evict { member });
    assert!(!cluster.vb().has_holders());
    doubted(&mut cluster);
}

#[test]
fn map_from_what_was_decided_and_lost_becomes_that_of_the_state_in_doubt() {
    let mut cluster = Cluster::three(16);
    let survivor = cluster.state.clone();
    // Decided, known to somebody who lives, and lost.
    cluster.fence(2);
    cluster.register("c");
    cluster.register("d");
    cluster.apply(Command::Drain { node: NodeId(1), force: true });
    let mut map = cluster.state.map().clone();
    cluster.state = survivor;
    cluster.index += 1_000;
    cluster.state.doubt(LogIndex(cluster.index));
    cluster.state.check_invariants().unwrap();
    assert_eq!(map.merge(cluster.state.map().diff(map.version())), Ok(true));
    assert_eq!(map, *cluster.state.map());
}

#[test]
fn state_survives_serialisation() {
    let mut cluster = Cluster::three(16);
    cluster.fence(2);
    cluster.register("d");
    let json = serde_json::to_string(&cluster.state).unwrap();
    assert_eq!(serde_json::from_str::<ClusterState>(&json).unwrap(), cluster.state);
    let found = r#"{"Found":{"cluster":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"vbuckets":3,"copies":{"replicas":3,"min_isr":2},"expect":1}}"#;
    assert!(serde_json::from_str::<Command>(found).is_err(), "three vbuckets");
}

/// The checks would find a broken state: each of these breaks one rule.
#[test]
fn planted_faults_are_found() {
    let sound = Cluster::three(4).state;
    let rule = |plant: &dyn Fn(&mut ClusterState, &mut VBucket)| {
        let mut state = sound.clone();
        let mut vb = state.map.vbuckets[0].clone();
        plant(&mut state, &mut vb);
        state.map.vbuckets[0] = vb;
        state.check_invariants().unwrap_err().rule
    };
    let stale = |member: &Member| Member { incarnation: Incarnation(0), ..*member };
    let found = [
        rule(&|_, vb| vb.leader = vb.leader.as_ref().map(stale)),
        rule(&|_, vb| vb.isr = vb.isr.iter().map(stale).collect()),
        rule(&|state, _| state.map.nodes.get_mut(&NodeId(1)).unwrap().liveness = Liveness::Fenced),
        rule(&|_, vb| vb.replicas.truncate(2)),
        rule(&|_, vb| vb.leader = None),
        rule(&|_, vb| vb.eligible.extend(vb.isr.pop())),
        rule(&|_, vb| vb.learners = vb.replicas.clone()),
        rule(&|_, vb| vb.min_isr = 3),
        rule(&|_, vb| vb.epoch = Epoch(u64::MAX)),
        rule(&|_, vb| {
            vb.isr.clear();
            vb.leader = None;
        }),
    ];
    let expected = [
        "the leader is in the isr",
        "the isr is alive, in its current incarnations",
        "the isr is alive, in its current incarnations",
        "the isr is a subset of the replicas",
        "an isr has a leader",
        "there are eligible ones only below min_isr",
        "learners are no replicas",
        "min_isr is no more than can be had",
        "epochs are applied entries",
        "an empty vbucket is opened by who can",
    ];
    assert_eq!(found, expected);
    let mut newer = sound.clone();
    newer.map.vbuckets[0].lineage = Lineage(1);
    assert_eq!(newer.check_successor(&sound).unwrap_err().rule, "a history ends only when nobody can hold it");
    let mut cluster = Cluster::of(&["a"], 4, Copies::DEFAULT);
    let lost = cluster.state.clone();
    cluster.register("a");
    let mut newer = cluster.state;
    newer.map.vbuckets[0].epoch = lost.map.vbuckets[0].epoch;
    newer.map.vbuckets[0].leader = lost.map.vbuckets[0].leader;
    assert_eq!(newer.check_successor(&lost).unwrap_err().rule, "a new lineage has a new epoch");
}
