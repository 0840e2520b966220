//! `broky sub`: messages become stdout.

mod format;
mod gaps;
mod output;
mod position;
mod session;
mod stdout;

use broky_client::{Client, OnSlow, Start, SubscribeOptions};

use crate::args::{Begin, SubArgs};
use crate::exit::{FAILED, OrExit as _, UNAVAILABLE, fail};
use position::PositionFile;
use session::Session;

/// Writes messages to stdout until enough came or the user interrupts.
pub(crate) fn run(args: &SubArgs) -> anyhow::Result<()> {
    if let Some(group) = &args.group {
        return Err(fail(FAILED, format!("UNIMPLEMENTED: consumer groups are not implemented (group {group:?})")));
    }
    // Formatting messages keeps this thread busy; the connection lives on another.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let outcome = runtime.block_on(subscribe(args));
    runtime.shutdown_background();
    outcome
}

async fn subscribe(args: &SubArgs) -> anyhow::Result<()> {
    let (file, start) = match &args.from {
        Begin::Live => (None, Start::Live),
        Begin::Earliest => (None, Start::Earliest),
        Begin::File(path) => {
            let file = PositionFile::open(path)?;
            let start = file.start();
            (Some(file), start)
        }
    };
    let client = Client::connect(&args.server).await.or_exit(UNAVAILABLE)?;
    let options = SubscribeOptions::new(args.pattern.iter().map(|pattern| pattern.clone().into_bytes()))
        .start(start)
        .key_partitions(args.partition.iter().map(|partition| partition.clone().into_bytes()))
        .on_slow(if args.no_skip { OnSlow::Disconnect } else { OnSlow::DropOldest });
    let subscription = client.subscribe(options).await.or_exit(FAILED)?;
    let code = Session::new(args, subscription, file)?.run().await?;
    client.close().await;
    if code == 0 { Ok(()) } else { Err(fail(code, "interrupted")) }
}
