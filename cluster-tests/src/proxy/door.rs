//! Where a node is dialled: open as long as the node listens itself, and closed at once when it is gone.
//!
//! Nodes tell a dead node from a silent one by a refused connection, so a door is not merely not answered: nothing
//! listens there. It also opens no sooner than the node behind it, as a connection that is taken and then reset is no
//! refusal.

use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};

use super::source::is_listening;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1_024;
/// How often it is looked whether the node listens.
const PERIOD: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Door {
    state: Arc<Mutex<State>>,
    target: SocketAddr,
}

#[derive(Debug)]
enum State {
    /// The address is ours; whoever dials it is refused.
    Bound(TcpSocket),
    Open(Arc<TcpListener>),
    Closed,
}

impl Door {
    /// A door at `address`, which opens as soon as somebody listens at `target`.
    ///
    /// # Errors
    /// When the address is taken.
    pub(super) fn new(address: SocketAddr, target: SocketAddr) -> std::io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // Connections through the one before may not be over.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let door = Self { state: Arc::new(Mutex::new(State::Bound(socket))), target };
        if is_listening(target) {
            door.open()?;
        }
        Ok(door)
    }

    /// Waits until it is open. `None` when it has been closed.
    pub(super) async fn opened(&self) -> Option<Arc<TcpListener>> {
        loop {
            match &*self.lock() {
                State::Bound(_) => {}
                State::Open(listener) => return Some(listener.clone()),
                State::Closed => return None,
            }
            if !is_listening(self.target) {
                tokio::time::sleep(PERIOD).await;
            } else if self.open().is_err() {
                return None;
            }
        }
    }

    fn open(&self) -> std::io::Result<()> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Closed) {
            State::Bound(socket) => *state = State::Open(Arc::new(socket.listen(BACKLOG)?)),
            other @ (State::Open(_) | State::Closed) => *state = other,
        }
        Ok(())
    }

    /// Closes it: who dials is refused when this returns.
    pub(super) fn close(&self) {
        if let State::Open(listener) = std::mem::replace(&mut *self.lock(), State::Closed) {
            // Others may hold it; this ends its listening for them too.
            let _ = SockRef::from(&*listener).shutdown(Shutdown::Both);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
