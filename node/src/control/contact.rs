//! Whether this process knew all that its raft group had decided when the group lost its majority.
//!
//! Without disks the state of a survivor takes the place of what the dead knew ([`super::refound`]). If the survivor had
//! been paused or cut off before, the others may have gone on without it: fenced it, elected leaders, and acknowledged
//! messages. They cannot have done so as long as it was heard within [`timing::SILENCE`]. So what counts is the time from
//! the latest answer that the leader gave it, or, where it led, that a quorum gave, to the moment when so many of the others
//! were seen to be gone that they could decide nothing without it. Answers count from when they were asked for, as those asked for before a pause may be read after it.
//!
//! That somebody is gone is seen when a connection to him breaks and he is not to be had again under his address. Of those who just fall silent nobody can tell when they
//! died, and what they did before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use broky_proto::id::{MapVersion, Member};
use broky_ring::map::ClusterMap;
use tokio::time::Instant;

use super::shared::{Shared, lock};
use super::timing;

/// Answers remembered: those that tell of a map that has not come yet count when it has.
const ANSWERS_MAX: usize = 16;

/// The latest answers.
#[derive(Debug, Default)]
pub(super) struct Contacts(VecDeque<(Instant, MapVersion)>);

impl Contacts {
    pub(super) fn note(&mut self, asked: Instant, map: MapVersion) {
        if self.0.len() >= ANSWERS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((asked, map));
    }

    /// When the latest answer was asked for that told of nothing beyond `known`.
    pub(super) fn latest(&self, known: MapVersion) -> Option<Instant> {
        self.0.iter().filter(|(_, map)| *map <= known).map(|(asked, _)| *asked).max()
    }
}

/// When processes were first seen to be gone.
#[derive(Debug, Default)]
pub(super) struct Losses(BTreeMap<Member, Instant>);

impl Losses {
    fn note(&mut self, member: Member, map: &ClusterMap) {
        self.0.retain(|member, _| map.is_current(*member));
        self.0.entry(member).or_insert_with(Instant::now);
    }
}

impl Shared {
    /// Notes that a process is gone: where it was, nothing listens any more, or another one does.
    pub(super) fn note_gone(&self, member: Member) {
        lock(&self.losses).note(member, &self.map());
    }

    /// When so many of these, by the names of their nodes, were gone; `None` where that was not seen.
    pub(super) fn lost_at<'a>(self: &Arc<Self>, names: impl Iterator<Item = &'a str>, count: usize) -> Option<Instant> {
        let losses = lock(&self.losses);
        let mut seen: Vec<Instant> =
            names.filter_map(|name| losses.0.get(&self.node_called(name)?.0).copied()).collect();
        seen.sort_unstable();
        seen.get(count.checked_sub(1)?).copied()
    }
}

/// Whether a process that was last in contact then knew all that was decided before the majority was lost.
pub(super) fn knew_all(contact: Option<Instant>, lost: Option<Instant>) -> bool {
    contact.zip(lost).is_some_and(|(contact, lost)| lost.saturating_duration_since(contact) < timing::SILENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_counts_once_what_it_told_of_has_come() {
        let (mut contacts, start) = (Contacts::default(), Instant::now());
        let at = |millis| start + std::time::Duration::from_millis(millis);
        assert_eq!(contacts.latest(MapVersion(9)), None);
        contacts.note(at(0), MapVersion(5));
        contacts.note(at(1), MapVersion(6));
        assert_eq!(contacts.latest(MapVersion(5)), Some(at(0)));
        assert_eq!(contacts.latest(MapVersion(6)), Some(at(1)));
        (2..100).for_each(|millis| contacts.note(at(millis), MapVersion(7)));
        assert!(contacts.0.len() <= ANSWERS_MAX);
    }

    #[test]
    fn whoever_was_out_of_contact_for_as_long_as_it_takes_to_be_fenced_may_have_missed_something() {
        let contact = Instant::now();
        assert!(knew_all(Some(contact), Some(contact + timing::SILENCE / 2)));
        assert!(knew_all(Some(contact + timing::SILENCE), Some(contact)), "one that went on with a newer leader");
        assert!(!knew_all(Some(contact), Some(contact + timing::SILENCE)));
        assert!(!knew_all(None, Some(contact)));
        assert!(!knew_all(Some(contact), None), "nobody saw them go");
    }
}
