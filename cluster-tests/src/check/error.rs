//! Why a history cannot be judged.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::finding::Origin;
use crate::history::HistoryError;

/// Why a history cannot be judged. There is no verdict then, neither good nor bad: mend what recorded it, and run
/// again.
#[derive(Debug, Error)]
pub enum CheckError {
    /// A file cannot be read as a history.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A record contradicts others of the same recorder.
    #[error("{origin}: {fault}")]
    Unusable {
        /// Where it is.
        origin: String,
        /// What is wrong with it.
        fault: Fault,
    },
    /// There is no file of this name, or no `.jsonl` file in this folder.
    #[error("{}: no history there", path.display())]
    Nothing {
        /// The path.
        path: PathBuf,
    },
    /// There are more files than can be told apart.
    #[error("{count} files; at most {count_max} can be judged together")]
    TooManyFiles {
        /// How many.
        count: usize,
        /// The limit.
        count_max: usize,
    },
    /// No record says what the run is. Give the file with the `run` record too.
    #[error("no record of run in any file")]
    NoRun,
    /// Compact records could not be put aside. Look for room in the scratch folder.
    #[error("{}: {error}", path.display())]
    Scratch {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What was put aside is not what comes back: another process writes there, or the disk is broken.
    #[error("{}: damaged: {error}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What cannot be decoded.
        error: postcard::Error,
    },
}

impl CheckError {
    pub(super) fn unusable(sources: &[String], origin: Origin, fault: Fault) -> Self {
        let source = sources.get(usize::from(origin.source)).map_or("?", String::as_str);
        Self::Unusable { origin: format!("{source}:{}", origin.line), fault }
    }
}

/// What is wrong with a record, seen with the others.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Fault {
    /// There are two.
    #[error("a second record of run")]
    SecondRun,
    /// The file is left over from elsewhere.
    #[error("of run {theirs:?}, not {ours:?}")]
    ForeignRun {
        /// The run that is judged.
        ours: String,
        /// The run that the file belongs to.
        theirs: String,
    },
    /// There is no such number of vbuckets.
    #[error("{0} vbuckets: not a power of two from 1 to 32,768")]
    VBuckets(u32),
    /// A vbucket that the run does not have.
    #[error("vbucket {vbucket} of {vbuckets}")]
    NoSuchVBucket {
        /// The vbucket.
        vbucket: u16,
        /// How many there are.
        vbuckets: u16,
    },
    /// A range that ends before it begins.
    #[error("a range from {from} to {to}")]
    Range {
        /// Its begin.
        from: u64,
        /// Its end.
        to: u64,
    },
    /// The session was begun before.
    #[error("session {session} of reader {reader:?} begins twice")]
    SecondSubscribe {
        /// The reader.
        reader: String,
        /// The session.
        session: u32,
    },
    /// The session was never begun, or in another file.
    #[error("session {session} of reader {reader:?} has no subscribe before this in this file")]
    NoSubscribe {
        /// The reader.
        reader: String,
        /// The session.
        session: u32,
    },
    /// Nothing says which cluster this comes from.
    #[error("session {session} of reader {reader:?} is not confirmed")]
    NotConfirmed {
        /// The reader.
        reader: String,
        /// The session.
        session: u32,
    },
    /// A message was delivered that has a producer and no sequence, or the other way round.
    #[error("half a stamp: a producer without a sequence, or a sequence without a producer")]
    HalfStamp,
    /// An outcome of nothing.
    #[error("an outcome of message {producer}/{sequence}, which was not invoked so often")]
    NoInvoke {
        /// The producer.
        producer: u64,
        /// The sequence.
        sequence: u64,
    },
    /// One name for two messages.
    #[error("message {producer}/{sequence} is invoked with two contents")]
    TwoContents {
        /// The producer.
        producer: u64,
        /// The sequence.
        sequence: u64,
    },
    /// More names of clusters or readers than can be told apart.
    #[error("more than {0} clusters or readers")]
    TooManyNames(usize),
}
