//! The state machine and its snapshots.
//!
//! The state lives in memory. What is stored is a snapshot now and then; at a start, the newest one and the log behind
//! it give the state again.

use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broky_proto::id::MapVersion;
use broky_ring::command::Command;
use broky_ring::map::ClusterMap;
use openraft::storage::RaftStateMachine;
use openraft::{Entry, EntryPayload, RaftSnapshotBuilder};
use redb::Durability;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{META, Store, StoreError, seal, unseal};
use crate::audit::Audit;
use crate::control::types::{
    Answer, LogId, Machine, Request, Snapshot, SnapshotMeta, StorageError, StorageIoError, StoredMembership, TypeConfig,
};

const SNAPSHOT: &str = "snapshot";

/// A snapshot as it is stored.
#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    meta: SnapshotMeta,
    /// A sealed [`Machine`].
    data: Vec<u8>,
}

/// The state as it is after the newest entry applied, for everybody who wants to look.
#[derive(Debug)]
pub(crate) struct Replicated {
    inner: Mutex<Inner>,
    map: watch::Sender<Arc<ClusterMap>>,
}

#[derive(Clone, Default, Debug)]
struct Inner {
    machine: Machine,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl Inner {
    fn map_version(&self) -> MapVersion {
        self.machine.state().map().version()
    }
}

impl Replicated {
    fn new(inner: Inner) -> Self {
        let map = watch::Sender::new(Arc::new(inner.machine.state().map().clone()));
        Self { inner: Mutex::new(inner), map }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nobody panics while holding it and lives on.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the state. `look` must be short: raft waits.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        look(&self.lock().machine)
    }

    /// The state and the entry that it is the state after.
    pub(crate) fn snapshot(&self) -> (Machine, Option<LogId>) {
        let inner = self.lock();
        (inner.machine.clone(), inner.applied)
    }

    /// The map after every change. It says nothing of what an entry did, only what holds now; so it does not matter
    /// whether the state came by entries or by a snapshot.
    pub(crate) fn map(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.map.subscribe()
    }

    fn publish(&self, inner: &Inner) {
        let map = inner.machine.state().map();
        if map.version() != self.map.borrow().version() {
            self.map.send_replace(Arc::new(map.clone()));
        }
    }
}

/// The state machine of one group.
#[derive(Clone, Debug)]
pub(crate) struct MachineStore {
    store: Store,
    replicated: Arc<Replicated>,
    audit: Option<Audit>,
}

impl MachineStore {
    /// The state as far as the stored snapshot has it. What changes it from there on is noted in the audit, if there is
    /// one.
    pub(crate) fn load(store: Store, audit: Option<Audit>) -> Result<Self, StoreError> {
        let inner = match store.meta::<Stored>(SNAPSHOT)? {
            Some(stored) => Inner {
                machine: unseal(SNAPSHOT, &stored.data)?,
                applied: stored.meta.last_log_id,
                membership: stored.meta.last_membership,
            },
            None => Inner::default(),
        };
        audit.iter().for_each(|audit| audit.map(inner.machine.state().map(), MapVersion(0)));
        Ok(Self { store, replicated: Arc::new(Replicated::new(inner)), audit })
    }

    pub(crate) fn replicated(&self) -> Arc<Replicated> {
        self.replicated.clone()
    }

    fn carry_out(&self, inner: &mut Inner, at: LogId, request: Request) -> Answer {
        let audited = self.audit.as_ref().and_then(|audit| match &request {
            Request::Command(Command::AlterIsr { changes, .. }) => Some((audit, changes.clone())),
            Request::Seed(_) | Request::Command(_) | Request::Register { .. } => None,
        });
        let answer = inner.machine.apply(at.index, request);
        if let (Some((audit, changes)), Answer::Outcome(outcome)) = (audited, &answer) {
            audit.isr_changes(changes, outcome);
        }
        answer
    }

    fn note(&self, inner: &Inner, since: MapVersion) {
        self.audit.iter().for_each(|audit| audit.map(inner.machine.state().map(), since));
    }
}

/// Ends the process when it is dropped in a panic: a state machine that stopped half way through an entry is not the
/// others' state any more, and raft itself would only stop applying.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the replicated state machine panicked; the process ends");
            std::process::abort();
        }
    }
}

impl RaftStateMachine<TypeConfig> for MachineStore {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let inner = self.replicated.lock();
        Ok((inner.applied, inner.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, StorageError>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + Send,
        I::IntoIter: Send,
    {
        let _abort = AbortOnPanic;
        let mut inner = self.replicated.lock();
        let mut answers = Vec::new();
        for entry in entries {
            inner.applied = Some(entry.log_id);
            let before = inner.map_version();
            answers.push(match entry.payload {
                EntryPayload::Blank => Answer::None,
                EntryPayload::Normal(request) => self.carry_out(&mut inner, entry.log_id, request),
                EntryPayload::Membership(membership) => {
                    inner.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Answer::None
                }
            });
            self.note(&inner, before);
        }
        self.replicated.publish(&inner);
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let failed = |error: &StoreError| -> StorageError {
            StorageIoError::write_snapshot(Some(meta.signature()), error).into()
        };
        let data = snapshot.into_inner();
        let machine: Machine = unseal(SNAPSHOT, &data).map_err(|error| failed(&error))?;
        let stored = Stored { meta: meta.clone(), data };
        self.store.put_meta(SNAPSHOT, &stored, Durability::Immediate).await.map_err(|error| failed(&error))?;
        let mut inner = self.replicated.lock();
        let before = inner.map_version();
        *inner = Inner { machine, applied: meta.last_log_id, membership: meta.last_membership.clone() };
        self.note(&inner, before);
        self.replicated.publish(&inner);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let stored: Option<Stored> =
            self.store.meta(SNAPSHOT).map_err(|error| StorageIoError::read_snapshot(None, &error))?;
        Ok(stored.map(|Stored { meta, data }| Snapshot { meta, snapshot: Box::new(Cursor::new(data)) }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for MachineStore {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let Inner { machine, applied, membership } = self.replicated.lock().clone();
        let snapshot_id = applied.map_or_else(|| "0".to_owned(), |id| format!("{}-{}", id.leader_id, id.index));
        let meta = SnapshotMeta { last_log_id: applied, last_membership: membership, snapshot_id };
        let stored = Stored { meta, data: seal(&machine) };
        let sealed = seal(&stored);
        let written = self.store.write_aside(Durability::Immediate, move |write| {
            write.open_table(META)?.insert(SNAPSHOT, sealed.as_slice())?;
            Ok(())
        });
        written.await.map_err(|error| StorageIoError::write_snapshot(Some(stored.meta.signature()), &error))?;
        Ok(Snapshot { meta: stored.meta, snapshot: Box::new(Cursor::new(stored.data)) })
    }
}
