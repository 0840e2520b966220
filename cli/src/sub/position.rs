//! The file in which `broky sub --from FILE` keeps its position.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use broky_client::{ResumeToken, Start};

use crate::exit::{IO_ERROR, NO_INPUT, OrExit as _};

/// Links followed from a name, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// A position kept in a file.
pub(super) struct PositionFile {
    path: PathBuf,
    kept: Option<ResumeToken>,
}

impl PositionFile {
    /// The file that `--from` names. It need not be there yet.
    pub(super) fn open(name: &Path) -> anyhow::Result<Self> {
        let path = target(name);
        let kept = match fs::read(&path) {
            Ok(bytes) => {
                let token = ResumeToken::from_bytes(bytes).with_context(|| format!("{}", name.display()));
                Some(token.or_exit(NO_INPUT)?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| name.display().to_string()).or_exit(NO_INPUT),
        };
        let file = Self { path, kept };
        file.check_writable()?;
        Ok(file)
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
        self.kept.clone().map_or(Start::Live, Start::Resume)
    }

    /// Writes the position, unless it is there: all of it, or nothing if something fails.
    pub(super) fn keep(&mut self, position: &ResumeToken) -> anyhow::Result<()> {
        if self.kept.as_ref() == Some(position) {
            return Ok(());
        }
        let temporary = self.temporary();
        let written = fs::write(&temporary, position.as_bytes()).and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            // It may not be there, and the first error says more.
            let _ = fs::remove_file(&temporary);
        }
        written.with_context(|| format!("cannot keep the position in {}", self.path.display())).or_exit(IO_ERROR)?;
        self.kept = Some(position.clone());
        Ok(())
    }

    fn temporary(&self) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        self.path.with_file_name(name)
    }
}

/// What a name leads to: renaming onto a link would replace the link. What it leads to need not be there.
fn target(name: &Path) -> PathBuf {
    let mut path = name.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(next) = fs::read_link(&path) else { break };
        // A relative one counts from the folder the link is in; an absolute one replaces all of it.
        path = path.parent().unwrap_or(Path::new("")).join(next);
    }
    path
}
