//! A database in memory, in pages that exist once they are written to.
//!
//! redb's own backend keeps the whole file in one vector, which is copied each time it grows and touched to its end:
//! tens of megabytes for a log of a few kilobytes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

const PAGE_BYTES: usize = 16 << 10;

#[derive(Debug, Default)]
struct File {
    len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct MemoryBackend(Mutex<File>);

impl MemoryBackend {
    fn file(&self) -> MutexGuard<'_, File> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pieces of a range, each within one page: the page, where in it, where in the range.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= len {
            return None;
        }
        let position = offset + at as u64;
        let page = position / PAGE_BYTES as u64;
        // Less than a page.
        let within = usize::try_from(position % PAGE_BYTES as u64).unwrap_or_default();
        let count = (PAGE_BYTES - within).min(len - at);
        let piece = (page, within, at..at + count);
        at += count;
        Some(piece)
    })
}

impl StorageBackend for MemoryBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file().len)
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let file = self.file();
        if offset + len as u64 > file.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        for (page, within, range) in pieces(offset, len) {
            let stored = file.pages.get(&page).and_then(|page| page.get(within..within + range.len()));
            if let (Some(stored), Some(place)) = (stored, bytes.get_mut(range)) {
                place.copy_from_slice(stored);
            }
        }
        Ok(bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut file = self.file();
        file.len = len;
        let end = len.div_ceil(PAGE_BYTES as u64);
        drop(file.pages.split_off(&end));
        // What is behind the end reads as zeroes should the file grow again.
        let within = usize::try_from(len % PAGE_BYTES as u64).unwrap_or_default();
        if within > 0
            && let Some(rest) = file.pages.get_mut(&(end - 1)).and_then(|page| page.get_mut(within..))
        {
            rest.fill(0);
        }
        Ok(())
    }

    fn sync_data(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut file = self.file();
        if offset + data.len() as u64 > file.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, within, range) in pieces(offset, data.len()) {
            let page = file.pages.entry(page).or_insert_with(|| vec![0; PAGE_BYTES].into());
            let place = page.get_mut(within..within + range.len());
            if let (Some(place), Some(bytes)) = (place, data.get(range)) {
                place.copy_from_slice(bytes);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn file_is_what_a_vector_would_be(steps in prop::collection::vec((0_u64..100_000, 0_usize..50_000, any::<u8>()), 1..30)) {
            let (file, mut model) = (MemoryBackend::default(), Vec::new());
            for (offset, len, byte) in steps {
                if byte % 4 == 0 {
                    file.set_len(offset).unwrap();
                    model.resize(usize::try_from(offset).unwrap(), 0);
                    continue;
                }
                let (start, end) = (usize::try_from(offset).unwrap(), usize::try_from(offset).unwrap() + len);
                let written = file.write(offset, &vec![byte; len]);
                prop_assert_eq!(written.is_ok(), end <= model.len());
                if written.is_ok() {
                    model[start..end].fill(byte);
                    prop_assert_eq!(&file.read(offset, len).unwrap(), &model[start..end]);
                }
            }
            prop_assert_eq!(file.len().unwrap(), model.len() as u64);
            prop_assert_eq!(file.read(0, model.len()).unwrap(), model);
        }
    }
}
