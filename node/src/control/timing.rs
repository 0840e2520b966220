//! How long things may take. One place, because they hang together.

use std::time::Duration;

/// How often a node tells the raft leader that it lives.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(250);
/// Silence after which a node counts as dead: four heartbeats.
pub(crate) const SILENCE: Duration = Duration::from_millis(1000);
/// How often the raft leader looks for the silent.
pub(crate) const WATCH: Duration = Duration::from_millis(50);
/// When a loop comes this much too late, this process was paused: what it takes for the silence of others was its own.
pub(crate) const PAUSED: Duration = Duration::from_millis(500);
/// Between the elections that voters begin when their leader is gone, by rank.
pub(crate) const ELECTION_STAGGER: Duration = Duration::from_millis(50);

/// Of an RPC that needs no quorum.
pub(crate) const CALL: Duration = Duration::from_millis(1000);
/// Of dialling a peer.
pub(crate) const DIAL: Duration = Duration::from_millis(1000);
/// Of an attempt to connect, before others are asked for a way.
pub(crate) const HEAD_START: Duration = Duration::from_millis(100);
/// Of finding out whether a process can be reached.
pub(crate) const PROBE: Duration = Duration::from_millis(300);
/// Of an entry of the control log, from proposal to answer.
pub(crate) const COMMIT: Duration = Duration::from_secs(2);
/// Of proposing, with all repetitions.
pub(crate) const PROPOSE: Duration = Duration::from_secs(5);
/// Between repetitions.
pub(crate) const RETRY: Duration = Duration::from_millis(50);

/// How often a process without a cluster looks for one.
pub(crate) const MEET: Duration = Duration::from_millis(100);
/// How long somebody counts as met.
pub(crate) const MET: Duration = Duration::from_millis(1500);
/// How long a promise to take part in a founding binds, unless the founding has begun.
pub(crate) const PROMISE: Duration = Duration::from_secs(3);
/// Without a raft leader for this long, it may be that there never will be one again.
pub(crate) const LEADERLESS: Duration = Duration::from_secs(2);
/// Time that somebody has to register who is in the raft group and in no map.
pub(crate) const UNREGISTERED: Duration = Duration::from_secs(10);
/// Time that raft has to bring a map that a peer is known to have, before it is asked for.
pub(crate) const RAFT_BRINGS: Duration = Duration::from_millis(50);
/// Between two steps of moving copies and leaders.
pub(crate) const MOVE_PACE: Duration = Duration::from_millis(80);
/// A vbucket whose leader has changed is given back to the preferred one no sooner: until then its leader has noticed
/// whom it does not reach, and they are out of the ISR.
pub(crate) const RETURN: Duration = Duration::from_secs(3);
/// A node dead for this long has its copies rebuilt elsewhere.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(300);

/// Raft's heartbeat.
pub(crate) const RAFT_HEARTBEAT: Duration = HEARTBEAT;
/// Raft's election timeouts: twice and four times what a busy machine delays a heartbeat by.
pub(crate) const RAFT_ELECTION_MIN: Duration = Duration::from_millis(1000);
pub(crate) const RAFT_ELECTION_MAX: Duration = Duration::from_millis(2000);
/// Of sending a part of a snapshot.
pub(crate) const RAFT_SNAPSHOT: Duration = Duration::from_secs(10);
/// Before a raft member that cannot be reached is tried again, at first; doubled each time, up to [`RAFT_BACKOFF_MAX`].
pub(crate) const RAFT_BACKOFF: Duration = Duration::from_millis(50);
pub(crate) const RAFT_BACKOFF_MAX: Duration = Duration::from_millis(800);
