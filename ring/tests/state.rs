//! Any commands in any order, sensible, stale or absurd: nothing panics, every invariant holds after every entry, a
//! refusal changes nothing, and the same commands give the same state.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::num::NonZeroU16;

use broky_proto::id::{
    ClusterId, Epoch, Incarnation, IsrVersion, Lineage, MapVersion, NodeId, VBucketCount, VBucketId,
};
use broky_ring::command::{Command, Effect, IsrChange, Outcome, Step};
use broky_ring::map::{ClusterMap, VBucket};
use broky_ring::member::{Addresses, BootId, Copies, LogIndex, Member, Zone};
use broky_ring::placement::Placement;
use broky_ring::state::{ClusterState, IsrRefusal, MoveLimits};
use proptest::prelude::*;

/// What to do, still without knowledge of the state it will be done to.
#[derive(Clone, Copy, Debug)]
struct Op {
    kind: u8,
    a: u8,
    b: u8,
    c: u8,
}

fn ops(len: usize) -> impl Strategy<Value = Vec<Op>> {
    let op = any::<(u8, u8, u8, u8)>().prop_map(|(kind, a, b, c)| Op { kind, a, b, c });
    prop::collection::vec(op, 1..len)
}

const VBUCKETS: u16 = 8;

fn node(at: u8) -> NodeId {
    NodeId(u32::from(at % 7))
}

fn vbucket(at: u8) -> VBucketId {
    VBucketId(u16::from(at) % (VBUCKETS + 1))
}

/// Mostly the current lifetime of a node, sometimes another.
fn member(state: &ClusterState, at: u8, tweak: u8) -> Member {
    let id = node(at);
    let current = state.map().node(id).map_or(Incarnation(3), |node| node.incarnation);
    let incarnation = if tweak.is_multiple_of(8) { Incarnation(current.0.wrapping_sub(1)) } else { current };
    Member { node: id, incarnation }
}

/// A leader's proposal, sometimes with something wrong in it.
fn isr_change(state: &ClusterState, op: Op) -> (Member, IsrChange) {
    let id = vbucket(op.a);
    let empty = VBucket::default();
    let vb = state.map().vbucket(id).unwrap_or(&empty);
    let copies = vb.replicas.iter().chain(&vb.learners);
    let mut isr: Vec<Member> = copies
        .zip(0..8)
        .filter(|(_, bit)| op.b >> bit & 1 == 1)
        .map(|(node, _)| member(state, u8::try_from(node.0).unwrap(), op.c | 1))
        .chain(vb.leader)
        .collect();
    isr.sort();
    isr.dedup();
    let mut change = IsrChange { vbucket: id, epoch: vb.epoch, expected: vb.isr_version, isr };
    let mut leader = vb.leader.unwrap_or(member(state, op.b, 1));
    match op.c % 24 {
        0 => change.epoch = Epoch(change.epoch.0 + 1),
        1 => change.expected = IsrVersion(change.expected.0.wrapping_sub(1)),
        2 => change.isr.push(member(state, op.b, 0)),
        3 => change.isr.retain(|member| *member != leader),
        4 => leader.incarnation.0 += 1,
        5 => change.isr.extend(change.isr.clone()),
        _ => {}
    }
    (leader, change)
}

/// The commands that an op stands for in this state.
fn commands(state: &ClusterState, op: Op) -> Vec<Command> {
    let Op { kind, a, b, c } = op;
    let command = match kind % 20 {
        0 | 1 => Command::Register {
            name: if c == 0 { String::new() } else { format!("n{}", a % 6) },
            boot: BootId([b; 16]),
            addresses: Addresses::default(),
            zone: Zone(format!("z{}", c % 3)),
        },
        2 | 3 => Command::Fence { member: member(state, a, b) },
        4 | 5 => Command::Unfence { member: member(state, a, b) },
        6 => Command::Evict { member: member(state, a, b) },
        7 => Command::Drain { node: node(a), force: b.is_multiple_of(2) },
        8 => Command::Undrain { node: node(a) },
        9 => Command::Forget { node: node(a) },
        10..=12 => {
            let (leader, change) = isr_change(state, op);
            Command::AlterIsr { leader, changes: vec![change] }
        }
        13 => {
            let (leader, change) = isr_change(state, op);
            Command::Resign { leader, vbuckets: vec![(change.vbucket, change.epoch)] }
        }
        14 => {
            let (leader, IsrChange { vbucket, epoch, .. }) = isr_change(state, op);
            Command::ExtendLineage { leader, vbucket, epoch, end: Lineage(u64::from(b % 8)) }
        }
        15 => Command::Reassign {
            targets: vec![(
                vbucket(a),
                Placement([b, c, b ^ c].into_iter().take(usize::from(a % 4)).map(node).collect()),
            )],
        },
        16 => Command::Move {
            steps: vec![
                match c % 3 {
                    0 => Step::AddLearner { vbucket: vbucket(a), node: node(b) },
                    1 => Step::TransferLeadership { vbucket: vbucket(a), to: node(b) },
                    _ => Step::Drop { vbucket: vbucket(a), node: node(b) },
                };
                2
            ],
        },
        17 if c < 200 => Command::Configure { copies: Copies { replicas: a % 5, min_isr: b % 5 } },
        17 => Command::Found {
            cluster: ClusterId([a; 16]),
            vbuckets: VBucketCount::DEFAULT,
            shards: NonZeroU16::MIN,
            copies: Copies::DEFAULT,
            expect: 1,
        },
        _ => return state.next_moves(MoveLimits::default()),
    };
    vec![command]
}

/// Whether the answer says that something was refused, and nothing was done.
fn is_refusal(outcome: &Outcome) -> bool {
    fn none<T, E>(each: &[Result<T, E>]) -> bool {
        each.iter().all(Result::is_err)
    }
    match outcome {
        Outcome::StaleIndex { .. } | Outcome::NotFounded => true,
        Outcome::Found(result) => result.is_err(),
        Outcome::Register(result) => result.is_err(),
        Outcome::Node(result) => *result != Ok(Effect::Changed),
        // A leader's next change uses up its version also when it is refused.
        Outcome::AlterIsr(result) => result.as_ref().map_or(true, |each| each.iter().all(|one| is_stale(*one))),
        Outcome::Resign(result) => result.as_ref().map_or(true, |each| none(each)),
        Outcome::ExtendLineage(result) => *result != Ok(Effect::Changed),
        Outcome::Reassign(result) => result.as_ref().map_or(true, |each| none(each)),
        Outcome::Move(result) => result.as_ref().map_or(true, |each| none(each)),
        Outcome::Configure(result) => *result != Ok(Effect::Changed),
    }
}

fn is_stale(outcome: Result<IsrVersion, IsrRefusal>) -> bool {
    use IsrRefusal::{NotLeader, StaleVersion, UnknownVBucket};
    matches!(outcome, Err(UnknownVBucket | NotLeader { .. } | StaleVersion { .. }))
}

fn assert_proposal_accepted(outcome: &Outcome) {
    match outcome {
        Outcome::Reassign(Ok(each)) => assert!(each.iter().all(|one| *one == Ok(Effect::Changed)), "{each:?}"),
        Outcome::Move(Ok(each)) => assert!(each.iter().all(|one| *one == Ok(Effect::Changed)), "{each:?}"),
        other => panic!("{other:?}"),
    }
}

fn founded(expect: u16) -> ClusterState {
    let mut state = ClusterState::new();
    let vbuckets = VBucketCount::new(u32::from(VBUCKETS)).unwrap();
    let found = Command::Found {
        cluster: ClusterId([1; 16]),
        vbuckets,
        shards: NonZeroU16::MIN,
        copies: Copies::DEFAULT,
        expect,
    };
    assert_eq!(state.apply(LogIndex(1), found), Outcome::Found(Ok(())));
    state
}

/// Every leader takes all that live and stay into its ISR, and the controller proposes, until nothing is left to do.
fn converge(state: &mut ClusterState) {
    for _ in 0..300 {
        let mut todo = state.next_moves(MoveLimits::default());
        for (id, vb) in state.map().vbuckets() {
            let Some(leader) = vb.leader else { continue };
            let stays = |m: &Member| vb.isr.contains(m) || !state.map().node(m.node).unwrap().is_draining;
            let copies = vb.replicas.iter().chain(&vb.learners).filter_map(|node| state.map().alive(*node));
            let mut isr: Vec<Member> = copies.filter(stays).collect();
            isr.sort();
            if isr != vb.isr {
                let change = IsrChange { vbucket: id, epoch: vb.epoch, expected: vb.isr_version, isr };
                todo.push(Command::AlterIsr { leader, changes: vec![change] });
            }
        }
        if todo.is_empty() {
            return;
        }
        for command in todo {
            state.apply(LogIndex(state.applied().0 + 1), command);
            state.check_invariants().unwrap();
        }
    }
    panic!("does not converge: {:?}", state.next_moves(MoveLimits::default()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_commands_keep_the_invariants(ops in ops(120), expect in 0..4_u16) {
        let mut state = founded(expect);
        let (mut twin, mut follower) = (state.clone(), ClusterMap::default());
        for op in ops {
            for command in commands(&state, op) {
                let is_proposal = op.kind % 20 >= 18;
                let before = state.clone();
                // Entries of other kinds (raft's own) leave holes in the indices.
                let index = LogIndex(state.applied().0 + 1 + u64::from(op.c % 3));
                let outcome = state.apply(index, command.clone());
                prop_assert_eq!(state.check_invariants(), Ok(()), "after {:?}", command);
                prop_assert_eq!(state.check_successor(&before), Ok(()), "after {:?}", command);
                if is_refusal(&outcome) {
                    prop_assert_eq!(state.map(), before.map(), "{:?} {:?}", command, outcome);
                }
                if is_proposal && state.map().vbuckets().count() > 0 {
                    assert_proposal_accepted(&outcome);
                }
                let stale = LogIndex(state.applied().0 - u64::from(op.b % 2));
                let unchanged = state.clone();
                prop_assert_eq!(state.apply(stale, command.clone()), Outcome::StaleIndex { applied: index });
                prop_assert_eq!(&state, &unchanged);
                prop_assert_eq!(twin.apply(index, command), outcome);
            }
            prop_assert_eq!(&twin, &state);
            if op.b.is_multiple_of(4) {
                // A snapshot instead of entries.
                let json = serde_json::to_vec(&twin).unwrap();
                twin = serde_json::from_slice(&json).unwrap();
            }
            if op.a.is_multiple_of(3) {
                let since = if op.c.is_multiple_of(5) { MapVersion(0) } else { follower.version() };
                follower.merge(state.map().diff(since)).unwrap();
                prop_assert_eq!(&follower, state.map());
            }
        }
    }

    /// Whatever has happened and whoever stays dead: the controller comes to rest.
    #[test]
    fn controller_comes_to_rest(ops in ops(80)) {
        let mut state = founded(2);
        for op in ops {
            for command in commands(&state, op) {
                state.apply(LogIndex(state.applied().0 + 1), command);
            }
        }
        converge(&mut state);
        prop_assert_eq!(state.next_moves(MoveLimits::default()), []);
    }

    /// Whatever has happened: once everybody is alive again and the controller has its way, everything is replicated,
    /// balanced and where it should be, and nothing is left to propose.
    #[test]
    fn any_state_heals(ops in ops(80)) {
        let mut state = founded(2);
        for op in ops {
            for command in commands(&state, op) {
                state.apply(LogIndex(state.applied().0 + 1), command);
            }
        }
        let mut heal = vec![Command::Configure { copies: Copies::DEFAULT }];
        for name in 0..4_u8 {
            let (name, boot) = (format!("n{name}"), BootId([name, 255, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]));
            heal.push(Command::Register { name, boot, addresses: Addresses::default(), zone: Zone::default() });
        }
        let nodes: Vec<Member> =
            state.map().nodes().map(|(id, node)| Member { node: id, incarnation: node.incarnation }).collect();
        heal.extend(nodes.iter().map(|member| Command::Unfence { member: *member }));
        heal.extend(nodes.iter().map(|member| Command::Undrain { node: member.node }));
        for command in heal {
            state.apply(LogIndex(state.applied().0 + 1), command);
        }
        converge(&mut state);
        for (_, vb) in state.map().vbuckets() {
            prop_assert_eq!(vb.leader.map(|leader| leader.node), vb.target.leader(), "{:?}", vb);
            prop_assert_eq!((vb.isr.len(), vb.min_isr, vb.learners.len()), (3, 2, 0));
            prop_assert_eq!(&vb.replicas, &vb.target.0);
        }
    }
}
