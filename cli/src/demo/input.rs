//! What the demo pushes: the lines of a file, over and over.

use anyhow::Context as _;
use bytes::Bytes;

use crate::args::DemoArgs;
use crate::exit::{NO_INPUT, OrExit as _, fail};

/// The lines that are pushed when no file is given: this project's own lock file, which is real, and always there.
const OWN: &str = include_str!("../../../Cargo.lock");
/// Lines are spread over this many key_partitions.
const PARTITIONS: u64 = 64;
/// Longer lines are cut: the demo is about lines, not about limits.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Lines to push.
pub(super) struct Input {
    name: String,
    text: Bytes,
    /// Start and end of each line.
    lines: Vec<(usize, usize)>,
    partitions: Vec<String>,
    total: u64,
}

/// One message to push.
pub(super) struct Line<'a> {
    pub(super) partition: &'a [u8],
    pub(super) key: &'a [u8],
    pub(super) payload: &'a [u8],
}

impl Input {
    pub(super) fn open(args: &DemoArgs) -> anyhow::Result<Self> {
        let (name, text) = match &args.file {
            None => ("broky's own Cargo.lock".to_owned(), Bytes::from_static(OWN.as_bytes())),
            Some(path) => {
                let name = path.display().to_string();
                let text = std::fs::read(path).with_context(|| format!("cannot read {name}")).or_exit(NO_INPUT)?;
                (name, text.into())
            }
        };
        let mut lines = Vec::new();
        let mut start = 0;
        for line in text.split(|byte| *byte == b'\n') {
            let end = start + line.len();
            if !line.is_empty() {
                lines.push((start, end.min(start + LINE_BYTES_MAX)));
            }
            start = end + 1;
        }
        if lines.is_empty() {
            return Err(fail(NO_INPUT, format!("{name} has no lines")));
        }
        let partitions = (0..PARTITIONS).map(|number| format!("part-{number}")).collect();
        Ok(Self { name, text, lines, partitions, total: args.lines })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The message with this number.
    pub(super) fn line(&self, number: u64) -> Line<'_> {
        let at = usize::try_from(number % self.lines.len() as u64).unwrap_or(0);
        let (start, end) = self.lines.get(at).copied().unwrap_or_default();
        let payload = self.text.get(start..end).unwrap_or_default();
        let partition = usize::try_from(number % PARTITIONS).ok().and_then(|at| self.partitions.get(at));
        let key: &[u8] = match payload.len() {
            0..20 => b"line.short",
            20..60 => b"line.mid",
            _ => b"line.long",
        };
        Line { partition: partition.map_or(b"", |partition| partition.as_bytes()), key, payload }
    }
}
