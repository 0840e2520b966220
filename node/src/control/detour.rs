//! Other ways to whoever does not answer.
//!
//! The control plane needs everybody to reach the raft leader, and networks break between two nodes that everybody else
//! reaches. So whoever is silent is looked for directly and, at the same time, by way of others, who carry the connection
//! without looking into it. A detour serves until the direct way is there again. It is for the control plane only: whether
//! a copy is in sync is found out over direct links.
//!
//! A paused process is silent by any way, and one whose port refuses needs no detour.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broky_proto::id::Member;
use broky_proto::peer::{Hello, Purpose};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::links::Use;
use super::shared::{Shared, lock};
use super::timing;
use crate::peer::{Link, dial, dial_through};

/// Processes that are asked to carry at a time.
const VIAS_MAX: usize = 8;
/// Between looks for a way, at first; doubled each time, up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Who was not asked for so long need not be found.
const UNWANTED: Duration = Duration::from_secs(10);

/// How an address is reached, for one use.
#[derive(Debug, Default)]
pub(super) struct Way {
    found: Mutex<Option<Found>>,
    asked: Mutex<Option<Instant>>,
    /// Held while the address is dialled because somebody needs it.
    pub(super) dialling: tokio::sync::Mutex<()>,
    is_sought: AtomicBool,
    /// Wakes the search.
    lost: Notify,
}

#[derive(Debug)]
struct Found {
    link: Link,
    is_detour: bool,
}

impl Way {
    /// The connection in use.
    pub(super) fn link(&self) -> Option<Link> {
        let found = lock(&self.found);
        found.as_ref().filter(|found| !found.link.is_closed()).map(|found| found.link.clone())
    }

    /// Uses a direct connection from now on.
    pub(super) fn take_direct(&self, link: Link) {
        *lock(&self.found) = Some(Found { link, is_detour: false });
    }

    /// Uses a connection no more on which there was no answer, if it is a detour. A direct one may be all there is.
    pub(super) fn leave(&self, link: &Link) {
        if lock(&self.found).take_if(|found| found.is_detour && found.link.is_same(link)).is_some() {
            self.lost.notify_one();
        }
    }

    pub(super) fn note_asked(&self) {
        *lock(&self.asked) = Some(Instant::now());
    }

    fn is_wanted(&self) -> bool {
        lock(&self.asked).is_some_and(|asked| asked.elapsed() < UNWANTED)
    }

    fn has_detour(&self) -> bool {
        lock(&self.found).as_ref().is_some_and(|found| found.is_detour && !found.link.is_closed())
    }
}

impl Shared {
    /// Looks for a way to a member, if nobody does so yet.
    pub(super) fn seek_way(self: &Arc<Self>, address: &str, how: Use) {
        let way = self.way(address, how);
        if !way.is_sought.swap(true, Ordering::Relaxed) {
            let (shared, address) = (self.clone(), address.to_owned());
            tokio::spawn(async move {
                shared.find_way(&address, how, &way).await;
                // Nobody needs it any more, or it is a direct one.
                lock(&way.found).take_if(|found| found.is_detour);
                way.is_sought.store(false, Ordering::Relaxed);
            });
        }
    }

    async fn find_way(self: &Arc<Self>, address: &str, how: Use, way: &Way) {
        let (mut pause, mut round) = (PAUSE, 0);
        while way.is_wanted() && self.ended.borrow().is_none() {
            // Before somebody is registered nobody carries anything to it.
            let Some(to) = self.member_at(address) else { return };
            let hello = self.hello(None);
            let mut direct = std::pin::pin!(dial(address, &hello, timing::PROBE));
            let mut detour = std::pin::pin!(self.dial_around(to, &hello, round));
            let mut is_open = !way.has_detour();
            let direct = loop {
                tokio::select! {
                    direct = &mut direct => break direct,
                    found = &mut detour, if is_open => {
                        is_open = false;
                        if let Some(link) = found {
                            tracing::info!(node = %to.node, ?how, "reached by a detour");
                            self.watch(address, how, &link);
                            *lock(&way.found) = Some(Found { link, is_detour: true });
                            self.beat.notify_one();
                        }
                    }
                }
            };
            match direct {
                Ok(link) => {
                    self.watch(address, how, &link);
                    return way.take_direct(link);
                }
                Err(error) if error.is_gone() => {
                    // Whoever needs it dials and finds out.
                    *lock(&way.found) = None;
                    return;
                }
                Err(_) => {}
            }
            round += 1;
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
                () = way.lost.notified() => pause = PAUSE,
            }
        }
    }

    /// The first connection to a member that comes about by way of others.
    async fn dial_around(&self, to: Member, hello: &Hello, round: usize) -> Option<Link> {
        let (map, me) = (self.map(), self.me()?);
        let alive = map.nodes().filter_map(|(id, node)| Some((map.alive(id)?, node.addresses.peer.clone())));
        let others: Vec<String> =
            alive.filter(|(member, _)| ![me, to].contains(member)).map(|(_, address)| address).collect();
        let detour = Hello { purpose: Purpose::Detour, to: Some(to), ..*hello };
        let mut dialling = JoinSet::new();
        let first = (round * VIAS_MAX).checked_rem(others.len()).unwrap_or_default();
        for via in others.iter().cycle().skip(first).take(others.len().min(VIAS_MAX)) {
            let (via, hello) = (via.clone(), *hello);
            dialling.spawn(async move { dial_through(&via, &detour, &hello, timing::PROBE).await });
        }
        while let Some(dialled) = dialling.join_next().await {
            if let Ok(Some(link)) = dialled {
                return Some(link);
            }
        }
        None
    }

    fn member_at(&self, address: &str) -> Option<Member> {
        let map = self.map();
        let (id, node) = map.nodes().find(|(_, node)| node.addresses.peer == address)?;
        Some(Member { node: id, incarnation: node.incarnation })
    }
}
