//! I10, replicas agree: what two nodes hold as committed at one offset is one message, and none is missing between.

use std::collections::BTreeMap;

use broky_delivery::FeedId;
use broky_proto::id::{Lineage, Offset, VBucketId};
use broky_proto::wire::{Fields, stored_messages};
use broky_shard::Shard;

use super::{Broken, Place};
use crate::sim::world::World;

/// Per node and vbucket: up to where what it holds was looked at.
#[derive(Default)]
pub(super) struct ReplicasAgree(BTreeMap<(usize, VBucketId), u64>);

impl ReplicasAgree {
    /// Another process begins at a node.
    pub(super) fn forget(&mut self, at: usize) {
        self.0.retain(|(node, _), _| *node != at);
    }
}

/// A message as a replica holds it.
struct Held {
    place: Place,
    payload: Vec<u8>,
}

/// What a node has committed since it was last looked at is what others have there, and without a hole.
pub(super) fn look(world: &mut World, at: usize) -> Result<(), Broken> {
    for vbucket in world.vbuckets.iter() {
        let Some(process) = &world.nodes[at].process else { return Ok(()) };
        let Some(log) = process.shard.log(vbucket) else {
            world.checks.replicas_agree.0.remove(&(at, vbucket));
            continue;
        };
        let Some((_, end)) = process.shard.delivery().bounds(vbucket) else { continue };
        let seen = world.checks.replicas_agree.0.get(&(at, vbucket)).copied().unwrap_or_default();
        if end.0 <= seen {
            continue;
        }
        let lineage = log.lineage().0;
        // Below its start there may be a hole.
        let from = seen.max(log.start().0);
        let held = read(&process.shard, vbucket, lineage, from, end.0);
        world.checks.replicas_agree.0.insert((at, vbucket), end.0);
        world.record_held(
            at,
            (vbucket, Lineage(lineage)),
            from,
            held.iter().map(|held| (held.place.epoch, &*held.payload)),
        );
        let mut next = from;
        for Held { place, payload } in held {
            if place.offset != next {
                return Err(("replicas agree", format!("node {at} holds {place:?} behind {next}")));
            }
            next += 1;
            let id = world.checks.no_phantom.read(place, &payload)?;
            world.checks.place(id, place).map_err(|(rule, words)| (rule, format!("node {at}: {words}")))?;
        }
        if next < end.0 {
            return Err((
                "replicas agree",
                format!("node {at} lacks {next} of vbucket {vbucket}, and shows up to {end}"),
            ));
        }
    }
    Ok(())
}

/// What a replica holds from one offset to before another.
fn read(shard: &Shard, vbucket: VBucketId, lineage: u64, from: u64, to: u64) -> Vec<Held> {
    let (delivery, feed) = (shard.delivery(), FeedId(0));
    let mut held = Vec::new();
    let Some(mut seq) = delivery.block_of(vbucket, Offset(from)) else { return held };
    while seq < delivery.tail(feed) {
        if let Some(block) = delivery.block(feed, seq) {
            for (_, message) in stored_messages(block.encoded()).flatten() {
                let fields = Fields::scan(message).unwrap();
                let is_wanted = fields.vbucket == u32::from(vbucket.0) && (from..to).contains(&fields.offset);
                if is_wanted {
                    let place = Place { vbucket, lineage, epoch: fields.epoch, offset: fields.offset };
                    held.push(Held { place, payload: fields.payload.of(message).to_vec() });
                }
            }
        }
        seq.0 += 1;
    }
    held.sort_unstable_by_key(|held| held.place.offset);
    held
}
