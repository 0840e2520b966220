//! A broker in one process with just enough behaviour to test a client: logs per vbucket, deduplication, refusal of
//! what is ahead of something refused, and faults at chosen points.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failure here fails the test")]
#![allow(clippy::allow_attributes, reason = "dead_code is not certain in each test binary")]

pub(crate) mod log;
mod push;
mod serve;
mod subscribe;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use broky_proto::v1::{self, ErrorCode};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use log::{Log, Stored};

/// The lineage of every vbucket.
pub(crate) const LINEAGE: u64 = 11;

/// How long anything in these tests may take at the most.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What happens to one push request. Without one it is stored and answered.
#[derive(Clone, Debug)]
pub(crate) enum PushFault {
    /// As without a fault.
    None,
    /// The connection is cut; nothing is stored.
    CutBeforeStoring,
    /// Stored; then the connection is cut without an answer.
    CutBeforeAnswering,
    /// Every message of this vbucket, or of all, is refused.
    Reject { vbucket: Option<u16>, code: ErrorCode, retry: bool },
    /// Stored, and answered as unknown.
    StoreAndAnswerUnknown,
    /// Neither stored nor answered.
    Ignore,
    /// Answered with outcomes for one message more than there are.
    AnswerTooMuch,
    /// The stream is ended with this code.
    EndStream(ErrorCode),
}

/// One push request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) producer: u64,
    pub(crate) sequence: u64,
    pub(crate) messages: usize,
    /// Which node took it.
    pub(crate) node: usize,
    /// Of its first message.
    pub(crate) vbucket: u16,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) log: Log,
    pub(crate) push_faults: VecDeque<PushFault>,
    pub(crate) arrived: Vec<Arrived>,
    pub(crate) opens: Vec<v1::Open>,
    pub(crate) credits: Vec<u64>,
    /// Subscriptions are cut after this many messages, once.
    pub(crate) cut_after: Option<u64>,
    /// Confirmations are followed by silence, this many times.
    pub(crate) mute: u32,
    /// Opens are refused with this code, as often as there are.
    pub(crate) refuse_opens: VecDeque<ErrorCode>,
    /// Resumed subscriptions get this many messages that they had already.
    pub(crate) repeat: u64,
    /// The message at this place of the next delivery is damaged.
    pub(crate) damage: Option<usize>,
    pub(crate) cluster_id: [u8; 16],
    pub(crate) connections: usize,
    pub(crate) ended_push_streams: usize,
    pub(crate) ended_subscriptions: usize,
    pub(crate) gaps: Vec<v1::Gap>,
    /// Addresses of the nodes.
    pub(crate) nodes: Vec<String>,
    /// Place of each vbucket's leader among the nodes; `None` for none.
    pub(crate) leaders: Vec<Option<usize>>,
    pub(crate) map_version: u64,
    /// How often each node was asked for the map.
    pub(crate) maps_asked_at: Vec<usize>,
    /// Nodes that subscriptions were opened at, in order.
    pub(crate) opened_at: Vec<usize>,
}

/// A running fake broker: one node. Nodes of a cluster share everything but their connections, as if whatever one of
/// them is given were forwarded and replicated in no time.
#[derive(Clone)]
pub(crate) struct Broker {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
    cut: Arc<Notify>,
    address: SocketAddr,
    /// Its place among the nodes.
    place: usize,
    is_paused: Arc<watch::Sender<bool>>,
    accepting: Arc<Mutex<Option<AbortHandle>>>,
}

impl Broker {
    pub(crate) async fn start() -> Self {
        Self::start_cluster(1).await.pop().unwrap()
    }

    /// Nodes of one cluster, which lead the vbuckets in turn.
    pub(crate) async fn start_cluster(nodes: usize) -> Vec<Self> {
        let leaders = (0..log::VBUCKETS as usize).map(|vbucket| Some(vbucket % nodes)).collect();
        let state = State { cluster_id: [7; 16], map_version: 1, leaders, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let changed = Arc::new(watch::Sender::new(0));
        let mut brokers = Vec::new();
        for place in 0..nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            state.lock().unwrap().nodes.push(address.to_string());
            state.lock().unwrap().maps_asked_at.push(0);
            let broker = Self {
                state: Arc::clone(&state),
                changed: Arc::clone(&changed),
                cut: Arc::default(),
                address,
                place,
                is_paused: Arc::new(watch::Sender::new(false)),
                accepting: Arc::default(),
            };
            broker.accept(listener);
            brokers.push(broker);
        }
        brokers
    }

    fn accept(&self, listener: TcpListener) {
        let task = tokio::spawn(serve::accept(self.clone(), listener));
        *self.accepting.lock().unwrap() = Some(task.abort_handle());
    }

    /// The node's end: its connections break, and new ones are refused.
    pub(crate) async fn kill(&self) {
        let accepting = self.accepting.lock().unwrap().take().unwrap();
        accepting.abort();
        while !accepting.is_finished() {
            tokio::task::yield_now().await;
        }
        self.cut_all();
    }

    /// The node is back, at its address.
    pub(crate) async fn revive(&self) {
        self.accept(TcpListener::bind(self.address).await.unwrap());
    }

    /// The node takes connections and requests and answers nothing, until it goes on.
    pub(crate) fn pause(&self, is_paused: bool) {
        self.is_paused.send_replace(is_paused);
    }

    /// Waits while the node is paused.
    async fn gate(&self) {
        let _ = self.is_paused.subscribe().wait_for(|is_paused| !is_paused).await;
    }

    /// Tells a newer map, in which these nodes lead the vbuckets.
    pub(crate) fn lead(&self, leaders: impl IntoIterator<Item = Option<usize>>) {
        {
            let mut state = self.lock();
            state.leaders = leaders.into_iter().collect();
            state.map_version += 1;
        }
        self.touch();
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Cuts every connection there is.
    pub(crate) fn cut_all(&self) {
        self.cut.notify_waiters();
    }

    /// Faults for the next push requests.
    pub(crate) fn fault(&self, faults: impl IntoIterator<Item = PushFault>) {
        self.lock().push_faults.extend(faults);
    }

    /// Payloads of everything stored, in the order of storing.
    pub(crate) fn payloads(&self) -> Vec<String> {
        let payload = |stored: &Stored| String::from_utf8(stored.payload.clone()).unwrap();
        self.lock().log.all().iter().map(payload).collect()
    }

    /// Waits until something holds.
    pub(crate) async fn until(&self, what: &str, mut is_met: impl FnMut(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let met = async {
            while !is_met(&self.lock()) {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, met).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }

    /// Something changed that someone may wait for.
    fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

/// Fails the test when `future` takes too long.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}
