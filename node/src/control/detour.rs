//! Other ways to whoever does not answer.
//!
//! The control plane needs everybody to reach the raft leader, and networks break between two nodes that everybody else
//! reaches. So whoever is silent is looked for directly and, at the same time, by way of others, who carry the
//! connection without looking into it. A detour serves until the direct way is there again. It is for the control plane
//! only: whether a copy is in sync is found out over direct links.
//!
//! A paused process is silent by any way, and one whose port refuses needs no detour.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broky_proto::id::Member;
use broky_proto::peer::{Hello, Purpose};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::links::Use;
use super::shared::{Shared, lock};
use super::timing;
use crate::peer::{DialError, Ending, Link, dial, dial_through};

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
    found: watch::Sender<Option<Found>>,
    asked: Mutex<Option<Instant>>,
    /// Held while the address is dialled because somebody needs it.
    pub(super) dialling: tokio::sync::Mutex<()>,
    is_sought: AtomicBool,
}

#[derive(Debug)]
struct Found {
    link: Link,
    is_detour: bool,
    /// There was no answer on it in time, and none since. It may be slow only: another is looked for, and it is used
    /// until there is one.
    is_doubted: bool,
}

fn usable(found: &Option<Found>) -> Option<Link> {
    found.as_ref().filter(|found| !found.link.is_closed()).map(|found| found.link.clone())
}

impl Way {
    /// The connection in use.
    pub(super) fn link(&self) -> Option<Link> {
        usable(&self.found.borrow())
    }

    /// Waits for one.
    pub(super) async fn found(&self) -> Link {
        let mut found = self.found.subscribe();
        loop {
            if let Some(link) = usable(&found.borrow_and_update()) {
                return link;
            }
            // The sender lives as long as `self`.
            let _ = found.changed().await;
        }
    }

    /// Uses a direct connection from now on.
    pub(super) fn take_direct(&self, link: Link) {
        self.found.send_replace(Some(Found { link, is_detour: false, is_doubted: false }));
    }

    /// Uses a detour from now on.
    fn take_detour(&self, link: Link) {
        self.found.send_replace(Some(Found { link, is_detour: true, is_doubted: false }));
    }

    /// Notes that there was no answer on a connection in time.
    pub(super) fn doubt(&self, link: &Link) {
        self.judge(link, true);
    }

    /// Notes that there was one.
    pub(super) fn trust(&self, link: &Link) {
        self.judge(link, false);
    }

    fn judge(&self, link: &Link, is_doubted: bool) {
        self.found.send_if_modified(|found| match found {
            Some(found) if found.is_doubted != is_doubted && link.ending().is_of(&found.link) => {
                found.is_doubted = is_doubted;
                true
            }
            Some(_) | None => false,
        });
    }

    fn give_up(&self, is_meant: impl Fn(&Found) -> bool) {
        self.found.send_if_modified(|found| found.take_if(|found| is_meant(found)).is_some());
    }

    pub(super) fn is_in_use(&self, ending: &Ending) -> bool {
        self.found.borrow().as_ref().is_some_and(|found| ending.is_of(&found.link))
    }

    pub(super) fn note_asked(&self) {
        *lock(&self.asked) = Some(Instant::now());
    }

    fn is_wanted(&self) -> bool {
        lock(&self.asked).is_some_and(|asked| asked.elapsed() < UNWANTED)
    }

    /// Whether there is a detour that has not been too slow of late.
    fn has_detour(&self) -> bool {
        let is_good = |found: &Found| found.is_detour && !found.is_doubted && !found.link.is_closed();
        self.found.borrow().as_ref().is_some_and(is_good)
    }

    /// Waits until the detour in use is one no more, or is doubted.
    async fn detour_lost(&self) {
        let mut found = self.found.subscribe();
        loop {
            let is_good = |found: &&Found| found.is_detour && !found.is_doubted;
            let detour = found.borrow_and_update().as_ref().filter(is_good).map(|it| it.link.ending());
            let Some(mut detour) = detour else { return };
            tokio::select! {
                () = detour.reached() => return,
                _ = found.changed() => {}
            }
        }
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
                // Nobody needs it any more, or there is a direct one.
                way.give_up(|found| found.is_detour);
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
            // Whoever is found at once is found soon; on a busy machine, or far away, it takes longer.
            let patience = (timing::PROBE * (round + 1)).min(timing::DIAL);
            let mut direct = std::pin::pin!(dial(address, &hello, patience));
            let mut detour = std::pin::pin!(self.dial_around(to, &hello, round, patience));
            let had_detour = way.has_detour();
            let mut is_open = !had_detour;
            let direct = loop {
                tokio::select! {
                    direct = &mut direct => break direct,
                    found = &mut detour, if is_open => {
                        is_open = false;
                        self.take_detour(address, how, way, found);
                    }
                    () = way.detour_lost(), if !is_open && way.has_detour() => {
                        detour.set(self.dial_around(to, &hello, round, patience));
                        is_open = true;
                    }
                }
            };
            match direct {
                Ok(link) => {
                    self.watch(address, how, &link);
                    return way.take_direct(link);
                }
                // Whoever needs it dials and finds out.
                Err(error) if error.is_gone() && !way.has_detour() => return way.give_up(|_| true),
                Err(error) => {
                    if let DialError::Reply(reply) = error {
                        self.note_reply(reply);
                    }
                    // That there is no way at all is known at once; a detour takes longer.
                    if is_open {
                        let found = detour.await;
                        self.take_detour(address, how, way, found);
                    }
                }
            }
            round += 1;
            if had_detour && !way.has_detour() {
                pause = PAUSE;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
                () = way.detour_lost(), if way.has_detour() => pause = PAUSE,
            }
        }
    }

    fn take_detour(self: &Arc<Self>, address: &str, how: Use, way: &Way, found: Option<Link>) {
        if let Some(link) = found {
            tracing::info!(address, ?how, "reached by a detour");
            self.watch(address, how, &link);
            way.take_detour(link);
            self.beat.notify_one();
        }
    }

    /// The first connection to a member that comes about by way of others.
    async fn dial_around(&self, to: Member, hello: &Hello, round: u32, patience: Duration) -> Option<Link> {
        // Whoever answers slowly may well take a connection at once.
        tokio::time::sleep(timing::HEAD_START / 2).await;
        let (map, me) = (self.map(), self.me()?);
        let alive = map.nodes().filter_map(|(id, node)| Some((map.alive(id)?, node.addresses.peer.clone())));
        let others: Vec<String> =
            alive.filter(|(member, _)| ![me, to].contains(member)).map(|(_, address)| address).collect();
        let detour = Hello { purpose: Purpose::Detour, to: Some(to), ..*hello };
        let mut dialling = JoinSet::new();
        let first = (me.node.0 as usize + round as usize * VIAS_MAX).checked_rem(others.len()).unwrap_or_default();
        for via in others.iter().cycle().skip(first).take(others.len().min(VIAS_MAX)) {
            let (via, hello) = (via.clone(), *hello);
            dialling.spawn(async move { dial_through(&via, &detour, &hello, patience).await });
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

#[cfg(test)]
mod tests {
    use broky_proto::peer::{HELLO_BYTES, Reply};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A connection to somebody who says yes, and nothing more.
    async fn link() -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; HELLO_BYTES]).await.unwrap();
            stream.write_all(&Reply::Ok.encode()).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        let hello = Hello { purpose: Purpose::Control, shard: 0, cluster: None, from: None, to: None };
        dial(&address, &hello, timing::DIAL).await.unwrap()
    }

    #[tokio::test]
    async fn doubted_detour_is_used_until_there_is_another() {
        let (way, [slow, other]) = (Way::default(), [link().await, link().await]);
        let is_used = |link: &Link| way.is_in_use(&link.ending());
        way.take_detour(slow.clone());
        assert!(way.has_detour());
        way.doubt(&slow);
        assert!(!way.has_detour(), "another is looked for");
        way.detour_lost().await;
        assert!(is_used(&slow) && way.link().is_some());
        way.trust(&slow);
        assert!(way.has_detour());
        way.doubt(&slow);
        way.take_detour(other.clone());
        assert!(is_used(&other) && way.has_detour());
        // An answer that was waited for on the first says nothing of the second.
        way.doubt(&slow);
        assert!(way.has_detour());
    }
}
