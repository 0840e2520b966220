//! Damage to what a node keeps on disk.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::arena::{Arena, has_all};
use crate::error::HarnessError;
use crate::observer::{is_full, newest_map};

/// How often it is looked whether a node has come or refused.
const PERIOD: Duration = Duration::from_millis(50);

/// What is done to the folder of a node's control log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// One bit of it is another.
    BitFlip,
    /// Its end is missing.
    CutShort,
    /// All of it is gone.
    Deleted,
}

impl Damage {
    fn kind(self) -> &'static str {
        match self {
            Self::BitFlip => "bit flip on disk",
            Self::CutShort => "log cut short",
            Self::Deleted => "folder deleted",
        }
    }
}

impl Arena {
    /// Waits until a node keeps a control log: one that has just come is taken into the raft group a while later.
    ///
    /// # Errors
    /// When it takes longer than `limit`.
    pub async fn until_logged(&self, at: usize, limit: Duration) -> Result<(), HarnessError> {
        let (folder, since) = (self.cluster.data(at)?, Instant::now());
        while log_in(&folder).is_err() {
            if since.elapsed() > limit {
                let (what, seen) = (format!("{} holds a control log", folder.display()), "none".to_owned());
                return Err(HarnessError::Late { what, limit, seen });
            }
            tokio::time::sleep(PERIOD).await;
        }
        Ok(())
    }

    /// Damages the folder of a node that does not run.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn damage(&mut self, at: usize, damage: Damage) -> Result<(), HarnessError> {
        let folder = self.cluster.data(at)?;
        let place = self.below(usize::MAX);
        let done = match damage {
            Damage::Deleted => std::fs::remove_dir_all(&folder),
            Damage::BitFlip => log_in(&folder).and_then(|log| flip(&log, place as u64)),
            Damage::CutShort => log_in(&folder).and_then(|log| cut(&log, place as u64)),
        };
        done.map_err(HarnessError::io(format!("damage {}", folder.display())))?;
        let name = self.cluster.node(at)?.name.clone();
        self.log.begin(damage.kind(), name);
        Ok(())
    }

    /// Starts a node that may refuse its folder, and waits until it does so or holds all its copies. Whether it has
    /// refused.
    ///
    /// # Errors
    /// When neither comes in time.
    pub async fn start_or_refused(&mut self, at: usize, limit: Duration) -> Result<bool, HarnessError> {
        self.start(at)?;
        let (name, pid) = (self.cluster.node(at)?.name.clone(), self.cluster.node(at)?.pid());
        let since = Instant::now();
        while since.elapsed() < limit {
            if self.cluster.take_ended(at)?.is_some() {
                pid.iter().for_each(|pid| self.log.exited(&name, *pid, None));
                return Ok(true);
            }
            let audit = [self.cluster.audit(at)?];
            if newest_map(&self.cluster).await.is_ok_and(|map| has_all(&map, &audit) && is_full(&map)) {
                return Ok(false);
            }
            tokio::time::sleep(PERIOD).await;
        }
        let (what, seen) = (format!("{name} refuses its folder, or holds its copies"), "neither".to_owned());
        Err(HarnessError::Late { what, limit, seen })
    }
}

/// The file of the control log.
fn log_in(folder: &Path) -> std::io::Result<PathBuf> {
    let mut files = std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let log = files.find(|path| path.extension().is_some_and(|extension| extension == "redb"));
    log.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "no control log"))
}

fn flip(log: &Path, place: u64) -> std::io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(log)?;
    let at = place % file.metadata()?.len().max(1);
    let mut byte = [0];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(&[byte[0] ^ 1 << (place % 8)])
}

fn cut(log: &Path, place: u64) -> std::io::Result<()> {
    let file: File = OpenOptions::new().write(true).open(log)?;
    let len = file.metadata()?.len();
    file.set_len(place % len.max(1))
}
