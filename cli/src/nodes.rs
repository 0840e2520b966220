//! `broky drain` and `broky forget`.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{encode, post};
use crate::args::{DrainArgs, ForgetArgs};
use crate::exit::{FAILED, INTERRUPTED, NO_NODE, NOT_IN_TIME, OrExit as _, UNAVAILABLE, fail};
use crate::status::{Node, fetch};

/// How often it is looked what a node still holds.
const PERIOD: Duration = Duration::from_millis(100);
/// How often that is said, while it changes.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long nobody may answer before the wait is given up.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(10);

/// Empties a node: has that decided, and waits until it is done.
pub(crate) fn drain(args: &DrainArgs) -> anyhow::Result<()> {
    let force = if args.force { "?force=true" } else { "" };
    let path = format!("/nodes/{}/drain{force}", encode(&args.node));
    decide(&args.admin, &path, &args.node, "is not drained")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            emptied = until_empty(args) => emptied,
            _ = interrupt.recv() => Err(interrupted(&args.node)),
            _ = terminate.recv() => Err(interrupted(&args.node)),
        }
    });
    // A question that nobody answers must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// Removes a node.
pub(crate) fn forget(args: &ForgetArgs) -> anyhow::Result<()> {
    let path = format!("/nodes/{}/forget", encode(&args.node));
    decide(&args.admin, &path, &args.node, "is not forgotten")?;
    eprintln!("{} is forgotten", args.node);
    Ok(())
}

fn interrupted(node: &str) -> anyhow::Error {
    eprintln!("{node} goes on being drained; `broky status` shows what it still holds");
    fail(INTERRUPTED, "interrupted")
}

/// Has something decided about a node; `refused` says what it means for the node if it is not.
fn decide(admin: &str, path: &str, node: &str, refused: &str) -> anyhow::Result<()> {
    let answer = post(admin, path).with_context(|| format!("no node answers on {admin}")).or_exit(UNAVAILABLE)?;
    let words = answer.body.trim();
    match answer.status {
        200 => Ok(()),
        404 => Err(fail(NO_NODE, format!("{words}; `broky status` lists the nodes"))),
        503 | 504 => Err(fail(UNAVAILABLE, words)),
        _ => Err(fail(FAILED, format!("{node} {refused}: {words}"))),
    }
}

/// Waits until a node that is being drained holds nothing, and says how far that is.
async fn until_empty(args: &DrainArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut progress = Progress::default();
    let mut heard = Instant::now();
    loop {
        let admin = args.admin.clone();
        match tokio::task::spawn_blocking(move || fetch(&admin)).await? {
            Ok(status) => {
                heard = Instant::now();
                let Some(node) = status.cluster.nodes.iter().find(|node| node.name == args.node) else {
                    eprintln!("{} is no longer in the cluster", args.node);
                    return Ok(());
                };
                if node.is_draining && node.copies + node.leads == 0 {
                    eprintln!("{} is empty: `broky forget {}` removes it", node.name, node.name);
                    return Ok(());
                }
                progress.tell(node);
            }
            Err(error) if heard.elapsed() > UNREACHABLE_AFTER => {
                return Err(error).with_context(|| format!("{} goes on being drained", args.node)).or_exit(UNAVAILABLE);
            }
            Err(_) => {}
        }
        if args.timeout.is_some_and(|timeout| started.elapsed() >= timeout) {
            return Err(fail(NOT_IN_TIME, progress.too_slow(&args.node)));
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// What a node still holds, as was last seen and as was last said.
#[derive(Default)]
struct Progress {
    seen: Option<Left>,
    said: Option<(Left, Instant)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Left {
    copies: u64,
    leads: u64,
    is_alive: bool,
}

impl Progress {
    fn tell(&mut self, node: &Node) {
        let left = Left { copies: node.copies, leads: node.leads, is_alive: node.is_alive() };
        self.seen = Some(left);
        let is_news = self.said.is_none_or(|(said, at)| said != left && at.elapsed() >= TELL_EVERY);
        if is_news {
            self.said = Some((left, Instant::now()));
            let dead = if left.is_alive { "" } else { ", and is dead" };
            eprintln!("draining {}: {left}{dead}", node.name);
        }
    }

    fn too_slow(&self, node: &str) -> String {
        let left = self.seen.map(|left| format!(": {left}")).unwrap_or_default();
        format!("{node} is not empty in time{left}; it goes on being drained")
    }
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} copies left, {} of them leaders", self.copies, self.leads)
    }
}
