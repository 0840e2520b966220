//! The file in which `broky sub --from FILE` keeps its position.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use broky_client::{ResumeToken, Start};

use crate::exit::{IO_ERROR, NO_INPUT, OrExit as _};

/// The position is written this often while messages come.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// A position kept in a file.
pub(super) struct PositionFile {
    path: PathBuf,
    read: Option<ResumeToken>,
    written: Instant,
}

impl PositionFile {
    /// The file that `--from` names, if it names one. It need not be there yet.
    pub(super) fn open(from: &str) -> anyhow::Result<Option<Self>> {
        if matches!(from, "live" | "earliest") {
            return Ok(None);
        }
        let path = PathBuf::from(from);
        let read = match fs::read(&path) {
            Ok(bytes) => {
                let token = ResumeToken::from_bytes(bytes).with_context(|| format!("{}", path.display()));
                Some(token.or_exit(NO_INPUT)?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| path.display().to_string()).or_exit(NO_INPUT),
        };
        let file = Self { path, read, written: Instant::now() };
        file.check_writable()?;
        Ok(Some(file))
    }

    /// A file that cannot be written is noticed before anything is read.
    fn check_writable(&self) -> anyhow::Result<()> {
        let probe = self.temporary();
        fs::write(&probe, b"")
            .with_context(|| format!("cannot keep a position in {}", self.path.display()))
            .or_exit(IO_ERROR)?;
        fs::remove_file(&probe).or_exit(IO_ERROR)
    }

    /// Where to begin: at the position, or, on the first run, live.
    pub(super) fn start(&self) -> Start {
        self.read.clone().map_or(Start::Live, Start::Resume)
    }

    /// Writes the position unless that was just done.
    pub(super) fn write_sometimes(&mut self, token: &ResumeToken) -> anyhow::Result<()> {
        if self.written.elapsed() < WRITE_EVERY {
            return Ok(());
        }
        self.write(token)
    }

    /// Writes the position: all of it, or nothing if something fails.
    pub(super) fn write(&mut self, token: &ResumeToken) -> anyhow::Result<()> {
        let temporary = self.temporary();
        fs::write(&temporary, token.as_bytes())
            .and_then(|()| fs::rename(&temporary, &self.path))
            .with_context(|| format!("cannot keep the position in {}", self.path.display()))
            .or_exit(IO_ERROR)?;
        self.written = Instant::now();
        Ok(())
    }

    fn temporary(&self) -> PathBuf {
        let mut name = Path::new(&self.path).file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        self.path.with_file_name(name)
    }
}
