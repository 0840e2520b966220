//! Reads one process' file of a history, line by line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::error::HistoryError;
use super::event::{Event, Record};

/// Bytes read at once.
const BUFFER_BYTES: usize = 1 << 20;
/// More than a confirmation with a cursor for each of 32,768 vbuckets takes.
const LINE_BYTES_MAX: usize = 8 << 20;

/// Reads a file of records.
///
/// A last line that was cut short ends the file: its process was killed while it wrote. [`HistoryReader::is_cut`]
/// tells.
#[derive(Debug)]
pub struct HistoryReader {
    path: PathBuf,
    file: BufReader<File>,
    line: Vec<u8>,
    number: u64,
    is_cut: bool,
}

/// A record and where it is.
#[derive(Debug)]
pub struct Line<'a> {
    /// The line, from 1 on.
    pub number: u64,
    /// What it says.
    pub record: Record<'a>,
}

impl HistoryReader {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, HistoryError> {
        let path = path.into();
        let file = File::open(&path).map_err(|error| HistoryError::Io { path: path.clone(), error })?;
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        Ok(Self { path, file, line: Vec::new(), number: 0, is_cut: false })
    }

    /// The next record. `None` at the end.
    ///
    /// # Errors
    /// When a line is no record, the first one is no head, or the file cannot be read.
    pub fn next_record(&mut self) -> Result<Option<Line<'_>>, HistoryError> {
        if !self.next_line()? {
            return Ok(None);
        }
        let (line, is_whole) = match self.line.strip_suffix(b"\n") {
            Some(line) => (line, true),
            None => (&*self.line, false),
        };
        let record = match serde_json::from_slice::<Record<'_>>(line) {
            Ok(record) => record,
            Err(_) if !is_whole => {
                self.is_cut = true;
                return Ok(None);
            }
            Err(error) => return Err(malformed(&self.path, self.number, words_of(&error))),
        };
        let is_head = matches!(record.event, Event::Run(_) | Event::File(_));
        if self.number == 1 && !is_head {
            return Err(malformed(&self.path, 1, "a file begins with a record of run or file".to_owned()));
        }
        Ok(Some(Line { number: self.number, record }))
    }

    /// The next line as it is, without its end. `None` at the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next_text(&mut self) -> Result<Option<(u64, String)>, HistoryError> {
        let is_there = self.next_line()?;
        Ok(is_there.then(|| (self.number, String::from_utf8_lossy(&self.line).trim_end().to_owned())))
    }

    /// Whether the file ended in a line that was cut short.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn next_line(&mut self) -> Result<bool, HistoryError> {
        self.line.clear();
        let mut bounded = (&mut self.file).take(LINE_BYTES_MAX as u64);
        let read = bounded.read_until(b'\n', &mut self.line);
        let bytes = read.map_err(|error| HistoryError::Io { path: self.path.clone(), error })?;
        if bytes == 0 {
            return Ok(false);
        }
        self.number += 1;
        if bytes == LINE_BYTES_MAX && self.line.last() != Some(&b'\n') {
            let (path, line) = (self.path.clone(), self.number);
            return Err(HistoryError::TooLong { path, line, bytes_max: LINE_BYTES_MAX });
        }
        Ok(true)
    }
}

fn malformed(path: &Path, line: u64, words: String) -> HistoryError {
    HistoryError::Malformed { path: path.to_owned(), line, words }
}

/// What is wrong with a line, and where in it.
fn words_of(error: &serde_json::Error) -> String {
    let words = error.to_string();
    // Each line is parsed by itself, so that serde_json calls it the first.
    let words = words.rsplit_once(" at line ").map_or(words.as_str(), |(words, _)| words);
    format!("{words}, at column {}", error.column())
}
