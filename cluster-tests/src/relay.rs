//! A TCP relay: an address that stays while the node behind it breaks or is replaced.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A relay to one node at a time. Dropped, it takes no more connections.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    cut: Arc<Notify>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// Starts a relay to `target`.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (target, cut) = (Arc::new(Mutex::new(target)), Arc::new(Notify::new()));
        let accepting = tokio::spawn(accept(listener, target.clone(), cut.clone()));
        Self { address, target, cut, accepting }
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections go to another node from now on; those that are open stay.
    ///
    /// # Panics
    /// When a test has failed while it held the lock.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = target;
    }

    /// Cuts every connection there is, without a goodbye.
    pub fn cut(&self) {
        self.cut.notify_waiters();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: Arc<Mutex<SocketAddr>>, cut: Arc<Notify>) {
    while let Ok((client, _)) = listener.accept().await {
        let target = *target.lock().unwrap();
        let cut = cut.clone();
        tokio::spawn(async move {
            let mut is_cut = std::pin::pin!(cut.notified());
            // From here on it is not missed.
            is_cut.as_mut().enable();
            tokio::select! {
                () = is_cut => {}
                () = relay(client, target) => {}
            }
        });
    }
}

async fn relay(mut client: TcpStream, target: SocketAddr) {
    let Ok(mut node) = TcpStream::connect(target).await else { return };
    // Delays would change what is tested. Should it fail, it is only slower.
    let _ = client.set_nodelay(true);
    let _ = node.set_nodelay(true);
    // Either side may break it off.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
}
