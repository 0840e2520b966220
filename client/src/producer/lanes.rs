//! The one place where pushers, request bodies and drivers meet: a lock around the router, and who is to be woken.
//!
//! A push takes the lock once, uncontended unless a transport takes a batch in the same moment. A transport is woken
//! only when it is parked and there is something it may send, which is at most once per batch. What a lane's driver and
//! request body do is in [`super::lane`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use broky_proto::id::ProducerId;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::answer::FlushSummary;
use super::error::PushError;
use super::lane::Lane;
use super::options::ProducerOptions;
use super::router::{Router, Slot};
use super::ticket::Outcomes;
use crate::backoff::random;
use crate::encode::Encoder;
use crate::topology::Topology;

/// See the module.
pub(crate) struct Lanes {
    state: Mutex<State>,
    pub(super) silence_timeout: Duration,
    /// Pushers that wait for room in the window.
    room: Notify,
    /// Whoever waits for messages to be settled or for the lanes to finish.
    progress: Notify,
    /// The keeper, when a lane wants a driver or a driver ended.
    keeper: Notify,
    /// Drivers that wait before they try again: the map changed, which may be what they wait for.
    map_changed: Notify,
}

pub(super) struct State {
    pub(super) router: Router,
    /// By slot.
    ports: Vec<Port>,
    /// Streams so far. Numbers them, so that the body of a stream that was given up gets no more requests.
    pub(super) streams: u64,
    /// Drivers that run.
    drivers: usize,
}

/// What the shell knows of a lane.
pub(super) struct Port {
    /// The request body that waits for a request.
    pub(super) parked: Option<Waker>,
    pub(super) stream: u64,
    /// When the stream last answered, or, later, began to owe an answer.
    pub(super) heard: Instant,
    /// What went wrong last, for the messages that are given up.
    pub(super) last_error: String,
    /// Whether the driver looks at the time. It does not while there is nothing unsettled.
    pub(super) is_ticking: bool,
    /// Since when there is nothing unsettled, as the driver saw it.
    pub(super) idle_since: Option<Instant>,
    /// The driver, when something other than an answer concerns it.
    pub(super) driver: Arc<Notify>,
}

pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Lanes {
    pub(super) fn new(options: ProducerOptions) -> Self {
        let silence_timeout = options.silence_timeout;
        let router = Router::new(options, ProducerId(random().max(1)));
        let state = State { router, ports: vec![Port::new()], streams: 0, drivers: 0 };
        Self {
            state: Mutex::new(state),
            silence_timeout,
            room: Notify::new(),
            progress: Notify::new(),
            keeper: Notify::new(),
            map_changed: Notify::new(),
        }
    }

    /// Appends a message to the open batch of its lane, or says that there is no room. Returns what `handle` makes of
    /// the batch's outcomes and the message's index; the flag says whether that filled a batch.
    #[inline]
    pub(super) fn append<T>(
        &self,
        message: &Encoder<'_>,
        handle: impl FnOnce(&Arc<Outcomes>, u32) -> T,
    ) -> Result<(T, bool), PushError> {
        let mut state = self.lock();
        if state.router.is_closing() {
            return Err(PushError::Closed);
        }
        if !state.router.has_room(message.field_len()) {
            return Err(PushError::WouldBlock);
        }
        let (slot, handle, is_closed) = state.router.append(message, Instant::now, handle);
        let port = state.port(slot);
        let is_driver_asleep = !std::mem::replace(&mut port.is_ticking, true);
        let is_parked = port.parked.is_some();
        // Most pushes wake nobody: what they add waits for an answer. The driver of a new lane is asleep too.
        if is_driver_asleep || is_parked && state.router.window(slot).has_request() {
            self.wake_for(slot, state, is_driver_asleep);
        }
        Ok((handle, is_closed))
    }

    /// Wakes whom a push to this lane concerns.
    #[inline(never)]
    fn wake_for(&self, slot: Slot, mut state: MutexGuard<'_, State>, is_driver_asleep: bool) {
        let waker = state.unpark(slot);
        let driver = is_driver_asleep.then(|| Arc::clone(&state.port(slot).driver));
        let has_new_lane = state.router.has_unattended();
        drop(state);
        wake(waker);
        if let Some(driver) = driver {
            driver.notify_one();
        }
        if has_new_lane {
            self.keeper.notify_one();
        }
    }

    /// Waits until `attempt` gives something else than [`PushError::WouldBlock`].
    pub(super) async fn when_room<T>(&self, mut attempt: impl FnMut() -> Result<T, PushError>) -> Result<T, PushError> {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            // Registered before the attempt, so that room made right after it is not missed.
            room.as_mut().enable();
            match attempt() {
                Err(PushError::WouldBlock) => room.await,
                outcome => return outcome,
            }
        }
    }

    /// Waits until everything pushed before the call is settled.
    pub(super) async fn flush(&self) -> FlushSummary {
        let (mut marks, wakers) = {
            let mut state = self.lock();
            (state.router.hurry(), state.unpark_all())
        };
        wakers.into_iter().for_each(Waker::wake);
        self.wait_for(|state| {
            marks.retain(|mark| !state.router.is_settled(mark));
            marks.is_empty()
        })
        .await;
        self.summary()
    }

    /// Takes no more messages; what was pushed is still sent.
    pub(crate) fn close(&self) {
        let (wakers, drivers) = {
            let mut state = self.lock();
            state.router.close();
            state.router.hurry();
            // Parked or not: the body of an empty window ends now.
            let wakers: Vec<Waker> = state.ports.iter_mut().filter_map(|port| port.parked.take()).collect();
            (wakers, state.drivers())
        };
        wakers.into_iter().for_each(Waker::wake);
        drivers.iter().for_each(|driver| driver.notify_one());
        self.room.notify_waiters();
        self.keeper.notify_one();
    }

    /// Waits for the end of lanes that were closed.
    pub(crate) async fn finished(&self) -> FlushSummary {
        self.wait_for(|state| state.is_finished()).await;
        self.summary()
    }

    pub(super) fn summary(&self) -> FlushSummary {
        self.lock().router.summary()
    }

    async fn wait_for(&self, mut is_met: impl FnMut(&State) -> bool) {
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            if is_met(&self.lock()) {
                return;
            }
            progress.await;
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notify_progress(&self) {
        self.room.notify_waiters();
        self.progress.notify_waiters();
    }
}

/// The keeper's side.
impl Lanes {
    /// Something concerns the keeper.
    pub(super) async fn keeper_woken(&self) {
        self.keeper.notified().await;
    }

    /// Waits for a newer map.
    pub(super) async fn map_changed(&self) {
        self.map_changed.notified().await;
    }

    /// The lanes that want a driver; each has to get one.
    pub(super) fn take_unattended(self: &Arc<Self>) -> Vec<Lane> {
        let mut state = self.lock();
        let slots = state.router.take_unattended();
        state.drivers += slots.len();
        slots.into_iter().map(|slot| Lane::new(self, slot, Arc::clone(&state.port(slot).driver))).collect()
    }

    /// A driver ended.
    pub(super) fn handle_driver_end(&self) {
        self.lock().drivers -= 1;
        self.notify_progress();
        self.keeper.notify_one();
    }

    /// Takes a newer cluster map.
    pub(super) fn handle_map(&self, map: &Topology) {
        let drivers = {
            let mut state = self.lock();
            state.router.handle_map(map, Instant::now());
            state.drivers()
        };
        // Each looks whether its lane is still wanted.
        drivers.iter().for_each(|driver| driver.notify_one());
        self.map_changed.notify_waiters();
    }

    /// Whether it was closed and nothing is left to do.
    pub(super) fn is_finished(&self) -> bool {
        self.lock().is_finished()
    }
}

impl State {
    /// The shell's part of a lane.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "the port was made if there was none")]
    pub(super) fn port(&mut self, slot: Slot) -> &mut Port {
        if slot.at() >= self.ports.len() {
            self.add_ports(slot);
        }
        &mut self.ports[slot.at()]
    }

    #[cold]
    fn add_ports(&mut self, slot: Slot) {
        self.ports.resize_with(slot.at() + 1, Port::new);
    }

    /// The parked body's waker, if there is something for it to send, or to end.
    pub(super) fn unpark(&mut self, slot: Slot) -> Option<Waker> {
        let is_wanted = self.router.window(slot).has_request() || self.router.is_over(slot);
        if is_wanted { self.port(slot).parked.take() } else { None }
    }

    /// As [`State::unpark`], of every lane.
    pub(super) fn unpark_all(&mut self) -> Vec<Waker> {
        let live: Vec<Slot> = self.router.live().collect();
        live.into_iter().filter_map(|slot| self.unpark(slot)).collect()
    }

    /// Ends a lane; gives its body's waker.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<Waker> {
        self.router.remove(slot);
        std::mem::replace(self.port(slot), Port::new()).parked
    }

    fn drivers(&self) -> Vec<Arc<Notify>> {
        self.ports.iter().map(|port| Arc::clone(&port.driver)).collect()
    }

    fn is_finished(&self) -> bool {
        self.router.is_closing() && self.drivers == 0 && !self.router.has_unattended()
    }
}

impl Port {
    fn new() -> Self {
        Self {
            parked: None,
            stream: 0,
            heard: Instant::now(),
            last_error: "no node was reached yet".to_owned(),
            is_ticking: false,
            idle_since: None,
            driver: Arc::default(),
        }
    }
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lanes").field("summary", &self.summary()).finish_non_exhaustive()
    }
}
