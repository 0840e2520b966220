//! Files that make the database give up.
//!
//! redb trusts the structure of its files: one that is damaged in the wrong place makes it panic. For an operator that
//! has to be an error that names the file. Where panics unwind it becomes one; where they abort, as in a release, the
//! process says it and ends in the hook, with the exit code for bad configuration.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

/// EX_CONFIG of sysexits.h.
const EXIT_CONFIG: i32 = 78;

thread_local! {
    /// The file that this thread is opening.
    static OPENING: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Runs `open`; `None` when it panicked. What it has changed by then is dropped with it.
pub(super) fn guarded<T>(path: &Path, open: impl FnOnce() -> T) -> Option<T> {
    HOOK.call_once(install);
    OPENING.set(Some(path.to_owned()));
    let result = catch_unwind(AssertUnwindSafe(open)).ok();
    OPENING.set(None);
    result
}

fn install() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let opening = OPENING.try_with(|opening| opening.borrow().clone()).ok().flatten();
        match opening {
            Some(path) if cfg!(panic = "abort") => {
                tracing::error!(path = %path.display(), %panic, "a control database is damaged");
                eprintln!("broky: {} is no control database of broky, or damaged; move it away", path.display());
                std::process::exit(EXIT_CONFIG);
            }
            Some(_) => {}
            None => others(panic),
        }
    }));
}
