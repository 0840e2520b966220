//! Where a raft group keeps what it must not forget: a redb database, in a file or in memory.
//!
//! One database per participation in a group, so that a group that is given up is a file that is deleted, and a raft id
//! that was lost with its file is never used again. A file is synced before anybody is told that something is stored.
//! Every value carries a checksum: what a disk returns is not what a voter has said before it is checked.
//!
//! [`log`] is raft's log and vote, [`machine`] the state machine and its snapshots. [`guard`] is for files that make
//! the database itself give up.

mod guard;
mod log;
mod machine;
mod memory;
#[cfg(test)]
mod suite;

use std::io;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use broky_proto::id::ClusterId;

use redb::{Builder, Database, Durability, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::types::{GroupId, RaftId};

pub(crate) use log::LogStore;
pub(crate) use machine::{MachineStore, Replicated};
#[cfg(test)]
pub(crate) use suite::Scratch;

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const HEADER: &str = "header";

/// Version of what the values mean. Another one is refused.
const VERSION: u16 = 1;
const MAGIC: [u8; 8] = *b"brokyctl";
/// The control log is small, and so is what is read of it again.
const CACHE_BYTES: usize = 1 << 20;
const CHECKSUM_BYTES: usize = 4;

/// Whose database this is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    magic: [u8; 8],
    version: u16,
    pub(crate) cluster: ClusterId,
    pub(crate) group: GroupId,
    pub(crate) raft: RaftId,
    /// The node's name.
    pub(crate) name: String,
}

impl Header {
    pub(crate) fn new(cluster: ClusterId, group: GroupId, raft: RaftId, name: String) -> Self {
        Self { magic: MAGIC, version: VERSION, cluster, group, raft, name }
    }
}

/// Why a database cannot be used. Nothing in it was changed.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    /// The directory or a file in it is not accessible, or the disk is full. Mend that, and start again.
    #[error("cannot use {path}")]
    Io { path: PathBuf, source: io::Error },
    /// Another process has the directory. Give every node its own.
    #[error("{path} is in use by another process")]
    InUse { path: PathBuf },
    /// The file is no database of this program, or damaged. Move it away: the node then joins as a new process.
    #[error("{path} is no control database of broky, or damaged: {what}")]
    Damaged { path: PathBuf, what: String },
    /// It belongs to a node of another name. Give every node its own directory.
    #[error("{path} belongs to node {theirs:?}, this is {ours:?}")]
    OtherNode { path: PathBuf, ours: String, theirs: String },
    /// The database refuses an operation.
    #[error("database: {0}")]
    Database(#[from] Box<redb::Error>),
    /// A value is not what was stored.
    #[error("{0} is damaged")]
    Value(&'static str),
}

macro_rules! from_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        })*
    };
}
from_redb!(DatabaseError, TransactionError, TableError, StorageError, CommitError);

/// A database. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    database: Arc<Database>,
    /// `None` in memory.
    path: Option<Arc<Path>>,
}

impl Store {
    /// A new, empty database: in this directory, or in memory.
    pub(crate) fn create(directory: Option<&Path>, header: &Header) -> Result<Self, StoreError> {
        let path = directory.map(|directory| directory.join(file_name(header.group)));
        let database = match &path {
            Some(path) => builder().create(path).map_err(|error| opening(path, error))?,
            None => builder().create_with_backend(memory::MemoryBackend::default())?,
        };
        let store = Self { database: Arc::new(database), path: path.map(Into::into) };
        let header = seal(header);
        store.write(Durability::Immediate, |write| {
            write.open_table(LOG)?;
            write.open_table(META)?.insert(HEADER, header.as_slice())?;
            Ok(())
        })?;
        Ok(store)
    }

    /// An existing database. All of it is read once, so that damage is found at the start and not by whoever needs it.
    pub(crate) fn open(path: &Path) -> Result<(Self, Header), StoreError> {
        let damaged = |what: &str| StoreError::Damaged { path: path.to_owned(), what: what.to_owned() };
        guard::guarded(path, || {
            let (store, header) = Self::open_unchecked(path)?;
            LogStore::new(store.clone()).check().map_err(|error| damaged(&error.to_string()))?;
            MachineStore::load(store.clone(), None).map_err(|error| damaged(&error.to_string()))?;
            Ok((store, header))
        })
        .unwrap_or_else(|| Err(damaged("its structure is broken")))
    }

    fn open_unchecked(path: &Path) -> Result<(Self, Header), StoreError> {
        let damaged = |what: &str| StoreError::Damaged { path: path.to_owned(), what: what.to_owned() };
        // A node that is killed leaves its database without the index that makes opening fast.
        let database = builder().open(path).map_err(|error| opening(path, error))?;
        let store = Self { database: Arc::new(database), path: Some(path.into()) };
        let header: Header = match store.meta(HEADER) {
            Ok(Some(header)) => header,
            Ok(None) => return Err(damaged("it has no header")),
            Err(error) => return Err(damaged(&error.to_string())),
        };
        if header.magic != MAGIC {
            return Err(damaged("its header is another program's"));
        }
        if header.version != VERSION {
            return Err(damaged(&format!("format {}, this program writes {VERSION}", header.version)));
        }
        Ok((store, header))
    }

    /// Deletes the file, if there is one. Handles that are left keep working until they are dropped.
    pub(crate) fn delete(&self) {
        if let Some(path) = &self.path
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "an obsolete control database cannot be deleted");
        }
    }

    fn is_durable(&self) -> bool {
        self.path.is_some()
    }

    /// Changes the database, atomically, and returns when that is stored.
    fn write<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut write = self.database.begin_write()?;
        write.set_durability(durability);
        let result = change(&write)?;
        write.commit()?;
        Ok(result)
    }

    /// The same, away from the runtime's thread when a disk may be slow: a node that waits for its disk still answers.
    async fn write_aside<T: Send + 'static>(
        &self,
        durability: Durability,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if !self.is_durable() {
            return self.write(durability, change);
        }
        let store = self.clone();
        match tokio::task::spawn_blocking(move || store.write(durability, change)).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::Io { path: PathBuf::new(), source: io::Error::other(error) }),
        }
    }

    async fn put_meta<T: Serialize>(
        &self,
        key: &'static str,
        value: &T,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let value = seal(value);
        self.write_aside(durability, move |write| {
            write.open_table(META)?.insert(key, value.as_slice())?;
            Ok(())
        })
        .await
    }

    fn meta<T: DeserializeOwned>(&self, key: &'static str) -> Result<Option<T>, StoreError> {
        let table = self.database.begin_read()?.open_table(META)?;
        table.get(key)?.map(|value| unseal(key, value.value())).transpose()
    }

    /// Log entries in a range, in order, until they add up to `bytes_max`; at least one, if there is any.
    fn entries<T: DeserializeOwned>(
        &self,
        range: impl RangeBounds<u64>,
        bytes_max: usize,
    ) -> Result<Vec<T>, StoreError> {
        let table = self.database.begin_read()?.open_table(LOG)?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for entry in table.range::<u64>(range)? {
            let value = entry?.1;
            bytes += value.value().len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(unseal("a log entry", value.value())?);
        }
        Ok(entries)
    }
}

/// The databases in a directory.
pub(crate) fn files(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let io = |source| StoreError::Io { path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

const EXTENSION: &str = "redb";

fn file_name(group: GroupId) -> String {
    format!("control-{group}.{EXTENSION}")
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).create_with_file_format_v3(true);
    builder
}

fn opening(path: &Path, error: redb::DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path },
        redb::DatabaseError::Storage(redb::StorageError::Io(source)) if source.kind() != io::ErrorKind::InvalidData => {
            StoreError::Io { path, source }
        }
        error => StoreError::Damaged { path, what: error.to_string() },
    }
}

/// A value as it is stored: its checksum and its bytes.
fn seal<T: Serialize>(value: &T) -> Vec<u8> {
    // Nothing that is stored has a form that cannot be written: no maps of unknown length, no foreign types.
    let bytes = postcard::to_stdvec(value).unwrap_or_default();
    [&crc32fast::hash(&bytes).to_be_bytes(), bytes.as_slice()].concat()
}

fn unseal<T: DeserializeOwned>(what: &'static str, sealed: &[u8]) -> Result<T, StoreError> {
    let (sum, bytes) = sealed.split_first_chunk::<CHECKSUM_BYTES>().ok_or(StoreError::Value(what))?;
    if crc32fast::hash(bytes).to_be_bytes() != *sum {
        return Err(StoreError::Value(what));
    }
    postcard::from_bytes(bytes).map_err(|_| StoreError::Value(what))
}
