//! The task behind a producer: gives it the cluster map, and each of its lanes a driver.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::driver::Driver;
use super::lanes::Lanes;
use crate::backoff::Backoff;
use crate::topology::{Feed, Topology};
use crate::transport::Pool;

/// See the module.
pub(super) struct Keeper {
    pub(super) lanes: Arc<Lanes>,
    pub(super) pool: Arc<Pool>,
    /// Held, so that the map is followed for as long as something is to be pushed.
    pub(super) _feed: Arc<Feed>,
    pub(super) maps: watch::Receiver<Option<Arc<Topology>>>,
    pub(super) backoff: Backoff,
    /// The shortest of the times that drivers watch over.
    pub(super) patience: Duration,
}

impl Keeper {
    /// Runs until the lanes are closed and everything in them is settled.
    pub(super) async fn run(mut self) {
        let mut is_map_followed = true;
        loop {
            for lane in self.lanes.take_unattended() {
                let driver = Driver::new(lane, Arc::clone(&self.pool), self.backoff, self.patience);
                tokio::spawn(driver.run());
            }
            if self.lanes.is_finished() {
                return;
            }
            tokio::select! {
                () = self.lanes.keeper_woken() => {}
                changed = self.maps.changed(), if is_map_followed => {
                    // The client was closed: what is left goes by the last map.
                    is_map_followed = changed.is_ok();
                    let map = self.maps.borrow_and_update().clone();
                    if let Some(map) = map.filter(|_| is_map_followed) {
                        self.lanes.handle_map(&map);
                    }
                }
            }
        }
    }
}
