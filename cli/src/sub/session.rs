//! A subscription on its way to stdout: what is read, written and kept, and in which order.
//!
//! Three things happen at once, none of which may wait for another: messages are gathered, gathered ones are written,
//! and the position behind the written ones is kept each second. Whatever waits for a reader of stdout, a signal ends
//! it.

use std::time::Duration;

use broky_client::{Event, ResumeToken, SubscribeError, Subscription};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::format::write_message;
use super::gaps::Gaps;
use super::output::Output;
use super::position::PositionFile;
use super::stdout;
use crate::args::SubArgs;
use crate::exit::{FAILED, INTERRUPTED, IO_ERROR, OrExit as _, PIPE_CLOSED};

/// The position is kept this often.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// How long a signal waits for stdout to take what was read.
const DRAIN_WAIT: Duration = Duration::from_secs(1);

/// What a subscription gives next.
type Next = Result<Event, SubscribeError>;

/// See the module.
pub(super) struct Session<'a> {
    args: &'a SubArgs,
    subscription: Subscription,
    output: Output,
    file: Option<PositionFile>,
    /// The position behind what was written.
    written: Option<ResumeToken>,
    /// Messages to come until it is enough.
    left: Option<u64>,
    /// No more is read: there were enough, or the subscription has ended, with an error perhaps.
    is_over: bool,
    failure: Option<anyhow::Error>,
    /// Not told yet.
    gaps: Gaps,
}

impl<'a> Session<'a> {
    /// For a subscription that was confirmed. From now on its position is kept.
    pub(super) fn new(
        args: &'a SubArgs,
        subscription: Subscription,
        file: Option<PositionFile>,
    ) -> anyhow::Result<Self> {
        let output = Output::start().or_exit(IO_ERROR)?;
        let (left, is_over) = (args.count, args.count == Some(0));
        let (failure, gaps) = (None, Gaps::default());
        let mut session = Self { args, subscription, output, file, written: None, left, is_over, failure, gaps };
        session.keep()?;
        Ok(session)
    }

    /// Goes on until enough was written, the subscription ends, or a signal comes. Returns the exit code.
    pub(super) async fn run(&mut self) -> anyhow::Result<u8> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut reader_gone = stdout::closed();
        let mut keep = tokio::time::interval_at(tokio::time::Instant::now() + KEEP_EVERY, KEEP_EVERY);
        keep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let code = loop {
            if self.is_over && self.output.is_drained() {
                break 0;
            }
            tokio::select! {
                biased;
                _ = interrupt.recv() => break INTERRUPTED,
                _ = terminate.recv() => break 0,
                () = &mut reader_gone => break PIPE_CLOSED,
                _ = keep.tick(), if self.file.is_some() => self.keep()?,
                position = self.output.written(), if self.output.is_writing() => {
                    self.written = position.or_exit(IO_ERROR)?;
                }
                event = self.subscription.next(), if !self.is_over && !self.output.is_full() => self.take_all(event),
            }
            self.send();
        };
        if code != PIPE_CLOSED && !self.output.is_drained() {
            // Too late is not wrong: what is not written is not part of the position either.
            tokio::time::timeout(DRAIN_WAIT, self.drain()).await.unwrap_or(Ok(()))?;
        }
        self.keep()?;
        self.failure.take().map_or(Ok(code), Err)
    }

    async fn drain(&mut self) -> anyhow::Result<()> {
        while !self.output.is_drained() {
            self.send();
            self.written = self.output.written().await.or_exit(IO_ERROR)?;
        }
        Ok(())
    }

    fn send(&mut self) {
        let is_kept = self.file.is_some();
        self.output.send(|| if is_kept { self.subscription.resume_token() } else { None });
    }

    /// Keeps the position behind what was written.
    fn keep(&mut self) -> anyhow::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if self.output.is_drained() {
            // It moves without messages too, when none of those that come match.
            self.written = self.subscription.resume_token();
        }
        self.written.as_ref().map_or(Ok(()), |position| file.keep(position))
    }

    /// Gathers an event and those that are there already, as far as there is room.
    fn take_all(&mut self, first: Option<Next>) {
        self.gather(first);
        eprint!("{}", self.gaps.tell());
    }

    fn gather(&mut self, first: Option<Next>) {
        let mut next = Some(first);
        while let Some(event) = next {
            match event {
                None => self.is_over = true,
                Some(Err(error)) => {
                    self.is_over = true;
                    self.failure = Err::<(), _>(error).or_exit(FAILED).err();
                }
                Some(Ok(Event::Gap(gap))) => self.gaps.add(gap),
                Some(Ok(Event::Message(message))) => {
                    // A vector takes everything.
                    let _ = write_message(self.output.buffer(), self.args.format, &message.view());
                    if let Some(left) = &mut self.left {
                        *left = left.saturating_sub(1);
                        self.is_over = *left == 0;
                    }
                }
            }
            if self.is_over || self.output.is_full() {
                return;
            }
            next = self.subscription.next().now_or_never();
        }
    }
}
