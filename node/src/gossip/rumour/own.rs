//! What this node says of itself.

use std::collections::BTreeMap;

use broky_proto::id::{Epoch, MapVersion, Member, VBucketId};
use broky_ring::member::Zone;

use super::{Chunk, ChunkId, Digest, Head, Load, Stamp};

/// What this node leads now.
pub(crate) type Leads = BTreeMap<VBucketId, Epoch>;

/// What this node says of itself.
#[derive(Debug)]
pub(in crate::gossip) struct Own {
    head: Head,
    /// Emptied ones stay, so that everybody hears that they are empty.
    chunks: BTreeMap<ChunkId, Chunk>,
}

impl Own {
    pub(in crate::gossip) fn new(member: Member, zone: Zone, map_version: MapVersion) -> Self {
        let digest = Digest::of([].iter());
        let head = Head { member, stamp: Stamp(1), map_version, load: Load::default(), zone, digest };
        Self { head, chunks: BTreeMap::new() }
    }

    pub(in crate::gossip) fn head(&self) -> &Head {
        &self.head
    }

    pub(in crate::gossip) fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.chunks.values()
    }

    /// Stamps the head anew, with what is current.
    pub(in crate::gossip) fn renew_head(&mut self, map_version: MapVersion, load: Load) {
        self.head.stamp = self.next_stamp();
        self.head.map_version = map_version;
        self.head.load = load;
        self.head.digest = Digest::of(self.chunks.values());
    }

    /// Takes what this node leads now. Returns the chunks that changed by it; if there are any, the head has to be
    /// renewed.
    pub(in crate::gossip) fn handle_leads(&mut self, leads: &Leads) -> Vec<Chunk> {
        let mut now: BTreeMap<ChunkId, Vec<(VBucketId, Epoch)>> = BTreeMap::new();
        now.extend(self.chunks.keys().map(|id| (*id, Vec::new())));
        for (vbucket, epoch) in leads {
            now.entry(ChunkId::of(*vbucket)).or_default().push((*vbucket, *epoch));
        }
        let mut changed = Vec::new();
        let stamp = self.next_stamp();
        for (id, led) in now {
            if self.chunks.get(&id).is_none_or(|chunk| chunk.led != led) {
                let chunk = Chunk { member: self.head.member, stamp, id, led };
                self.chunks.insert(id, chunk.clone());
                changed.push(chunk);
            }
        }
        changed
    }

    /// The head's stamp is the highest in use, since the head is renewed after every change.
    fn next_stamp(&self) -> Stamp {
        Stamp(self.head.stamp.0 + 1)
    }
}
