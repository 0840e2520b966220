//! Takes the connections to one port of a node, and finds out by whom each is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Shared;
use super::door::Door;
use super::faults::Party;
use super::pump::{Connection, reset};
use super::shared::until_true;
use super::source::{Ends, Source};

/// Looks for who has dialled, and the time between two.
const LOOKS: u32 = 20;
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long nothing is taken after that has failed, as it does when there are no file descriptors left.
const PAUSE: Duration = Duration::from_millis(20);

/// Takes connections until the node's life is over.
pub(super) async fn accept(
    shared: Arc<Shared>,
    door: Door,
    node: usize,
    target: SocketAddr,
    mut life: watch::Receiver<bool>,
) {
    let Some(listener) = door.opened().await else { return };
    let target_gone = life.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = until_true(&mut life) => return,
        };
        let Ok((stream, dialler)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let visit = Visit { shared: shared.clone(), node, target, dialler, target_gone: target_gone.clone() };
        shared.spawn(visit.take(stream));
    }
}

/// A connection of which it is not known yet who has dialled.
struct Visit {
    shared: Arc<Shared>,
    node: usize,
    target: SocketAddr,
    dialler: SocketAddr,
    target_gone: watch::Receiver<bool>,
}

impl Visit {
    async fn take(self, stream: TcpStream) {
        let Ok(listener) = stream.local_addr() else { return };
        let source = self.source(Ends { dialler: self.dialler, listener }).await;
        let (from, dialler_gone) = self.party(source);
        let to = Party::Node(self.node);
        let (forth, back) = (self.shared.link(from, to), self.shared.link(to, from));
        let Ok(_slot) = self.shared.slots.clone().try_acquire_owned() else {
            forth.count(|counts| counts.connections_refused += 1);
            return reset(&stream);
        };
        let mut dial = 0;
        forth.count(|counts| {
            dial = counts.connections;
            counts.connections += 1;
            counts.connections_open += 1;
        });
        let (target, seed, target_gone) = (self.target, self.shared.seed, self.target_gone);
        let link = forth.clone();
        Connection { forth, back, target, seed, dial, dialler_gone, target_gone }.carry(stream).await;
        link.count(|counts| counts.connections_open -= 1);
    }

    /// Who has dialled. The kernel's table is no snapshot, and may lack a socket that was there before and behind the look:
    /// whoever is not found is looked for again, as a stranger's connection is cut by nobody.
    async fn source(&self, ends: Ends) -> Source {
        for _ in 1..LOOKS {
            match self.shared.sources.find(ends).await {
                Source::Unknown => tokio::time::sleep(LOOK_AGAIN).await,
                found => return found,
            }
        }
        self.shared.sources.find(ends).await
    }

    fn party(&self, source: Source) -> (Party, watch::Receiver<bool>) {
        let life = match source {
            Source::Process(pid) => self.shared.life_of(pid),
            Source::Ourselves => None,
            Source::Unknown => {
                self.shared.count(|strangers| strangers.connections += 1);
                None
            }
        };
        let clients = || (Party::Clients, self.shared.immortal());
        life.map_or_else(clients, |(node, is_over)| (Party::Node(node), is_over))
    }
}
