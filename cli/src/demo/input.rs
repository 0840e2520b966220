//! What the demo pushes: the lines of a file, over and over.

use anyhow::Context as _;
use bytes::Bytes;
use svix_ksuid::{Ksuid, KsuidLike as _};

use crate::args::DemoArgs;
use crate::exit::{NO_INPUT, OrExit as _, fail};

/// The lines that are pushed when no file is given: this project's own lock file, which is real, and always there.
const OWN: &str = include_str!("../../../Cargo.lock");
/// Lines are spread over this many key_partitions.
const PARTITIONS: u64 = 64;
/// Longer lines are cut: the demo is about lines, not about limits.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A uid is this run's beginning of it, and the number of the message.
const UID_BYTES: usize = 20;
const RUN_BYTES: usize = UID_BYTES - size_of::<u64>();

/// What the uids of all messages of one run begin with: the time and randomness of a KSUID.
pub(super) type Run = [u8; RUN_BYTES];

/// Lines to push.
pub(super) struct Input {
    name: String,
    text: Bytes,
    /// Start and end of each line.
    lines: Vec<(usize, usize)>,
    partitions: Vec<String>,
    total: u64,
    run: Run,
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
        Ok(Self { name, text, lines, partitions, total: args.lines, run: new_run() })
    }

    /// This many lines of what is pushed when no file is given.
    #[cfg(test)]
    pub(super) fn of_own(lines: u64) -> Self {
        Self::open(&DemoArgs { file: None, lines }).unwrap()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn run(&self) -> &Run {
        &self.run
    }

    /// The uid of the message with this number.
    pub(super) fn uid(&self, number: u64) -> [u8; UID_BYTES] {
        let mut uid = [0; UID_BYTES];
        let (run, tail) = uid.split_at_mut(RUN_BYTES);
        run.copy_from_slice(&self.run);
        tail.copy_from_slice(&number.to_be_bytes());
        uid
    }

    /// How many key_partitions the lines are spread over.
    pub(super) fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// The key_partitions' names.
    pub(super) fn partition_names(&self) -> impl Iterator<Item = &[u8]> {
        self.partitions.iter().map(String::as_bytes)
    }

    /// Which of the key_partitions the message with this number is of.
    pub(super) fn partition_of(&self, number: u64) -> usize {
        usize::try_from(number % PARTITIONS).unwrap_or(0)
    }

    /// The message with this number.
    pub(super) fn line(&self, number: u64) -> Line<'_> {
        let at = usize::try_from(number % self.lines.len() as u64).unwrap_or(0);
        let (start, end) = self.lines.get(at).copied().unwrap_or_default();
        let payload = self.text.get(start..end).unwrap_or_default();
        let partition = self.partitions.get(self.partition_of(number));
        let key: &[u8] = match payload.len() {
            0..20 => b"line.short",
            20..60 => b"line.mid",
            _ => b"line.long",
        };
        Line { partition: partition.map_or(b"", |partition| partition.as_bytes()), key, payload }
    }
}

fn new_run() -> Run {
    let mut run = [0; RUN_BYTES];
    let ksuid = Ksuid::new(None::<std::time::SystemTime>, None);
    run.iter_mut().zip(ksuid.bytes()).for_each(|(to, from)| *to = *from);
    run
}

/// The number in a uid of this run; `None` for any other uid.
pub(super) fn number_of(uid: &[u8], run: &Run) -> Option<u64> {
    let (run_of_uid, number) = uid.split_at_checked(RUN_BYTES)?;
    let number = u64::from_be_bytes(number.try_into().ok()?);
    (run_of_uid == run).then_some(number)
}
