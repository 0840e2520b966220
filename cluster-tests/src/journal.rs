//! What the harness writes down of a run: one file for each who acts or reads, all by one clock.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};

use crate::error::HarnessError;
use crate::history::{Event, FileHead, HistoryError, HistoryWriter, Nanos, Record, Run};

/// The moment, by the clock that all processes of the machine share.
#[must_use]
pub fn now() -> Nanos {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    Nanos(seconds.unwrap_or_default() * 1_000_000_000 + nanos.unwrap_or_default())
}

/// The folder of a run's history.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    run: String,
}

impl Folder {
    /// A new folder, and the journal that begins with what the run is. Whoever supervises writes that one.
    ///
    /// # Errors
    /// When it cannot be written, or there is one.
    pub fn create(path: &Path, run: Run) -> Result<(Self, Journal), HarnessError> {
        std::fs::create_dir_all(path).map_err(HarnessError::io("make the folder of the history"))?;
        let folder = Self { path: path.to_owned(), run: run.run.clone() };
        let journal = Journal::create(folder.path.join("supervisor.jsonl"), Event::Run(run))?;
        Ok((folder, journal))
    }

    /// Another journal of the run.
    ///
    /// # Errors
    /// As [`Folder::create`].
    pub fn journal(&self, name: &str) -> Result<Journal, HarnessError> {
        let head = FileHead { run: self.run.clone(), process: name.to_owned() };
        Journal::create(self.path.join(format!("{name}.jsonl")), Event::File(head))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A file of the history. Cheap to clone; whoever has it may write.
///
/// That it cannot be written ends the process: what happened would not be known, and a run of which parts are missing must
/// not be taken for one in which nothing was found.
#[derive(Clone, Debug)]
pub struct Journal {
    writer: Arc<Mutex<HistoryWriter>>,
}

impl Journal {
    fn create(path: PathBuf, head: Event<'_>) -> Result<Self, HarnessError> {
        let writer = HistoryWriter::create(path, now(), head).map_err(history)?;
        Ok(Self { writer: Arc::new(Mutex::new(writer)) })
    }

    /// Writes what happens now.
    pub fn note(&self, event: Event<'_>) {
        self.note_at(now(), event);
    }

    /// Writes what happened at another time.
    pub fn note_at(&self, t_ns: Nanos, event: Event<'_>) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writer.write(&Record { t_ns, event }) {
            eprintln!("the history cannot be written: {error}");
            std::process::exit(2);
        }
    }

    /// Hands everything written to the operating system.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&self) -> Result<(), HarnessError> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).flush().map_err(history)
    }
}

fn history(error: HistoryError) -> HarnessError {
    HarnessError::answer("write the history", error)
}
