//! Makes clean histories: a broker of a few lines, with producers, readers and a nemesis, that keeps every promise.
//!
//! Two uses. A checker that cries wolf is worth nothing, so that what this makes must pass; and what it makes, changed
//! in one place, must not. And the checker's speed and memory are measured on it, which is why it writes as it goes.
//!
//! Everything comes from a seed: the same options make the same history.

mod cluster;
mod readers;

use broky_proto::id::{Epoch, Lineage, Offset, ProducerId, Sequence, Token, VBucketCount, VBucketId};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use self::cluster::Nodes;
use self::readers::Reader;
use crate::history::{
    End, Event, Expectations, Hash64, Heal, HexBytes, HistoryError, Nanos, Position, PushFail, PushInvoke, PushOk,
    PushUnknown, ReaderRole, Record, Run,
};

/// Keys of messages; a filtered reader wants one of them.
const KEYS: [&str; 4] = ["orders.new", "orders.paid", "stock", "audit"];
const CLUSTER: &str = "c1";
/// Messages pushed between two looks at readers and faults, at the most.
const ROUND_MAX: u64 = 64;

/// What history to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Generate {
    /// Messages pushed.
    pub pushes: u64,
    /// Vbuckets.
    pub vbuckets: VBucketCount,
    /// Producers, each a process.
    pub producers: u32,
    /// Readers of everything, each a process.
    pub readers: u32,
    /// Readers of one key.
    pub filtered: u32,
    /// Readers that miss most of what there is, and are told.
    pub slow: u32,
    /// Nodes killed, one after the other.
    pub kills: u32,
    /// Times that all nodes die at once.
    pub total_losses: u32,
    /// What chance is drawn from.
    pub seed: u64,
}

/// The process that writes a record, by number; the supervisor's is 0, and its first record is the run.
pub type Process = usize;

/// Makes a history, and gives each record to `sink` in the order of time.
///
/// # Errors
/// When the sink fails.
pub fn generate(
    options: &Generate,
    sink: impl FnMut(Process, &Record<'_>) -> Result<(), HistoryError>,
) -> Result<(), HistoryError> {
    World::new(options, sink).run()
}

/// How many processes write a history.
#[must_use]
pub fn processes(options: &Generate) -> usize {
    1 + [options.producers, options.readers, options.filtered, options.slow, 1].iter().sum::<u32>() as usize
}

/// What is stored.
#[derive(Clone, Copy, Debug)]
struct Stored {
    producer: ProducerId,
    sequence: Sequence,
    epoch: Epoch,
    key: u8,
}

impl Stored {
    fn crc32(&self) -> u32 {
        let mixed = self.hash64().0 >> 32;
        u32::try_from(mixed).unwrap_or_default()
    }

    /// Different for different messages, as a hash of their payloads would be.
    fn hash64(&self) -> Hash64 {
        let mut mixed = self.producer.0 << 40 ^ self.sequence.0;
        for _ in 0..2 {
            mixed = (mixed ^ mixed >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        Hash64(mixed)
    }
}

/// One vbucket's log.
#[derive(Clone, Debug)]
struct Log {
    partition: String,
    lineage: Lineage,
    epoch: Epoch,
    base: Offset,
    stored: Vec<Stored>,
}

impl Log {
    fn end(&self) -> Offset {
        self.base.plus(self.stored.len() as u64)
    }

    fn at(&self, offset: Offset) -> Option<&Stored> {
        self.stored.get(usize::try_from(offset.since(self.base)).ok()?)
    }
}

struct World<'o, S> {
    options: &'o Generate,
    sink: S,
    rng: SmallRng,
    now: Nanos,
    logs: Vec<Log>,
    sequences: Vec<u64>,
    readers: Vec<Reader>,
    nodes: Nodes,
}

impl<'o, S: FnMut(Process, &Record<'_>) -> Result<(), HistoryError>> World<'o, S> {
    fn new(options: &'o Generate, sink: S) -> Self {
        let log = |vbucket: VBucketId| Log {
            partition: partition(options.vbuckets, vbucket),
            lineage: Lineage(0),
            epoch: Epoch(0),
            base: Offset::ZERO,
            stored: Vec::new(),
        };
        Self {
            options,
            sink,
            rng: SmallRng::seed_from_u64(options.seed),
            now: Nanos(0),
            logs: options.vbuckets.iter().map(log).collect(),
            sequences: vec![0; options.producers as usize],
            readers: readers::of(options),
            nodes: Nodes::default(),
        }
    }

    fn run(mut self) -> Result<(), HistoryError> {
        let faults = self.options.kills + self.options.total_losses;
        self.write(0, Event::Run(self.head()))?;
        self.found()?;
        // Each fault has pushes before it and behind it.
        let every = (self.options.pushes / u64::from(faults + 1)).max(1);
        let (mut pushed, mut done) = (0, 0);
        while pushed < self.options.pushes {
            if done < faults && pushed >= every * u64::from(done + 1) {
                if done < self.options.kills {
                    self.kill_one()?;
                } else {
                    self.kill_all()?;
                }
                done += 1;
            }
            let round = ROUND_MAX.min(every).min(self.options.pushes - pushed);
            (0..round).try_for_each(|_| self.push())?;
            pushed += round;
            self.read()?;
        }
        self.write(0, Event::Heal(Heal {}))?;
        self.finish_reading()?;
        self.write(0, Event::End(End {}))
    }

    fn head(&self) -> Run {
        let Generate { kills, total_losses, slow, seed, .. } = *self.options;
        let faults = [("kill", kills), ("kill-all", total_losses)];
        let faults = faults.iter().filter(|(_, count)| *count > 0).map(|(kind, _)| (*kind).to_owned());
        let expect = Expectations { leader_change: kills > 0, total_loss: total_losses > 0, evictions: slow > 0 };
        Run {
            run: format!("generated-{seed}"),
            scenario: "generated".to_owned(),
            seed,
            options: format!("{:?}", self.options),
            vbuckets: u32::from(self.options.vbuckets.get()),
            replicas: Some(3),
            faults: faults.collect(),
            expect,
            min_acked_during_faults: 1,
        }
    }

    /// One message, with its outcome. A few are refused, and of a few nobody knows.
    fn push(&mut self) -> Result<(), HistoryError> {
        let producer = self.rng.random_range(0..self.options.producers);
        let at = self.rng.random_range(0..self.logs.len());
        let key = self.rng.random_range(0..4_u8);
        let luck = self.rng.random_range(0..1_000_u32);
        let process = 1 + producer as usize;
        let (Some(last), Some(log)) = (self.sequences.get_mut(producer as usize), self.logs.get_mut(at)) else {
            return Ok(());
        };
        *last += 1;
        let (producer, sequence) = (ProducerId(u64::from(producer) + 1), Sequence(*last));
        let message = Stored { producer, sequence, epoch: log.epoch, key };
        let invoke = PushInvoke {
            producer,
            sequence,
            key: key_of(key).into(),
            key_partition: HexBytes(log.partition.clone().into_bytes()),
            len: 100,
            crc32: message.crc32(),
            hash64: message.hash64(),
            plain: false,
        };
        let (lineage, epoch, offset) = (log.lineage, log.epoch, log.end());
        let (is_stored, is_known) = (luck != 0 && luck != 1, luck > 1 && luck != 2);
        if is_stored {
            log.stored.push(message);
        }
        self.write(process, Event::PushInvoke(invoke))?;
        let vbucket = VBucketId(u16::try_from(at).unwrap_or_default());
        let position = Position { cluster: CLUSTER.into(), vbucket, lineage, epoch, offset };
        let outcome = match (is_known, is_stored) {
            (true, _) => Event::PushOk(PushOk { producer, sequence, position: Some(position), leader: None }),
            (false, false) if luck == 0 => Event::PushFail(PushFail { producer, sequence, code: "NOT_LEADER".into() }),
            (false, _) => Event::PushUnknown(PushUnknown { producer, sequence, code: "UNKNOWN".into() }),
        };
        self.write(process, outcome)
    }

    fn write(&mut self, process: Process, event: Event<'_>) -> Result<(), HistoryError> {
        self.now.0 += self.rng.random_range(100..2_000);
        (self.sink)(process, &Record { t_ns: self.now, event })
    }
}

fn key_of(key: u8) -> &'static str {
    KEYS.get(usize::from(key)).copied().unwrap_or_default()
}

/// A key_partition that belongs to a vbucket.
fn partition(vbuckets: VBucketCount, vbucket: VBucketId) -> String {
    let names = (0_u32..).map(|number| format!("p{number}"));
    let mut own = names.filter(|name| vbuckets.vbucket_of(Token::of(name.as_bytes(), b"")) == vbucket);
    own.next().unwrap_or_default()
}

fn role_name(role: ReaderRole) -> &'static str {
    match role {
        ReaderRole::Plain => "reader",
        ReaderRole::Slow => "slow",
        ReaderRole::Final => "final",
        ReaderRole::Dump => "dump",
    }
}
