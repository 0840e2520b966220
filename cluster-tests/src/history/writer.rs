//! Writes one process' file of a history.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use super::error::HistoryError;
use super::event::{Event, Record};
use super::unit::Nanos;

/// Bytes gathered before they go to the file.
const BUFFER_BYTES: usize = 256 << 10;

/// Adds a record as a line to a buffer.
///
/// # Errors
/// Never with a record as it is; serde cannot know that.
pub fn encode(record: &Record<'_>, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    serde_json::to_writer(&mut *buffer, record)?;
    buffer.push(b'\n');
    Ok(())
}

/// Writes records to a file, one per line.
///
/// Lines are gathered. What has to be there although this process may be killed at any moment, such as the invocation
/// of a push that a reader may see, has to be flushed before it is acted upon.
#[derive(Debug)]
pub struct HistoryWriter {
    path: PathBuf,
    file: BufWriter<File>,
    line: Vec<u8>,
}

impl HistoryWriter {
    /// Creates a file that begins with `head`: the [`Event::Run`], or an [`Event::File`].
    ///
    /// # Errors
    /// When there is such a file already, or it cannot be written.
    pub fn create(path: impl Into<PathBuf>, t_ns: Nanos, head: Event<'_>) -> Result<Self, HistoryError> {
        let path = path.into();
        let file = File::create_new(&path).map_err(|error| HistoryError::Io { path: path.clone(), error })?;
        let mut writer = Self { path, file: BufWriter::with_capacity(BUFFER_BYTES, file), line: Vec::new() };
        writer.write(&Record { t_ns, event: head })?;
        Ok(writer)
    }

    /// Adds a record.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, record: &Record<'_>) -> Result<(), HistoryError> {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let written = encode(record, &mut line).map_err(|error| self.error(error));
        let written = written.and_then(|()| self.write_line(&line));
        self.line = line;
        written
    }

    /// Adds a record that is [`encode`]d already.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_line(&mut self, line: &[u8]) -> Result<(), HistoryError> {
        // As a whole: a line is in the file from its beginning to its end, or its end is missing.
        self.file.write_all(line).map_err(|error| self.error(error))
    }

    /// Hands everything gathered to the operating system.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self) -> Result<(), HistoryError> {
        self.file.flush().map_err(|error| self.error(error))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn error(&self, error: std::io::Error) -> HistoryError {
        HistoryError::Io { path: self.path.clone(), error }
    }
}
