//! Why a history cannot be read or written.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a history cannot be read or written. What was read before it is of no use: a verdict on half a history is none.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The file cannot be opened, read or written. Look at the path and try again.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A line is no record. Whoever wrote it is broken, or of another version; only the last line of a file may be cut
    /// short, because a process may be killed while it writes.
    #[error("{}:{line}: {words}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: u64,
        /// What is wrong.
        words: String,
    },
    /// A line is longer than any record. It is not read, lest it takes all memory.
    #[error("{}:{line}: longer than {bytes_max} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: u64,
        /// The limit.
        bytes_max: usize,
    },
}
