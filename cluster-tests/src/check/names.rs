//! Names as numbers, so that compact records have a fixed and small size.
//!
//! Numbers are given in the order of coming, which depends on the order of files; so nothing is decided by their order,
//! and everything that is told uses names.

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub(crate) struct $name(pub(crate) $inner);
    };
}

number! {
    /// A cluster.
    ClusterNo(u16)
}
number! {
    /// A reader.
    ReaderNo(u32)
}
number! {
    /// A key.
    KeyNo(u32)
}
number! {
    /// What a session asks for.
    FilterNo(u32)
}

/// Names, each with a number.
#[derive(Default, Debug)]
pub(crate) struct Names {
    numbers: FxHashMap<String, u32>,
    names: Vec<String>,
}

impl Names {
    /// The number of a name. `None` when it is new and there are `names_max` already.
    pub(crate) fn number(&mut self, name: &str, names_max: usize) -> Option<u32> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        if self.names.len() >= names_max {
            return None;
        }
        let number = u32::try_from(self.names.len()).ok()?;
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        Some(number)
    }

    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    pub(crate) fn name(&self, number: u32) -> &str {
        usize::try_from(number).ok().and_then(|number| self.names.get(number)).map_or("?", String::as_str)
    }
}
