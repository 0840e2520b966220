//! `broky sub`: messages become stdout.

mod format;
mod position;
mod stdout;

use std::io::{self, Write as _};

use broky_client::{Client, Event, Gap, MessageView, OnSlow, Start, SubscribeError, SubscribeOptions, Subscription};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::SubArgs;
use crate::exit::{FAILED, INTERRUPTED, IO_ERROR, OrExit as _, PIPE_CLOSED, UNAVAILABLE, fail};
use format::write_message;
use position::PositionFile;

/// What a subscription gives next.
type Next = Result<Event, SubscribeError>;

/// Bytes that stdout takes at a time.
const OUTPUT_BYTES: usize = 256 << 10;

/// Writes messages to stdout until enough came or the user interrupts.
pub(crate) fn run(args: &SubArgs) -> anyhow::Result<()> {
    if let Some(group) = &args.group {
        return Err(fail(FAILED, format!("UNIMPLEMENTED: consumer groups are not implemented (group {group:?})")));
    }
    // Writing to a slow pipe stops this thread; the connection lives on another.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let outcome = runtime.block_on(subscribe(args));
    runtime.shutdown_background();
    outcome
}

async fn subscribe(args: &SubArgs) -> anyhow::Result<()> {
    let mut position = PositionFile::open(&args.from)?;
    let client = Client::connect(&args.server).await.or_exit(UNAVAILABLE)?;
    let options = SubscribeOptions::new(args.pattern.iter().map(|pattern| pattern.clone().into_bytes()))
        .start(start(args, position.as_ref()))
        .key_partitions(args.partition.iter().map(|partition| partition.clone().into_bytes()))
        .on_slow(if args.no_skip { OnSlow::Disconnect } else { OnSlow::DropOldest });
    let mut subscription = client.subscribe(options).await.or_exit(FAILED)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut reader_gone = stdout::closed();
    let mut printer =
        Printer { args, out: io::BufWriter::with_capacity(OUTPUT_BYTES, io::stdout().lock()), left: args.count };
    let code = loop {
        if printer.left == Some(0) {
            break 0;
        }
        let event = tokio::select! {
            biased;
            _ = interrupt.recv() => break INTERRUPTED,
            _ = terminate.recv() => break 0,
            () = &mut reader_gone => break PIPE_CLOSED,
            event = subscription.next() => event,
        };
        if printer.take_all(&mut subscription, event)? {
            break 0;
        }
        printer.out.flush().or_exit(IO_ERROR)?;
        if let (Some(position), Some(token)) = (&mut position, subscription.resume_token()) {
            position.write_sometimes(&token)?;
        }
    };
    if code != PIPE_CLOSED {
        printer.out.flush().or_exit(IO_ERROR)?;
    }
    drop(printer);
    if let (Some(position), Some(token)) = (&mut position, subscription.resume_token()) {
        position.write(&token)?;
    }
    client.close().await;
    if code == 0 { Ok(()) } else { Err(fail(code, "interrupted")) }
}

fn start(args: &SubArgs, position: Option<&PositionFile>) -> Start {
    match position {
        Some(position) => position.start(),
        None if args.from == "earliest" => Start::Earliest,
        None => Start::Live,
    }
}

struct Printer<'a> {
    args: &'a SubArgs,
    out: io::BufWriter<io::StdoutLock<'static>>,
    left: Option<u64>,
}

impl Printer<'_> {
    /// Writes an event and those that are there already. Returns whether that is enough.
    fn take_all(&mut self, subscription: &mut Subscription, first: Option<Next>) -> anyhow::Result<bool> {
        let mut next = Some(first);
        while let Some(event) = next {
            let Some(event) = event else { return Ok(true) };
            match event.or_exit(FAILED)? {
                Event::Gap(gap) => report_gap(&gap),
                Event::Message(message) => self.print(&message.view()).or_exit(IO_ERROR)?,
            }
            if self.left == Some(0) {
                return Ok(true);
            }
            next = subscription.next().now_or_never();
        }
        Ok(false)
    }

    fn print(&mut self, message: &MessageView<'_>) -> io::Result<()> {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
        write_message(&mut self.out, self.args.format, message)
    }
}

fn report_gap(gap: &Gap) {
    eprintln!(
        "broky: gap: up to {} messages of vbucket {} missed (offsets {} to {}, {})",
        gap.to.since(gap.from),
        gap.vbucket,
        gap.from,
        gap.to.0.saturating_sub(1),
        gap.reason.as_str_name().trim_start_matches("GAP_REASON_").to_ascii_lowercase()
    );
}
