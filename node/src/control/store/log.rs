//! Raft's log, vote and commit position.

use std::fmt::Debug;
use std::ops::RangeBounds;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{Entry, LogState, RaftLogReader};
use redb::{Durability, ReadableTable as _};

use super::{LOG, META, Store, StoreError, seal};
use crate::control::types::{LogId, StorageError, StorageIoError, TypeConfig, Vote};

const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";

/// Entries read at a time for a member that is behind.
const READ_BYTES_MAX: usize = 4 << 20;

/// The log of one group. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub(crate) struct LogStore(Store);

impl LogStore {
    pub(crate) fn new(store: Store) -> Self {
        Self(store)
    }

    /// Whether anything was ever appended.
    pub(crate) fn has_entries(&self) -> bool {
        self.state().is_ok_and(|state| state.last_log_id.is_some())
    }

    /// Term and index of the newest entry.
    pub(crate) fn last(&self) -> (u64, u64) {
        let last = self.state().ok().and_then(|state| state.last_log_id);
        last.map_or((0, 0), |id| (id.leader_id.term, id.index))
    }

    /// What is in the log behind an entry, whether it is committed or not.
    pub(crate) fn behind(&self, applied: Option<LogId>) -> Result<Vec<Entry<TypeConfig>>, StoreError> {
        self.0.entries(applied.map_or(0, |id| id.index + 1).., usize::MAX)
    }

    /// Reads everything once.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.0.meta::<Vote>(VOTE)?;
        self.0.meta::<Option<LogId>>(COMMITTED)?;
        let mut next = 0;
        loop {
            let entries: Vec<Entry<TypeConfig>> = self.0.entries(next.., READ_BYTES_MAX)?;
            let Some(last) = entries.last() else { return Ok(()) };
            next = last.log_id.index + 1;
        }
    }

    fn state(&self) -> Result<LogState<TypeConfig>, StoreError> {
        let last_purged_log_id = self.0.meta::<LogId>(PURGED)?;
        let table = self.0.database.begin_read()?.open_table(LOG)?;
        let last = table.last()?.map(|(_, value)| super::unseal::<Entry<TypeConfig>>("a log entry", value.value()));
        let last_log_id = last.transpose()?.map(|entry| entry.log_id).or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }
}

fn reading(error: &StoreError) -> StorageError {
    StorageIoError::read_logs(error).into()
}

fn writing(error: &StoreError) -> StorageError {
    StorageIoError::write_logs(error).into()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<TypeConfig>>, StorageError> {
        self.0.entries(range, usize::MAX).map_err(|error| reading(&error))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry<TypeConfig>>, StorageError> {
        self.0.entries(start..end, READ_BYTES_MAX).map_err(|error| reading(&error))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        self.state().map_err(|error| reading(&error))
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let saved = self.0.put_meta(VOTE, vote, Durability::Immediate).await;
        saved.map_err(|error| StorageIoError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.0.meta(VOTE).map_err(|error| StorageIoError::read_vote(&error).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        // Not synced: a commit position that is older than the truth is still true.
        self.0.put_meta(COMMITTED, &committed, Durability::None).await.map_err(|error| writing(&error))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let committed: Option<Option<LogId>> = self.0.meta(COMMITTED).map_err(|error| reading(&error))?;
        Ok(committed.flatten())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + Send,
        I::IntoIter: Send,
    {
        let sealed: Vec<_> = entries.into_iter().map(|entry| (entry.log_id.index, seal(&entry))).collect();
        // Waits for the disk: so the order of what is stored is the order of the calls.
        let stored = self.0.write_aside(Durability::Immediate, move |write| {
            let mut table = write.open_table(LOG)?;
            for (index, entry) in &sealed {
                table.insert(index, entry.as_slice())?;
            }
            Ok(())
        });
        let stored = stored.await;
        let result = match &stored {
            Ok(()) => Ok(()),
            Err(error) => Err(std::io::Error::other(error.to_string())),
        };
        callback.log_io_completed(result);
        stored.map_err(|error| writing(&error))
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let truncated = self.0.write_aside(Durability::Immediate, move |write| {
            Ok(write.open_table(LOG)?.retain_in(since.index.., |_, _| false)?)
        });
        truncated.await.map_err(|error| writing(&error))
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let purged = seal(&upto);
        let purging = self.0.write_aside(Durability::Immediate, move |write| {
            write.open_table(META)?.insert(PURGED, purged.as_slice())?;
            Ok(write.open_table(LOG)?.retain_in(..=upto.index, |_, _| false)?)
        });
        purging.await.map_err(|error| writing(&error))
    }
}
