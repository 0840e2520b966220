//! openraft's own tests of a storage, on disk and in memory, and what is ours beside it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::testing::{StoreBuilder, Suite};

use super::*;
use crate::control::types::{StorageError, TypeConfig};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A directory of its own, gone with the guard.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("broky-store-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn header(raft: u64) -> Header {
    Header::new(ClusterId([1; 16]), GroupId([2; 16]), RaftId(raft), "n".to_owned())
}

struct InMemory;

impl StoreBuilder<TypeConfig, LogStore, MachineStore, ()> for InMemory {
    async fn build(&self) -> Result<((), LogStore, MachineStore), StorageError> {
        let store = Store::create(None, &header(0)).unwrap();
        Ok(((), LogStore::new(store.clone()), MachineStore::load(store, None).unwrap()))
    }
}

struct OnDisk;

impl StoreBuilder<TypeConfig, LogStore, MachineStore, Scratch> for OnDisk {
    async fn build(&self) -> Result<(Scratch, LogStore, MachineStore), StorageError> {
        let scratch = Scratch::new();
        let store = Store::create(Some(&scratch.0), &header(0)).unwrap();
        Ok((scratch, LogStore::new(store.clone()), MachineStore::load(store, None).unwrap()))
    }
}

#[test]
fn storage_in_memory_passes_the_suite_of_openraft() {
    Suite::test_all(InMemory).unwrap();
}

#[test]
fn storage_on_disk_passes_the_suite_of_openraft() {
    Suite::test_all(OnDisk).unwrap();
}

fn create(directory: &Path) -> PathBuf {
    drop(Store::create(Some(directory), &header(7)).unwrap());
    files(directory).unwrap().remove(0)
}

#[test]
fn reopened_database_knows_whose_it_is() {
    let scratch = Scratch::new();
    let path = create(&scratch.0);
    assert_eq!(Store::open(&path).unwrap().1, header(7));
}

#[test]
fn database_in_use_is_refused() {
    let scratch = Scratch::new();
    let _held = Store::create(Some(&scratch.0), &header(7)).unwrap();
    let path = files(&scratch.0).unwrap().remove(0);
    assert!(matches!(Store::open(&path), Err(StoreError::InUse { .. })));
}

#[test]
fn foreign_file_is_refused() {
    let scratch = Scratch::new();
    let path = scratch.0.join("control-x.redb");
    for content in [&b"not a database"[..], &[], &[0; 8192]] {
        std::fs::write(&path, content).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(error.to_string().contains("control-x.redb"), "{error}");
    }
}

#[test]
fn flipped_bit_in_a_value_is_noticed() {
    let sealed = seal(&header(7));
    assert_eq!(unseal::<Header>("x", &sealed).unwrap(), header(7));
    for bit in 0..sealed.len() * 8 {
        let mut damaged = sealed.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(unseal::<Header>("x", &damaged).is_err(), "bit {bit}");
    }
    for len in 0..sealed.len() {
        assert!(unseal::<Header>("x", &sealed[..len]).is_err(), "{len} bytes");
    }
}
