//! The nemesis: what goes wrong, when, and for how long.

use std::time::Duration;

use broky_proto::id::{Member, NodeId};
use broky_ring::map::Liveness;

use super::network::Place;
use super::rng::Rng;
use super::streams::{Side, StreamId};
use super::world::{Event, World};
use crate::history::FaultPhase;

/// Something that goes wrong. Each kind comes again and again; what lasts ends by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Kill,
    Restart(usize),
    Pause,
    Resume(usize),
    Cut,
    /// Nothing passes from one party to another.
    CutWay(Place, Place),
    Isolate,
    Clog,
    ClogWay(Place, Place),
    Reset,
    Total,
    Leaderless,
    Churn,
}

impl Fault {
    /// Its kind, in a word.
    fn name(self) -> &'static str {
        match self {
            Self::Kill | Self::Restart(_) => "kill",
            Self::Pause | Self::Resume(_) => "pause",
            Self::Cut | Self::CutWay(..) => "cut",
            Self::Isolate => "isolate",
            Self::Clog | Self::ClogWay(..) => "clog",
            Self::Reset => "reset",
            Self::Total => "total",
            Self::Leaderless => "leaderless",
            Self::Churn => "churn",
        }
    }

    pub(super) fn code(self) -> u64 {
        match self {
            Self::Kill => 1,
            Self::Restart(at) => 2 | (at as u64) << 8,
            Self::Pause => 3,
            Self::Resume(at) => 4 | (at as u64) << 8,
            Self::Cut => 5,
            Self::CutWay(from, to) => 6 | from.code() << 8 | to.code() << 24,
            Self::Isolate => 7,
            Self::Clog => 8,
            Self::ClogWay(from, to) => 9 | from.code() << 8 | to.code() << 24,
            Self::Reset => 10,
            Self::Total => 11,
            Self::Leaderless => 12,
            Self::Churn => 13,
        }
    }
}

/// Nodes of a run, at most.
const NODES_MAX: usize = 8;

/// See the module.
pub(super) struct Nemesis {
    rng: Rng,
}

impl Nemesis {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::stream(seed, "faults") }
    }
}

impl World {
    /// Lets things go wrong from now on.
    pub(super) fn begin_faults(&mut self) {
        for fault in [
            Fault::Kill,
            Fault::Pause,
            Fault::Cut,
            Fault::Isolate,
            Fault::Clog,
            Fault::Reset,
            Fault::Total,
            Fault::Leaderless,
            Fault::Churn,
        ] {
            self.strike_later(fault);
        }
    }

    fn strike_later(&mut self, fault: Fault) {
        let options = &self.options;
        let every = match fault {
            Fault::Kill => options.kill_every_ms,
            Fault::Pause => options.pause_every_ms,
            Fault::Cut => options.cut_every_ms,
            Fault::Isolate => options.isolate_every_ms,
            Fault::Clog => options.clog_every_ms,
            Fault::Reset => options.reset_every_ms,
            Fault::Total => options.total_every_ms,
            Fault::Leaderless => options.leaderless_every_ms,
            Fault::Churn => options.churn_every_ms,
            Fault::Restart(_) | Fault::Resume(_) | Fault::CutWay(..) | Fault::ClogWay(..) => 0,
        };
        if every > 0 {
            let wait = self.nemesis.rng.around(Duration::from_millis(every));
            self.schedule.after(wait, Event::Fault(fault));
        }
    }

    /// Something goes wrong.
    pub(super) fn strike(&mut self, fault: Fault) {
        if self.is_calm {
            return;
        }
        self.strike_later(fault);
        self.checks.coverage.faults += 1;
        let running: Vec<usize> = (0..self.nodes.len()).filter(|at| self.nodes[*at].is_running).collect();
        let Some(node) = self.nemesis.rng.pick(&running) else { return };
        self.record_strike(fault, node);
        match fault {
            Fault::Kill => {
                self.kill_node(node);
                let wait = self.lasting(Duration::from_secs(4));
                self.schedule.after(wait, Event::Mend(Fault::Restart(node)));
            }
            Fault::Total => {
                for at in running {
                    self.kill_node(at);
                    let wait = self.lasting(Duration::from_secs(1));
                    self.schedule.after(wait, Event::Mend(Fault::Restart(at)));
                }
            }
            Fault::Pause => {
                self.pause_node(node);
                let wait = self.lasting(Duration::from_secs(2));
                self.schedule.after(wait, Event::Mend(Fault::Resume(node)));
            }
            Fault::Cut => {
                let (from, to) = self.some_way();
                self.cut_way(from, to);
            }
            Fault::Isolate => self.isolate(node),
            Fault::Clog => {
                let (from, to) = self.some_way();
                let longer = self.nemesis.rng.within(Duration::from_millis(50), Duration::from_secs(5));
                self.network.clog(from, to, longer);
                let wait = self.lasting(Duration::from_secs(3));
                self.schedule.after(wait, Event::Mend(Fault::ClogWay(from, to)));
            }
            Fault::Reset => self.reset_some(),
            Fault::Leaderless => {
                let wait = self.lasting(Duration::from_secs(2));
                let until = self.now().plus(wait);
                self.metadata.lose_leader(until);
            }
            Fault::Churn => self.churn(),
            Fault::Restart(_) | Fault::Resume(_) | Fault::CutWay(..) | Fault::ClogWay(..) => {}
        }
    }

    fn record_strike(&mut self, fault: Fault, node: usize) {
        let name = self.nodes[node].name.clone();
        let target = || match fault {
            Fault::Kill | Fault::Pause | Fault::Isolate => name,
            _ => "any".to_owned(),
        };
        self.record_fault(fault.name(), target, FaultPhase::Start);
    }

    /// How long something lasts: mostly a moment, sometimes much longer.
    fn lasting(&mut self, mean: Duration) -> Duration {
        let mean = if self.nemesis.rng.chance(400) { mean / 10 } else { mean };
        self.nemesis.rng.around(mean)
    }

    fn some_way(&mut self) -> (Place, Place) {
        let nodes = (0..self.nodes.len()).map(Place::Node);
        let places: Vec<Place> = nodes.chain([Place::Control]).collect();
        let from = self.nemesis.rng.pick(&places).unwrap();
        let others: Vec<Place> = places.into_iter().filter(|place| *place != from).collect();
        (from, self.nemesis.rng.pick(&others).unwrap())
    }

    fn cut_way(&mut self, from: Place, to: Place) {
        self.say(|| format!("nothing passes from {from:?} to {to:?}"));
        self.network.cut(from, to);
        self.watch_starving(from, to);
        let wait = self.lasting(Duration::from_secs(5));
        self.schedule.after(wait, Event::Mend(Fault::CutWay(from, to)));
    }

    /// A node is cut off from the others, from the control plane, or from both, in one direction or in both.
    fn isolate(&mut self, node: usize) {
        let rng = &mut self.nemesis.rng;
        let (with_control, with_nodes, only_one_way) = (rng.chance(500), rng.chance(700), rng.chance(250));
        let others = (0..self.nodes.len()).filter(|at| with_nodes && *at != node).map(Place::Node);
        let places: Vec<Place> = others.chain(with_control.then_some(Place::Control)).collect();
        for place in places {
            self.cut_way(Place::Node(node), place);
            if !only_one_way {
                self.cut_way(place, Place::Node(node));
            }
        }
    }

    fn reset_some(&mut self) {
        let all: Vec<StreamId> = self.streams.ids();
        if let Some(id) = self.nemesis.rng.pick(&all) {
            self.close(id, Side::Dialler, true);
            self.close(id, Side::Listener, true);
        }
    }

    /// The cluster grows or shrinks.
    fn churn(&mut self) {
        let nodes: Vec<NodeId> = self.metadata.map().nodes().map(|(id, _)| id).collect();
        let id = self.nemesis.rng.pick(&nodes).unwrap_or_default();
        match self.nemesis.rng.below(4) {
            0 if self.nodes.len() < NODES_MAX => self.add_node(),
            1 => self.metadata.undrain(),
            // Who forgets a node that lives gives up what it holds: operators make sure before.
            _ if self.is_evicted_alive(id) => {}
            _ => self.metadata.tidy(id),
        }
        self.note_decisions();
    }

    fn is_evicted_alive(&self, id: NodeId) -> bool {
        let Some(node) = self.metadata.map().node(id) else { return false };
        let member = Member { node: id, incarnation: node.incarnation };
        node.liveness == Liveness::Evicted && self.nodes.iter().any(|node| node.member() == Some(member))
    }

    /// A process has learnt that it is no member any more: it ends, and its operator starts it again.
    pub(super) fn leave(&mut self, at: usize) {
        self.kill_node(at);
        let wait = self.lasting(Duration::from_secs(1));
        self.schedule.after(wait, Event::Mend(Fault::Restart(at)));
    }

    /// A fault ends.
    pub(super) fn mend(&mut self, fault: Fault) {
        if matches!(fault, Fault::CutWay(..) | Fault::ClogWay(..)) {
            self.record_fault(fault.name(), || format!("{fault:?}"), FaultPhase::Stop);
        }
        match fault {
            Fault::Restart(at) if !self.nodes[at].is_running => self.start_node(at),
            Fault::Resume(at) => self.resume_node(at),
            Fault::CutWay(from, to) => {
                self.network.mend(from, to);
                self.catch_up(|a, b| (a, b) == (from, to));
            }
            Fault::ClogWay(from, to) => self.network.unclog(from, to),
            _ => {}
        }
    }

    /// Ends all faults. Nothing goes wrong any more, and nothing new is pushed.
    pub(super) fn heal(&mut self) {
        self.say(|| "all faults end".to_owned());
        self.is_calm = true;
        self.record_heal();
        self.network.heal();
        let now = self.now();
        self.metadata.lose_leader(now);
        self.metadata.undrain();
        for at in 0..self.nodes.len() {
            self.resume_node(at);
            if !self.nodes[at].is_running {
                self.start_node(at);
            }
        }
        self.catch_up(|_, _| true);
        self.note_decisions();
    }
}
