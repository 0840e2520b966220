//! Dividing a batch by who its messages are for.

use broky_proto::id::Epoch;
use broky_proto::wire::Entry;

use crate::router::Target;

/// A batch divided by targets. Most batches are for one: then there is nothing to divide.
pub(crate) enum Groups<'a> {
    One { entries: &'a [Entry], seen: usize, to: Option<Target>, epochs: Vec<Epoch> },
    Many(Vec<(Option<Target>, Vec<Entry>, Vec<Epoch>)>),
}

impl<'a> Groups<'a> {
    pub(crate) fn new(entries: &'a [Entry]) -> Self {
        Self::One { entries, seen: 0, to: None, epochs: Vec::with_capacity(entries.len()) }
    }

    pub(crate) fn add(&mut self, entry: &Entry, target: Option<(Target, Epoch)>) {
        let (target, epoch) = target.unzip();
        if let Self::One { entries, seen, to, epochs } = self {
            if *seen == 0 || *to == target {
                *to = target;
                *seen += 1;
                epochs.extend(epoch);
                return;
            }
            let first = entries.get(..*seen).unwrap_or_default().to_vec();
            *self = Self::Many(vec![(*to, first, std::mem::take(epochs))]);
        }
        let Self::Many(groups) = self else { return };
        let at = groups.iter().position(|(known, ..)| *known == target).unwrap_or(groups.len());
        if at == groups.len() {
            groups.push((target, Vec::new(), Vec::new()));
        }
        if let Some((_, entries, epochs)) = groups.get_mut(at) {
            entries.push(*entry);
            epochs.extend(epoch);
        }
    }
}
