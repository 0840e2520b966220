//! Ids: drawn at random, and as they are on the wire.

use std::io;

use broky_proto::id::{Incarnation, Member, NodeId};
use broky_proto::peer_v1 as pb;

use super::types::{GroupId, RaftId};

pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::from)?;
    Ok(bytes)
}

pub(super) fn random_raft_id() -> io::Result<RaftId> {
    Ok(RaftId(u64::from_be_bytes(random()?)))
}

pub(super) fn group_id(bytes: &[u8]) -> Option<GroupId> {
    bytes.try_into().ok().map(GroupId)
}

pub(super) fn member(member: &pb::Member) -> Member {
    Member { node: NodeId(member.node), incarnation: Incarnation(member.incarnation) }
}

pub(super) fn pb_member(member: Member) -> pb::Member {
    pb::Member { node: member.node.0, incarnation: member.incarnation.0 }
}
