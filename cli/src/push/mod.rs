//! `broky push`: stdin becomes messages.

mod outcomes;
mod source;

use std::io::IsTerminal as _;
use std::time::Duration;

use broky_client::{Client, MessageRef, Producer, ProducerOptions, PushError};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::args::{Chunk, PushArgs};
use crate::exit::{FAILED, INTERRUPTED, IO_ERROR, NO_INPUT, OrExit as _, UNAVAILABLE, fail};
use crate::units::show_count;
use outcomes::Outcomes;
use source::{Input, Lines};

/// Pushes stdin until it ends or the user interrupts.
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

async fn push(args: &PushArgs) -> anyhow::Result<()> {
    let client = Client::connect(&args.server).await.or_exit(UNAVAILABLE)?;
    let options = ProducerOptions { message_bytes_max: usize::MAX, ..ProducerOptions::default() };
    let producer = client.producer_with(options).or_exit(UNAVAILABLE)?;
    let mut input = Input::open(args.chunk, args.block_size).or_exit(NO_INPUT)?;
    let progress = progress(args, input.bytes());
    let mut pusher =
        Pusher { producer: &producer, args, outcomes: Outcomes::default(), started: Instant::now(), pushed: 0 };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ended = tokio::select! {
        ended = pusher.push_all(&mut input, &progress) => ended.map(|()| 0),
        _ = interrupt.recv() => Ok(INTERRUPTED),
        _ = terminate.recv() => Ok(INTERRUPTED),
    };
    progress.finish_and_clear();
    // What was pushed is seen through, however the input ended.
    let summary = producer.flush().await;
    pusher.outcomes.settle();
    let elapsed = pusher.started.elapsed();
    let failed = pusher.outcomes.report();
    drop(pusher);
    producer.close().await;
    if !args.quiet {
        eprintln!(
            "{} committed, {} rejected, {} unknown in {:.1} s",
            show_count(summary.committed),
            failed.saturating_sub(summary.unknown),
            summary.unknown,
            elapsed.as_secs_f64()
        );
    }
    match ended? {
        0 if failed > 0 => Err(fail(FAILED, format!("{failed} messages were not committed"))),
        0 => Ok(()),
        code => Err(fail(code, "interrupted")),
    }
}

struct Pusher<'a> {
    producer: &'a Producer,
    args: &'a PushArgs,
    outcomes: Outcomes,
    started: Instant,
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
            Err(error @ PushError::MessageTooLarge { .. }) => self.outcomes.fail(self.pushed, &error),
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
