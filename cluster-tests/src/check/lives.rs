//! Who lived when: the supervisor's word, and what the cluster calls those processes.
//!
//! A process is dead when the supervisor says that it exited. One that is paused, cut off, fenced, or of which nobody
//! heard, lives and holds what it holds. A member of the cluster of which nobody says which process it is counts as
//! alive: a loss is excused by proof, not by the lack of it.

use std::collections::{BTreeMap, BTreeSet};

use broky_proto::id::Member;

use super::names::ClusterNo;
use crate::history::{Nanos, Pid};

/// Names one process.
type Process = (String, Pid);

#[derive(Clone, Default, Debug)]
struct Life {
    spawned: Option<Nanos>,
    exited: Option<Nanos>,
    was_killed: bool,
    /// Since when, until when.
    pauses: Vec<(Nanos, Option<Nanos>)>,
}

/// Every process of a run.
#[derive(Default, Debug)]
pub(crate) struct Lives {
    processes: BTreeMap<Process, Life>,
    members: BTreeMap<(ClusterNo, Member), Process>,
}

impl Lives {
    pub(crate) fn spawn(&mut self, node: String, pid: Pid, at: Nanos) {
        self.life(node, pid).spawned = Some(at);
    }

    pub(crate) fn exit(&mut self, node: String, pid: Pid, at: Nanos, was_killed: bool) {
        let life = self.life(node, pid);
        (life.exited, life.was_killed) = (Some(at), was_killed);
    }

    pub(crate) fn pause(&mut self, node: String, pid: Pid, at: Nanos) {
        self.life(node, pid).pauses.push((at, None));
    }

    pub(crate) fn resume(&mut self, node: String, pid: Pid, at: Nanos) {
        if let Some((_, until @ None)) = self.life(node, pid).pauses.last_mut() {
            *until = Some(at);
        }
    }

    pub(crate) fn register(&mut self, cluster: ClusterNo, member: Member, node: String, pid: Pid) {
        self.members.insert((cluster, member), (node, pid));
    }

    /// Whether the supervisor said anything.
    pub(crate) fn is_supervised(&self) -> bool {
        !self.processes.is_empty()
    }

    /// When a member's process died. `None` when it lives, as far as anybody can tell.
    pub(crate) fn death(&self, cluster: ClusterNo, member: Member) -> Option<Nanos> {
        self.members.get(&(cluster, member)).and_then(|process| self.processes.get(process))?.exited
    }

    /// Whether a member's process is known to live at a moment.
    pub(crate) fn lives_at(&self, cluster: ClusterNo, member: Member, at: Nanos) -> bool {
        let life = self.members.get(&(cluster, member)).and_then(|process| self.processes.get(process));
        life.is_some_and(|life| life.exited.is_none_or(|exited| exited > at))
    }

    /// How many nodes have a process at a moment.
    pub(crate) fn nodes_at(&self, at: Nanos) -> usize {
        let is_there = |life: &Life| {
            life.spawned.is_some_and(|spawned| spawned <= at) && life.exited.is_none_or(|exited| exited > at)
        };
        let there = self.processes.iter().filter(|(_, life)| is_there(life));
        there.map(|((node, _), _)| node).collect::<BTreeSet<_>>().len()
    }

    /// Whether a node of this name has a process at a moment.
    pub(crate) fn has_process(&self, node: &str, at: Nanos) -> bool {
        let own = self.processes.iter().filter(|((name, _), _)| name == node);
        own.map(|(_, life)| life).any(|life| life.exited.is_none_or(|exited| exited > at))
    }

    /// The spans in which no majority of the nodes ran, without those that left by themselves.
    ///
    /// A node is counted from its first start; one that was killed is still counted, one that ended by itself is not
    /// until it starts again.
    pub(crate) fn without_majority(&self) -> Vec<(Nanos, Nanos)> {
        let mut running: BTreeMap<&str, bool> = BTreeMap::new();
        let mut spans = Vec::new();
        let mut since = None;
        for (at, node, change) in self.changes() {
            match change {
                Change::Runs => drop(running.insert(node, true)),
                Change::Rests => drop(running.insert(node, false)),
                Change::Leaves => drop(running.remove(node)),
            }
            let up = running.values().filter(|runs| **runs).count();
            let has_majority = 2 * up > running.len();
            match (has_majority, since) {
                (true, Some(from)) => {
                    spans.push((from, at));
                    since = None;
                }
                (false, None) => since = Some(at),
                (true, None) | (false, Some(_)) => {}
            }
        }
        spans.extend(since.map(|from| (from, Nanos(u64::MAX))));
        spans
    }

    fn changes(&self) -> Vec<(Nanos, &str, Change)> {
        let mut changes = Vec::new();
        for ((node, _), life) in &self.processes {
            let mut add = |at: Option<Nanos>, change| changes.extend(at.map(|at| (at, node.as_str(), change)));
            add(life.spawned, Change::Runs);
            for (from, until) in &life.pauses {
                add(Some(*from), Change::Rests);
                add(*until, Change::Runs);
            }
            add(life.exited, if life.was_killed { Change::Rests } else { Change::Leaves });
        }
        changes.sort_unstable();
        changes
    }

    fn life(&mut self, node: String, pid: Pid) -> &mut Life {
        self.processes.entry((node, pid)).or_default()
    }
}

/// What happened to a node, those first that count last when they come at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Leaves,
    Rests,
    Runs,
}

#[cfg(test)]
mod tests {
    use broky_proto::id::{Incarnation, NodeId};

    use super::*;

    fn member(node: u32) -> Member {
        Member { node: NodeId(node), incarnation: Incarnation(u64::from(node)) }
    }

    fn three() -> Lives {
        let mut lives = Lives::default();
        for (pid, node) in (1..).zip(["a", "b", "c"]) {
            lives.spawn(node.to_owned(), Pid(pid), Nanos(0));
            lives.register(ClusterNo(0), member(pid), node.to_owned(), Pid(pid));
        }
        lives
    }

    #[test]
    fn paused_process_lives() {
        let mut lives = three();
        lives.pause("a".to_owned(), Pid(1), Nanos(5));
        assert_eq!(lives.death(ClusterNo(0), member(1)), None);
        lives.exit("a".to_owned(), Pid(1), Nanos(9), true);
        assert_eq!(lives.death(ClusterNo(0), member(1)), Some(Nanos(9)));
        assert!(lives.lives_at(ClusterNo(0), member(1), Nanos(8)));
    }

    #[test]
    fn member_whose_process_nobody_knows_is_not_dead() {
        let mut lives = three();
        lives.exit("a".to_owned(), Pid(1), Nanos(9), true);
        assert_eq!(lives.death(ClusterNo(0), member(7)), None);
        assert_eq!(lives.death(ClusterNo(1), member(1)), None);
    }

    #[test]
    fn majority_is_gone_while_two_of_three_rest() {
        let mut lives = three();
        lives.exit("a".to_owned(), Pid(1), Nanos(10), true);
        lives.pause("b".to_owned(), Pid(2), Nanos(20));
        lives.resume("b".to_owned(), Pid(2), Nanos(30));
        lives.spawn("a".to_owned(), Pid(4), Nanos(40));
        assert_eq!(lives.without_majority(), [(Nanos(20), Nanos(30))]);
        assert_eq!((lives.nodes_at(Nanos(15)), lives.nodes_at(Nanos(50))), (2, 3));
    }

    #[test]
    fn node_that_left_is_not_counted() {
        let mut lives = three();
        lives.exit("a".to_owned(), Pid(1), Nanos(10), false);
        lives.exit("b".to_owned(), Pid(2), Nanos(20), true);
        assert_eq!(lives.without_majority(), [(Nanos(20), Nanos(u64::MAX))]);
    }
}
