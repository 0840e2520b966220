//! Compact records, partitioned, in memory as long as they are few and on disk when they are many.
//!
//! This is what bounds the checker's memory: fifty million records are gathered by what has to be judged together, and
//! each partition is then loaded, judged and dropped by itself. A small history, such as the simulator's, never touches
//! the disk.
//!
//! Records are in postcard's format, whose varints make the small numbers that histories consist of one or two bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::CheckError;

/// More than any compact record takes.
const RECORD_BYTES_MAX: usize = 512;

/// A folder for what does not fit into memory. It is made when something goes there first, and removed with its
/// content.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(crate) fn new(parent: Option<&Path>) -> Rc<Self> {
        // One process may judge several histories at once.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        Rc::new(Self { path: parent.join(format!("broky-check-{}-{number}", std::process::id())) })
    }

    fn append(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, CheckError> {
        let scratch = |path: &Path| {
            let path = path.to_owned();
            |error| CheckError::Scratch { path, error }
        };
        fs::create_dir_all(&self.path).map_err(scratch(&self.path))?;
        let path = self.path.join(name);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file: File| file.write_all(bytes)).map_err(scratch(&path))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => eprintln!("{} stays behind: {error}", self.path.display()),
        }
    }
}

/// Compact records in partitions.
#[derive(Debug)]
pub(crate) struct Spool<T> {
    scratch: Rc<Scratch>,
    name: &'static str,
    partitions: Vec<Partition>,
    /// Bytes of one partition that are gathered before they go to disk.
    gathered_bytes_max: usize,
    encoded: [u8; RECORD_BYTES_MAX],
    records: PhantomData<fn(T) -> T>,
}

#[derive(Default, Debug)]
struct Partition {
    gathered: Vec<u8>,
    file: Option<PathBuf>,
    count: usize,
}

impl<T: Serialize + DeserializeOwned> Spool<T> {
    pub(crate) fn new(scratch: &Rc<Scratch>, name: &'static str, partitions: usize, gathered_bytes_max: usize) -> Self {
        Self {
            scratch: Rc::clone(scratch),
            name,
            partitions: std::iter::repeat_with(Partition::default).take(partitions).collect(),
            gathered_bytes_max,
            encoded: [0; RECORD_BYTES_MAX],
            records: PhantomData,
        }
    }

    /// Puts a record into the partition of this number, modulo their count.
    pub(crate) fn push(&mut self, number: usize, record: &T) -> Result<(), CheckError> {
        let at = number % self.partitions.len();
        let Some(partition) = self.partitions.get_mut(at) else { return Ok(()) };
        let encoded = postcard::to_slice(record, &mut self.encoded)
            .map_err(|error| CheckError::Damaged { path: self.scratch.path.join(self.name), error })?;
        partition.gathered.extend_from_slice(encoded);
        partition.count += 1;
        if partition.gathered.len() >= self.gathered_bytes_max {
            partition.file = Some(self.scratch.append(&format!("{}-{at}", self.name), &partition.gathered)?);
            partition.gathered.clear();
        }
        Ok(())
    }

    /// Takes everything out of a partition.
    pub(crate) fn take(&mut self, at: usize) -> Result<Vec<T>, CheckError> {
        let Some(partition) = self.partitions.get_mut(at).map(std::mem::take) else { return Ok(Vec::new()) };
        let mut records = Vec::with_capacity(partition.count);
        if let Some(path) = &partition.file {
            let bytes = fs::read(path).map_err(|error| CheckError::Scratch { path: path.clone(), error })?;
            decode(&bytes, &mut records).map_err(|error| CheckError::Damaged { path: path.clone(), error })?;
            // Room for what is still to be put aside.
            fs::remove_file(path).map_err(|error| CheckError::Scratch { path: path.clone(), error })?;
        }
        decode(&partition.gathered, &mut records)
            .map_err(|error| CheckError::Damaged { path: self.scratch.path.join(self.name), error })?;
        Ok(records)
    }
}

fn decode<T: DeserializeOwned>(mut bytes: &[u8], records: &mut Vec<T>) -> Result<(), postcard::Error> {
    while !bytes.is_empty() {
        let (record, rest) = postcard::take_from_bytes(bytes)?;
        records.push(record);
        bytes = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_from_memory_and_from_disk() {
        for gathered_bytes_max in [1, 64, 1 << 20] {
            let scratch = Scratch::new(None);
            let mut spool = Spool::<(u64, u32)>::new(&scratch, "numbers", 4, gathered_bytes_max);
            for number in 0..1_000_u32 {
                spool.push(number as usize, &(u64::from(number) << 30, number)).unwrap();
            }
            for partition in 0..4 {
                let records = spool.take(partition as usize).unwrap();
                assert_eq!(records.len(), 250);
                assert!(records.iter().zip((partition..).step_by(4)).all(|(record, number)| record.1 == number));
                assert!(spool.take(partition as usize).unwrap().is_empty());
            }
        }
    }

    #[test]
    fn folder_is_removed_with_the_last_that_uses_it() {
        let scratch = Scratch::new(None);
        let path = scratch.path.clone();
        let mut spool = Spool::<u64>::new(&scratch, "numbers", 1, 1);
        spool.push(0, &7).unwrap();
        drop(scratch);
        assert!(path.is_dir());
        drop(spool);
        assert!(!path.exists());
    }

    #[test]
    fn damaged_file_is_an_error() {
        let scratch = Scratch::new(None);
        let mut spool = Spool::<(u64, u64)>::new(&scratch, "numbers", 1, 1);
        spool.push(0, &(1 << 60, 2)).unwrap();
        fs::write(scratch.path.join("numbers-0"), [0xff]).unwrap();
        assert!(matches!(spool.take(0), Err(CheckError::Damaged { .. })));
    }
}
