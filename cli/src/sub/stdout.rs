//! Noticing that whoever read stdout has gone.
//!
//! A write would tell, but a subscription may have nothing to write for hours: `broky sub | head -1` must end with
//! `head`.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::oneshot;

/// Ready when stdout is a pipe or socket without a reader. Otherwise never.
pub(super) fn closed() -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    let (closed, is_closed) = oneshot::channel();
    // Asked for nothing, poll still reports errors, and waits for them.
    let watch = move || {
        let stdout = io::stdout();
        loop {
            let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
            match poll(&mut watched, None) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) if watched.iter().any(|fd| fd.revents().intersects(PollFlags::ERR | PollFlags::NVAL)) => break,
                Ok(_) | Err(_) => return,
            }
        }
        // The command may have ended meanwhile.
        let _ = closed.send(());
    };
    // Without the thread a write tells, later.
    let is_watched = std::thread::Builder::new().name("broky-stdout".to_owned()).spawn(watch).is_ok();
    Box::pin(async move {
        if !is_watched || is_closed.await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
