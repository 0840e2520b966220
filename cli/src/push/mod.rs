//! `broky push`: stdin becomes messages.

mod outcomes;
mod source;

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use broky_client::{Client, FlushSummary, MessageRef, Producer, ProducerOptions, PushError};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::args::{Chunk, PushArgs};
use crate::exit::{FAILED, INTERRUPTED, IO_ERROR, NO_INPUT, OrExit as _, UNAVAILABLE, fail};
use crate::units::show_count;
use outcomes::Outcomes;
use source::{Input, Lines};

/// How long an interrupted push settles before it says that it does.
const NOTICE_AFTER: Duration = Duration::from_millis(500);

/// Pushes stdin until it ends, no node can be reached, or the user interrupts.
pub(crate) fn run(args: &PushArgs) -> anyhow::Result<()> {
    if args.block_size == 0 {
        return Err(fail(2, "--block-size must be at least 1 byte"));
    }
    if args.rate == Some(0) {
        return Err(fail(2, "--rate must be at least 1 message per second"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(push(args));
    // A read of stdin that never returns must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// Why no more input is read.
enum End {
    /// There is none.
    Input,
    Failed(anyhow::Error),
    /// No node takes messages; this is how the last one failed.
    Unreachable(PushError),
    Interrupted,
}

async fn push(args: &PushArgs) -> anyhow::Result<()> {
    let client = Client::connect(&args.server).await.or_exit(UNAVAILABLE)?;
    let options =
        ProducerOptions { message_bytes_max: usize::MAX, delivery_timeout: args.timeout, ..ProducerOptions::default() };
    let producer = client.producer_with(options).or_exit(UNAVAILABLE)?;
    let mut input = Input::open(args.chunk, args.block_size).context("cannot read stdin").or_exit(NO_INPUT)?;
    let progress = progress(args, input.bytes());
    let outcomes = Outcomes::new(&producer, args.timeout);
    let mut pusher = Pusher { producer: &producer, args, outcomes: &outcomes, started: Instant::now(), pushed: 0 };
    let mut signals = Signals::new()?;
    let end = tokio::select! {
        pushed = pusher.push_all(&mut input, &progress) => pushed.map_or_else(End::Failed, |()| End::Input),
        error = outcomes.until_unreachable() => End::Unreachable(error),
        () = signals.next() => End::Interrupted,
    };
    progress.finish_and_clear();
    let Pusher { started, pushed, .. } = pusher;
    // What was pushed is seen through, however the input ended.
    let is_interrupted = matches!(end, End::Interrupted);
    let settled = see_through(args, &producer, &outcomes, &mut signals, is_interrupted).await;
    outcomes.settle();
    let counts = match &settled {
        Some(settled) => outcomes.report(settled, None),
        None => outcomes.report(&producer.summary(), Some(pushed)),
    };
    if !args.quiet {
        eprintln!(
            "{} committed, {} rejected, {} unknown in {:.1} s",
            show_count(counts.committed),
            show_count(counts.rejected),
            show_count(counts.unknown),
            started.elapsed().as_secs_f64()
        );
    }
    let unreachable = outcomes.unreachable();
    drop(outcomes);
    if settled.is_none() {
        return Err(fail(INTERRUPTED, "interrupted"));
    }
    producer.close().await;
    let failed = counts.rejected + counts.unknown;
    match (end, unreachable) {
        (End::Failed(error), _) => Err(error),
        (End::Interrupted, _) => Err(fail(INTERRUPTED, "interrupted")),
        (End::Unreachable(error), _) | (End::Input, Some(error)) => {
            Err(fail(UNAVAILABLE, format!("no node took a message within {:?}: {error}", args.timeout)))
        }
        (End::Input, None) if failed > 0 => Err(fail(FAILED, format!("{failed} messages were not committed"))),
        (End::Input, None) => Ok(()),
    }
}

/// Waits until everything pushed has an outcome. The first signal only ends the reading of input, as whoever feeds us
/// often gets it too and closes our input in the same moment; at the second what has no outcome is given up: `None`.
async fn see_through(
    args: &PushArgs,
    producer: &Producer,
    outcomes: &Outcomes<'_>,
    signals: &mut Signals,
    mut is_interrupted: bool,
) -> Option<FlushSummary> {
    let mut settled = std::pin::pin!(producer.flush());
    let mut notice = std::pin::pin!(tokio::time::sleep(NOTICE_AFTER));
    let mut is_told = args.quiet;
    loop {
        tokio::select! {
            biased;
            settled = &mut settled => return Some(settled),
            () = signals.next() => {
                if std::mem::replace(&mut is_interrupted, true) {
                    return None;
                }
                notice.as_mut().reset(Instant::now() + NOTICE_AFTER);
            }
            () = &mut notice, if is_interrupted && !is_told => {
                is_told = true;
                eprintln!(
                    "broky: waiting up to {:?} for what became of the last messages; interrupt once more to end at once",
                    args.timeout
                );
            }
            () = outcomes.keep_settling() => {}
        }
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

struct Pusher<'a> {
    producer: &'a Producer,
    args: &'a PushArgs,
    outcomes: &'a Outcomes<'a>,
    started: Instant,
    /// Messages offered to the producer.
    pushed: u64,
}

impl Pusher<'_> {
    async fn push_all(&mut self, input: &mut Input, progress: &ProgressBar) -> anyhow::Result<()> {
        let mut lines = Lines::default();
        while let Some(chunk) = input.next().await {
            let chunk = chunk.or_exit(IO_ERROR)?;
            progress.inc(chunk.len() as u64);
            match self.args.chunk {
                Chunk::Raw => self.push_one(&chunk).await?,
                Chunk::Lines => self.push_lines(&mut lines, chunk).await?,
            }
            self.outcomes.settle();
        }
        match lines.rest() {
            Some(line) => self.push_one(&line).await,
            None => Ok(()),
        }
    }

    async fn push_lines(&mut self, lines: &mut Lines, chunk: Bytes) -> anyhow::Result<()> {
        lines.add(chunk);
        while let Some(line) = lines.next() {
            self.push_one(&line).await?;
        }
        Ok(())
    }

    async fn push_one(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        self.pace().await;
        let partition = self.args.partition.as_deref().unwrap_or_default();
        let message =
            MessageRef { key_partition: partition.as_bytes(), ..MessageRef::new(self.args.key.as_bytes(), payload) };
        self.pushed += 1;
        match self.producer.push(message).await {
            Ok(ticket) => self.outcomes.add(self.pushed, ticket),
            Err(error @ PushError::MessageTooLarge { .. }) => self.outcomes.refuse(self.pushed, &error),
            Err(error) => return Err(error).or_exit(FAILED),
        }
        Ok(())
    }

    /// Waits until the next message is due under `--rate`.
    async fn pace(&self) {
        let Some(rate) = self.args.rate else { return };
        #[expect(clippy::cast_precision_loss, reason = "off by nanoseconds after centuries")]
        let due = self.started + Duration::from_secs_f64(self.pushed as f64 / rate as f64);
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
        }
    }
}

/// A bar on stderr when somebody watches and the end is known.
fn progress(args: &PushArgs, bytes: Option<u64>) -> ProgressBar {
    let (Some(bytes), false, true) = (bytes, args.quiet, std::io::stderr().is_terminal()) else {
        return ProgressBar::hidden();
    };
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr_with_hz(5));
    let template = "{wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
