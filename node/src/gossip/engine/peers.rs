//! Who is heard and who is suspected, as hints to whoever decides.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use broky_proto::id::{Member, NodeId};

use crate::gossip::event::Events;
use crate::gossip::swim::PROBE_PERIOD;

/// Time a suspect has to refute before it is hinted at: false suspicions are refuted in a few packets' time.
const GRACE: Duration = PROBE_PERIOD;

/// What is known of the other members' lives.
#[derive(Debug, Default)]
pub(super) struct Peers(BTreeMap<NodeId, Peer>);

#[derive(Debug)]
struct Peer {
    member: Member,
    heard_at: Option<Instant>,
    suspect_since: Option<Instant>,
    /// Whether the last hint was a suspicion; `None` before the first.
    told_suspect: Option<bool>,
}

impl Peer {
    fn new(member: Member) -> Self {
        Self { member, heard_at: None, suspect_since: None, told_suspect: None }
    }
}

impl Peers {
    /// Takes the members that there are, this one left out.
    pub(super) fn handle_members(&mut self, members: impl Iterator<Item = Member>) {
        let mut before = std::mem::take(&mut self.0);
        self.0 = members
            .map(|member| {
                let known = before.remove(&member.node).filter(|peer| peer.member == member);
                (member.node, known.unwrap_or_else(|| Peer::new(member)))
            })
            .collect();
    }

    /// A datagram of this member came. Whether it was not heard yet, or not since it was suspected: only the first says
    /// so, or two that suspect each other would greet one another for ever.
    pub(super) fn heard(&mut self, now: Instant, member: Member) -> bool {
        let Some(peer) = self.0.get_mut(&member.node).filter(|peer| peer.member == member) else {
            return false;
        };
        let silent_since = peer.heard_at;
        let is_back = peer.suspect_since.map_or(silent_since.is_none(), |suspect_since| {
            silent_since.is_none_or(|heard_at| heard_at <= suspect_since)
        });
        peer.heard_at = Some(now);
        is_back
    }

    /// Takes who is suspected now, and hints at what has changed. Returns how many are newly suspected.
    pub(super) fn observe(
        &mut self,
        now: Instant,
        peers: impl Iterator<Item = (Member, bool)>,
        events: &mut Events,
    ) -> usize {
        for (member, is_suspect) in peers {
            if let Some(peer) = self.0.get_mut(&member.node).filter(|peer| peer.member == member) {
                peer.suspect_since = is_suspect.then(|| peer.suspect_since.unwrap_or(now));
            }
        }
        let last_heard = self.0.values().filter_map(|peer| peer.heard_at).max();
        let is_lone = self.0.len() == 1;
        let mut suspicions = 0;
        for peer in self.0.values_mut() {
            let is_overdue = peer.suspect_since.is_some_and(|since| {
                // A node that has heard nobody since is itself the more likely to be cut off, or starved.
                now.duration_since(since) >= GRACE && (is_lone || last_heard.is_some_and(|heard| heard > since))
            });
            if is_overdue && peer.told_suspect != Some(true) {
                suspicions += 1;
                peer.told_suspect = Some(true);
                events.hint(peer.member, true);
            } else if peer.suspect_since.is_none() && peer.heard_at.is_some() && peer.told_suspect != Some(false) {
                peer.told_suspect = Some(false);
                events.hint(peer.member, false);
            }
        }
        suspicions
    }

    /// Who is suspected or was never heard.
    pub(super) fn silent(&self) -> impl Iterator<Item = Member> {
        self.0.values().filter(|peer| peer.suspect_since.is_some() || peer.heard_at.is_none()).map(|peer| peer.member)
    }

    /// Who is not.
    pub(super) fn lively(&self) -> impl Iterator<Item = Member> {
        self.0.values().filter(|peer| peer.suspect_since.is_none() && peer.heard_at.is_some()).map(|peer| peer.member)
    }
}
