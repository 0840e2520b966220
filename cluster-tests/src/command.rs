//! What the commands that run scenarios share: which ones are meant, which binary, and one run at a time.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

/// How long what a run left behind may take to end.
const LEFTOVERS_LIMIT: Duration = Duration::from_secs(10);

/// The scenarios that are meant by these names, or all. `list` is how to get their names.
///
/// # Errors
/// The words for whoever asked, when there is no such scenario or none is named.
pub fn chosen<S>(
    known: &'static [S],
    name_of: fn(&S) -> &'static str,
    (names, is_all): (&[String], bool),
    list: &str,
) -> Result<Vec<&'static S>, String> {
    if is_all {
        return Ok(known.iter().collect());
    }
    if names.is_empty() {
        return Err("give --scenario NAME, --all or --list".to_owned());
    }
    let find = |name: &String| {
        let found = known.iter().find(|scenario| name_of(scenario) == name);
        found.ok_or_else(|| format!("there is no scenario {name:?}; {list} names them"))
    };
    names.iter().map(find).collect()
}

/// The `broky` binary: the one that is given, or the one beside this.
///
/// # Errors
/// The words for whoever asked, when there is none.
pub fn binary(given: Option<&PathBuf>) -> Result<PathBuf, String> {
    let beside = || std::env::current_exe().ok()?.parent().map(|folder| folder.join("broky"));
    let binary = given.cloned().or_else(beside).filter(|binary| binary.is_file());
    binary.ok_or_else(|| "no broky binary; build it, or give --binary PATH".to_owned())
}

/// Does this on a runtime of its own, which ends with it. A run that could not be carried out leaves clients that push
/// for as long as their messages last: they would reach the next run's nodes, which may listen where this one's did.
///
/// # Errors
/// The words for whoever asked, when there can be no runtime.
pub fn alone<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    // On this thread, which lasts as long as the process: nodes die with the thread that started them.
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(LEFTOVERS_LIMIT);
    Ok(done)
}
