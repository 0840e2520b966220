//! I9, I11, I12: once all faults are over, the cluster comes to rest, every push gets its outcome, and every reader has
//! read everything.

use broky_ring::map::VBucket;

use crate::sim::world::World;

impl World {
    /// What is still missing; `None` when everything is at rest.
    pub(in crate::sim) fn unrest(&self) -> Option<String> {
        self.unrest_of_nodes().or_else(|| self.unrest_of_clients())
    }

    /// What nodes are still about to do.
    pub(in crate::sim) fn unrest_of_nodes(&self) -> Option<String> {
        let map = self.metadata.map();
        let alive = map.nodes().filter(|(_, node)| !node.is_draining).count();
        let wanted = usize::from(map.copies().replicas).min(alive);
        let is_settled = |vb: &VBucket| {
            vb.leader.is_some() && vb.isr.len() == vb.replicas.len() && vb.learners.is_empty() && vb.isr.len() >= wanted
        };
        if let Some((id, vb)) = map.vbuckets().find(|(_, vb)| !is_settled(vb)) {
            return Some(format!("vbucket {id} of leader {:?} isr {:?} of {:?}", vb.leader, vb.isr, vb.replicas));
        }
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_running) {
            let Some(process) = &node.process else { return Some(format!("node {at} does not take part")) };
            if process.map.version() != map.version() {
                return Some(format!("node {at} knows map {}, not {}", process.map.version(), map.version()));
            }
        }
        None
    }

    /// Whether a reader has come to the end of every vbucket.
    pub(in crate::sim) fn has_read_everything(&self, at: usize) -> bool {
        self.metadata.map().vbuckets().all(|(id, vb)| {
            let mut logs = self.nodes.iter().filter_map(|node| {
                let process = node.process.as_ref().filter(|process| vb.isr.contains(&process.member))?;
                process.shard.log(id)
            });
            self.has_read_all(at, id, logs.next().map_or(0, |log| log.high_watermark().0))
        })
    }

    fn unrest_of_clients(&self) -> Option<String> {
        let map = self.metadata.map();
        if let Some(at) = self.producers.iter().position(|producer| !producer.is_done()) {
            return Some(format!("producer {at} waits for outcomes"));
        }
        for (id, vb) in map.vbuckets() {
            let mut ends = Vec::new();
            for node in &self.nodes {
                let Some(process) = node.process.as_ref().filter(|it| vb.isr.contains(&it.member)) else { continue };
                let Some(log) = process.shard.log(id) else { return Some(format!("{} lacks vbucket {id}", node.name)) };
                ends.extend([log.end(), log.high_watermark()]);
            }
            if ends.windows(2).any(|pair| pair[0] != pair[1]) {
                return Some(format!("vbucket {id} ends at {ends:?}"));
            }
            let end = ends.first().map_or(0, |end| end.0);
            if let Some(at) = (0..self.readers.len()).find(|at| !self.has_read_all(*at, id, end)) {
                return Some(format!("reader {at} has not read vbucket {id} up to {end}: {:?}", self.readers[at]));
            }
        }
        None
    }
}
