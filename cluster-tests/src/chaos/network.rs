//! What a scenario does to the network between nodes. Clients reach every node that runs.

use super::arena::Arena;
use crate::error::HarnessError;
use crate::proxy::{Faults, Party};

impl Arena {
    /// Nothing passes any more from one node to another; what comes back does.
    pub fn cut(&mut self, from: usize, to: usize) {
        let target = format!("n{from} to n{to}");
        self.log.begin("cut", target.clone());
        self.lasting.insert(("cut", target));
        self.cluster.proxy().iter().for_each(|proxy| proxy.cut(Party::Node(from), Party::Node(to)));
    }

    /// Nothing passes any more between two nodes.
    pub fn sever(&mut self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Cuts a node off from all others.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn isolate(&mut self, at: usize) -> Result<(), HarnessError> {
        let target = format!("{} and all others", self.cluster.node(at)?.name);
        self.log.begin("cut", target.clone());
        self.lasting.insert(("cut", target));
        self.cluster.isolate(at)
    }

    /// From now on this is wrong with every link between two nodes. `kind` is what the fault is called.
    pub fn degrade(&mut self, kind: &'static str, faults: Faults) {
        self.log.begin(kind, "all links");
        self.lasting.insert((kind, "all links".to_owned()));
        let nodes = 0..self.cluster.nodes().len();
        for (from, to) in nodes.clone().flat_map(|from| nodes.clone().map(move |to| (from, to))) {
            if from != to {
                self.cluster.proxy().iter().for_each(|proxy| proxy.set(Party::Node(from), Party::Node(to), faults));
            }
        }
    }

    /// From now on this is wrong with what goes from one node to another.
    pub fn disturb(&mut self, kind: &'static str, (from, to): (usize, usize), faults: Faults) {
        let target = format!("n{from} to n{to}");
        self.log.begin(kind, target.clone());
        self.lasting.insert((kind, target));
        self.cluster.proxy().iter().for_each(|proxy| proxy.set(Party::Node(from), Party::Node(to), faults));
    }

    /// The network is whole again.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn mend_network(&mut self) -> Result<(), HarnessError> {
        self.cluster.mend()?;
        for (kind, target) in std::mem::take(&mut self.lasting) {
            self.log.end(kind, target);
        }
        Ok(())
    }
}
