//! Resolving the names of members and seeds, again and again: behind the same name a node may come back elsewhere.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Time between two resolutions of all names.
pub(super) const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
/// Time one name has.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Resolves names, one list at a time, one name after another, so that a slow resolver costs one thread at the most.
#[derive(Debug)]
pub(super) struct Resolver {
    results: mpsc::Receiver<(String, SocketAddr)>,
    results_in: mpsc::Sender<(String, SocketAddr)>,
    running: Option<JoinHandle<()>>,
}

impl Resolver {
    pub(super) fn new() -> Self {
        let (results_in, results) = mpsc::channel(16);
        Self { results, results_in, running: None }
    }

    /// Resolves these, unless others are being resolved: then it is for the next time.
    pub(super) fn start(&mut self, names: Vec<String>) {
        if names.is_empty() || self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        let results = self.results_in.clone();
        self.running = Some(tokio::spawn(async move {
            for name in names {
                let found = match timeout(LOOKUP_TIMEOUT, lookup_host(&name)).await {
                    Ok(Ok(mut found)) => found.next(),
                    Ok(Err(error)) => {
                        tracing::debug!(peer = %name, %error, "cannot resolve");
                        None
                    }
                    Err(_) => None,
                };
                if let Some(address) = found
                    && results.send((name, address)).await.is_err()
                {
                    return;
                }
            }
        }));
    }

    /// The next name that was resolved, and to what.
    pub(super) async fn next(&mut self) -> (String, SocketAddr) {
        match self.results.recv().await {
            Some(result) => result,
            // It holds a sender itself.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}
