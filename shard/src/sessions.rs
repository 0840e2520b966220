//! Links to followers: what each of them was sent, has acknowledged, and still lacks.
//!
//! There is one link per follower, whatever number of vbuckets it shares with this shard. Frames carry a number, and
//! one acknowledgement is for all up to it. Per vbucket a link passes three stages: it *asks* how far the follower's
//! log goes, it *attaches* (says where to go on) and sends what is missing, and from then on the vbucket is *live*:
//! every block goes out when it is sealed. What an acknowledgement says about a vbucket counts from the frame on that
//! attached it, so that nothing an earlier epoch's follower held is taken for this one's.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use broky_delivery::{BlockSeq, Run};
use broky_proto::data_v1::Committed;
use broky_proto::id::{Member, Offset, VBucketCount, VBucketId};
use broky_proto::time::Timestamp;

use crate::outbox::SessionId;

/// How far a link is with one vbucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// The follower holds no copy, or this shard does not lead.
    Absent,
    /// The follower was asked, or is to be, how far its log goes.
    Asked,
    /// The follower gets what it lacks.
    Behind {
        /// The frame that attached it.
        begun: u64,
        /// The offset to send next.
        next: Offset,
        /// What brings it up to date.
        turn: Turn,
    },
    /// The follower gets every block.
    Live {
        /// The frame that attached it.
        begun: u64,
        /// The frame that brought it what is known of producers.
        synced: u64,
    },
}

/// When a vbucket that is behind gets what it lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// In the next pass through the committed blocks.
    Waits,
    /// In the present one.
    InPass,
    /// At once: it lacks nothing that is committed.
    Now,
}

impl Stage {
    fn begun(self) -> Option<u64> {
        match self {
            Self::Absent | Self::Asked => None,
            Self::Behind { begun, .. } | Self::Live { begun, .. } => Some(begun),
        }
    }

    /// Whether it is live since a later frame than this one.
    pub(crate) fn is_newer_than(self, seq: u64) -> bool {
        matches!(self, Self::Live { begun, .. } if begun > seq)
    }

    pub(crate) fn is_behind(self) -> bool {
        matches!(self, Self::Behind { .. })
    }

    pub(crate) fn is_live(self) -> bool {
        matches!(self, Self::Live { .. })
    }
}

/// What an acknowledgement of a frame says.
#[derive(Clone, Debug)]
pub(crate) enum Ends {
    Nothing,
    Runs(Arc<[Run]>),
    Offsets(Vec<(VBucketId, Offset)>),
}

impl Ends {
    fn for_each(&self, mut take: impl FnMut(VBucketId, Offset)) {
        match self {
            Self::Nothing => {}
            Self::Runs(runs) => runs.iter().for_each(|run| take(run.vbucket, run.end())),
            Self::Offsets(offsets) => offsets.iter().for_each(|(vbucket, end)| take(*vbucket, *end)),
        }
    }
}

#[derive(Debug)]
struct InFlight {
    seq: u64,
    sent_at: Timestamp,
    bytes: usize,
    is_catch_up: bool,
    ends: Ends,
}

/// A pass through the committed blocks for vbuckets that are behind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    pub(crate) at: BlockSeq,
}

/// What the follower is to be told of commits.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    pub(crate) seqs: Vec<u64>,
    pub(crate) highs: Vec<(VBucketId, Offset)>,
}

impl Notices {
    pub(crate) fn is_empty(&self) -> bool {
        self.seqs.is_empty() && self.highs.is_empty()
    }

    /// What there is to tell; from here on there is nothing.
    pub(crate) fn take(&mut self) -> Option<Committed> {
        if self.is_empty() {
            return None;
        }
        let (seqs, highs) = (std::mem::take(&mut self.seqs), std::mem::take(&mut self.highs));
        Some(Committed {
            seqs,
            vbuckets: highs.iter().map(|(vbucket, _)| u32::from(vbucket.0)).collect(),
            high_watermarks: highs.iter().map(|(_, high)| high.0).collect(),
        })
    }
}

/// One link to a follower.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) member: Member,
    stages: Vec<Stage>,
    /// Vbuckets that are neither absent nor live.
    unsettled: usize,
    next_seq: u64,
    acknowledged: u64,
    /// The last frame that brought what is known of producers.
    synced: u64,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    catch_up_bytes: usize,
    pub(crate) last_sent: Timestamp,
    pub(crate) notices: Notices,
    /// The follower has subscribers, who wait for what is committed.
    pub(crate) is_read: bool,
    pub(crate) pass: Option<Pass>,
    /// Work of catching up that may be done before the next tick.
    pub(crate) allowance: usize,
    /// Vbuckets that may be ready to join the ISR.
    pub(crate) has_joiners: bool,
}

impl Session {
    pub(crate) fn new(member: Member, vbuckets: VBucketCount, now: Timestamp) -> Self {
        Self {
            member,
            stages: vec![Stage::Absent; vbuckets.len()],
            unsettled: 0,
            // The follower's "nothing yet" is 0.
            next_seq: 1,
            acknowledged: 0,
            synced: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            catch_up_bytes: 0,
            last_sent: now,
            notices: Notices::default(),
            is_read: false,
            pass: None,
            allowance: 0,
            has_joiners: false,
        }
    }

    pub(crate) fn stage(&self, vbucket: VBucketId) -> Stage {
        self.stages.get(usize::from(vbucket.0)).copied().unwrap_or(Stage::Absent)
    }

    pub(crate) fn set_stage(&mut self, vbucket: VBucketId, stage: Stage) {
        let is_unsettled = |stage: Stage| matches!(stage, Stage::Asked | Stage::Behind { .. });
        if let Stage::Live { synced, .. } = stage {
            self.synced = self.synced.max(synced);
        }
        if let Some(place) = self.stages.get_mut(usize::from(vbucket.0)) {
            let before = std::mem::replace(place, stage);
            self.unsettled = self.unsettled + usize::from(is_unsettled(stage)) - usize::from(is_unsettled(before));
        }
    }

    /// Whether the follower has what is known of a vbucket's producers: without it a retry would be stored twice,
    /// should it come to lead.
    pub(crate) fn is_synced(&self, vbucket: VBucketId) -> bool {
        matches!(self.stage(vbucket), Stage::Live { synced, .. } if synced <= self.acknowledged)
    }

    /// Whether the same holds for every vbucket that the follower holds and this shard leads.
    pub(crate) fn is_synced_throughout(&self) -> bool {
        self.is_settled() && self.synced <= self.acknowledged
    }

    /// Begins anew to wait for what is not acknowledged.
    pub(crate) fn excuse(&mut self, now: Timestamp) {
        self.in_flight.iter_mut().for_each(|frame| frame.sent_at = frame.sent_at.max(now));
    }

    /// The number of the next frame.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Whether every vbucket that the follower holds and this shard leads is live.
    pub(crate) fn is_settled(&self) -> bool {
        self.unsettled == 0
    }

    pub(crate) fn stages(&self) -> impl Iterator<Item = (VBucketId, Stage)> {
        (0..=u16::MAX).map(VBucketId).zip(self.stages.iter().copied())
    }

    /// Numbers a frame and notes it as sent.
    pub(crate) fn send(&mut self, now: Timestamp, bytes: usize, is_catch_up: bool, ends: Ends) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.in_flight_bytes += bytes;
        self.catch_up_bytes += if is_catch_up { bytes } else { 0 };
        self.in_flight.push_back(InFlight { seq, sent_at: now, bytes, is_catch_up, ends });
        self.last_sent = now;
        seq
    }

    /// Takes an acknowledgement; hands on what it says the follower holds by now.
    ///
    /// Returns false when it is of a frame that was never sent.
    pub(crate) fn handle_ack(&mut self, seq: u64, mut holds: impl FnMut(VBucketId, Offset)) -> bool {
        if seq >= self.next_seq {
            return false;
        }
        self.acknowledged = self.acknowledged.max(seq);
        while self.in_flight.front().is_some_and(|frame| frame.seq <= seq) {
            let Some(frame) = self.in_flight.pop_front() else { break };
            self.in_flight_bytes -= frame.bytes;
            self.catch_up_bytes -= if frame.is_catch_up { frame.bytes } else { 0 };
            let stages = &self.stages;
            frame.ends.for_each(|vbucket, end| {
                let begun = stages.get(usize::from(vbucket.0)).and_then(|stage| stage.begun());
                if begun.is_some_and(|begun| frame.seq >= begun) {
                    holds(vbucket, end);
                }
            });
        }
        true
    }

    /// When the oldest unacknowledged frame was sent.
    pub(crate) fn waits_since(&self) -> Option<Timestamp> {
        self.in_flight.front().map(|frame| frame.sent_at)
    }

    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    pub(crate) fn catch_up_bytes(&self) -> usize {
        self.catch_up_bytes
    }
}

/// All links to followers.
pub(crate) type Sessions = BTreeMap<SessionId, Session>;
