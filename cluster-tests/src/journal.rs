//! What the harness writes down of a run: one file for each who acts or reads, all by one clock.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::error::HarnessError;
use crate::history::{Event, FileHead, HistoryError, HistoryWriter, Nanos, Record, Run, encode};

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
/// A thread of its own writes: the harness carries every byte of the cluster too, and a disk that is slow for a moment
/// would look like a network that is. That the file cannot be written ends the process: what happened would not be
/// known, and a run of which parts are missing must not be taken for one in which nothing was found.
#[derive(Clone, Debug)]
pub struct Journal {
    lines: Sender<Line>,
}

#[derive(Debug)]
enum Line {
    Record(Vec<u8>),
    /// Everything before is to be with the operating system when this is answered.
    Flush(Sender<()>),
}

impl Journal {
    fn create(path: PathBuf, head: Event<'_>) -> Result<Self, HarnessError> {
        let failed = |error: HistoryError| HarnessError::answer("write the history", error);
        let writer = HistoryWriter::create(path, now(), head).map_err(failed)?;
        let (lines, received) = channel();
        let thread = std::thread::Builder::new().name("journal".to_owned());
        thread.spawn(move || write(writer, &received)).map_err(HarnessError::io("start a thread"))?;
        Ok(Self { lines })
    }

    /// Writes what happens now.
    pub fn note(&self, event: Event<'_>) {
        self.note_at(now(), event);
    }

    /// Writes what happened at another time.
    pub fn note_at(&self, t_ns: Nanos, event: Event<'_>) {
        let mut line = Vec::with_capacity(LINE_BYTES);
        if let Err(error) = encode(&Record { t_ns, event }, &mut line) {
            give_up(&error);
        }
        // The thread lives as long as somebody may send.
        let _ = self.lines.send(Line::Record(line));
    }

    /// Waits until everything written is with the operating system.
    pub fn flush(&self) {
        let (done, is_done) = channel();
        let _ = self.lines.send(Line::Flush(done));
        let _ = is_done.recv();
    }
}

/// Time in which lines are gathered.
const REST: Duration = Duration::from_millis(2);
/// Most lines are shorter.
const LINE_BYTES: usize = 256;

fn write(mut writer: HistoryWriter, lines: &Receiver<Line>) {
    while let Ok(line) = lines.recv() {
        write_one(&mut writer, line);
        // Whoever sends to a thread that waits has to wake it, which costs more than the line.
        std::thread::sleep(REST);
        lines.try_iter().for_each(|line| write_one(&mut writer, line));
    }
    if let Err(error) = writer.flush() {
        give_up(&error);
    }
}

fn write_one(writer: &mut HistoryWriter, line: Line) {
    let written = match &line {
        Line::Record(line) => writer.write_line(line),
        Line::Flush(_) => writer.flush(),
    };
    match (written, line) {
        (Err(error), _) => give_up(&error),
        (Ok(()), Line::Flush(done)) => drop(done.send(())),
        (Ok(()), Line::Record(_)) => {}
    }
}

fn give_up(error: &dyn std::fmt::Display) -> ! {
    eprintln!("the history cannot be written: {error}");
    std::process::exit(2);
}
