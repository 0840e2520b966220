//! Messages that came before this node knew that it leads their vbucket.
//!
//! A node that knows of a new leader earlier than the leader itself forwards to it what that refuses, and sends it
//! again. On its way behind them there may be later messages of the same producers, for the same epoch. Should the
//! leader hear of its role between the two, it would store the later ones first, and the earlier ones never: so what it
//! refused then is to it, when it begins to lead, what it refuses as a leader.

use std::collections::BTreeMap;

use broky_proto::id::{Epoch, Numbered, VBucketId};

/// Messages remembered of one vbucket: those that came first. What came behind them waits for them anyway.
const MESSAGES_MAX: usize = 1 << 10;

/// Refused messages of the newest epoch that is known from them only, per vbucket.
#[derive(Debug, Default)]
pub(crate) struct Early(BTreeMap<VBucketId, (Epoch, Vec<Numbered>)>);

impl Early {
    /// Notes that a message for an epoch that is still to come was refused.
    pub(crate) fn note(&mut self, vbucket: VBucketId, epoch: Epoch, message: Numbered) {
        let (newest, messages) = self.0.entry(vbucket).or_default();
        if epoch > *newest {
            (*newest, *messages) = (epoch, Vec::new());
        }
        if epoch == *newest && messages.len() < MESSAGES_MAX {
            messages.push(message);
        }
    }

    /// What was refused for this epoch, which is known by now. What was for earlier ones is forgotten.
    pub(crate) fn take(&mut self, vbucket: VBucketId, epoch: Epoch) -> Vec<Numbered> {
        match self.0.get(&vbucket) {
            Some((known, _)) if *known <= epoch => {}
            Some(_) | None => return Vec::new(),
        }
        let (known, messages) = self.0.remove(&vbucket).unwrap_or_default();
        if known == epoch { messages } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use broky_proto::id::{ProducerEpoch, ProducerId, Sequence};

    use super::*;

    #[test]
    fn refused_messages_are_remembered_for_the_newest_epoch_until_it_is_known() {
        let (mut early, vbucket) = (Early::default(), VBucketId(3));
        let message =
            |sequence| Numbered { producer: ProducerId(1), epoch: ProducerEpoch(1), sequence: Sequence(sequence) };
        early.note(vbucket, Epoch(5), message(1));
        early.note(vbucket, Epoch(7), message(2));
        early.note(vbucket, Epoch(5), message(3));
        early.note(vbucket, Epoch(7), message(4));
        assert_eq!(early.take(vbucket, Epoch(6)), [], "it is still to come");
        assert_eq!(early.take(vbucket, Epoch(7)), [message(2), message(4)]);
        assert_eq!(early.take(vbucket, Epoch(7)), []);
        (0..5_000).for_each(|sequence| early.note(vbucket, Epoch(9), message(sequence)));
        assert_eq!(early.0[&vbucket].1.len(), MESSAGES_MAX);
        assert_eq!(early.take(vbucket, Epoch(10)), [], "it never led in that epoch");
        assert!(early.0.is_empty());
    }
}
