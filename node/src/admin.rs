//! The admin HTTP: `/metrics`, `/healthz`, `/readyz`, `/status`, `/logs`, and what an operator decides about nodes.
//!
//! `GET` never changes anything. What does is a `POST`, and names in its `Host` header a host that is ours: a web page
//! that has its own name resolved to this machine must not drain a node.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use broky_proto::id::NodeId;
use broky_ring::command::{Command, Effect, Outcome};
use broky_ring::state::NodeRefusal;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::advertise::split;
use crate::control::{Control, ProposeError};
use crate::gossip::GossipStats;
use crate::listener::ListenerStats;
use crate::metrics::{Exporter, Snapshot};
use crate::process::host_name;
use crate::worker::{HeldLog, Inbox, ToWorker, WorkerStats};

/// Time a worker has to say how it is doing.
const STATS_TIMEOUT: Duration = Duration::from_secs(2);

/// What the admin HTTP tells of.
pub(crate) struct Admin {
    pub(crate) name: String,
    pub(crate) control: Control,
    pub(crate) address: String,
    /// The host that is advertised.
    pub(crate) host: Option<String>,
    /// Not set before the workers run.
    pub(crate) inboxes: Arc<OnceLock<Vec<Inbox>>>,
    pub(crate) listener: Arc<ListenerStats>,
    pub(crate) memory_max_bytes: usize,
    pub(crate) started: Instant,
    pub(crate) exporter: Exporter,
    /// Set when this node gossips.
    pub(crate) gossip: Arc<OnceLock<Arc<GossipStats>>>,
}

/// Serves the admin HTTP for ever.
pub(crate) async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/logs", get(logs))
        .route("/nodes/{name}/drain", post(drain))
        .route("/nodes/{name}/forget", post(forget))
        .with_state(admin);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the admin listener ended");
    }
}

impl Admin {
    /// How every worker is doing; `None` when one does not answer.
    async fn snapshot(&self) -> Option<Snapshot> {
        let mut workers = Vec::new();
        for inbox in self.inboxes.get().into_iter().flatten() {
            workers.push(ask(inbox, ToWorker::Stats).await?);
        }
        let peers = self.control.peers();
        Some(Snapshot {
            gossip: self.gossip.get().cloned(),
            workers,
            accepted: self.listener.accepted.load(Ordering::Relaxed) as u64,
            refused: self.listener.refused.load(Ordering::Relaxed) as u64,
            peers_accepted: peers.accepted.load(Ordering::Relaxed),
            peers_refused: peers.refused.load(Ordering::Relaxed),
            peers_bad: peers.bad.load(Ordering::Relaxed),
            peers_carried: peers.carried.load(Ordering::Relaxed),
            memory_max_bytes: self.memory_max_bytes,
            uptime_seconds: self.started.elapsed().as_secs_f64(),
        })
    }
}

/// Asks a worker something.
async fn ask<T>(inbox: &Inbox, question: impl FnOnce(oneshot::Sender<T>) -> ToWorker) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    inbox.send(question(answer)).ok()?;
    tokio::time::timeout(STATS_TIMEOUT, answered).await.ok()?.ok()
}

fn unresponsive() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "a worker does not answer\n").into_response()
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let Some(snapshot) = admin.snapshot().await else { return unresponsive() };
    let text = admin.exporter.render(&snapshot);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    if let Some(reason) = admin.control.not_ready() {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response();
    }
    if admin.inboxes.get().is_none() {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response();
    }
    match admin.snapshot().await {
        Some(_) => "ready\n".into_response(),
        None => unresponsive(),
    }
}

async fn status(State(admin): State<Arc<Admin>>) -> Response {
    let Some(snapshot) = admin.snapshot().await else { return unresponsive() };
    let sum = |of: fn(&WorkerStats) -> u64| snapshot.workers.iter().map(of).sum::<u64>();
    let cluster = admin.control.status();
    let status = serde_json::json!({
        "name": admin.name,
        "cluster_id": cluster.cluster_id,
        "address": admin.address,
        "uptime_seconds": snapshot.uptime_seconds,
        "workers": snapshot.workers.len(),
        "vbuckets_led": sum(|w| w.led as u64),
        "connections": sum(|w| w.connections as u64),
        "subscriptions": sum(|w| w.subscriptions as u64),
        "pushed_messages": sum(|w| w.shard.pushed_messages),
        "delivered_messages": sum(|w| w.delivery.delivered_messages),
        "dropped_messages": sum(|w| w.delivery.dropped_messages),
        "memory_used_bytes": sum(|w| w.memory_used_bytes as u64),
        "memory_max_bytes": snapshot.memory_max_bytes,
        "cluster": cluster,
    });
    ([(header::CONTENT_TYPE, "application/json")], format!("{status}\n")).into_response()
}

/// Which logs this node holds: per vbucket its number, lineage, log start and log end. Compared between nodes it says
/// how far one is behind another.
async fn logs(State(admin): State<Arc<Admin>>) -> Response {
    let mut logs = Vec::new();
    for inbox in admin.inboxes.get().into_iter().flatten() {
        let Some(held) = ask(inbox, ToWorker::Logs).await else { return unresponsive() };
        logs.extend(held.iter().map(|log: &HeldLog| (log.vbucket.0, log.lineage.0, log.start.0, log.end.0)));
    }
    let logs = serde_json::json!(logs);
    ([(header::CONTENT_TYPE, "application/json")], format!("{logs}\n")).into_response()
}

async fn drain(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let force = query.as_deref() == Some("force=true");
    admin.decide(&headers, &name, |node| Command::Drain { node, force }).await
}

async fn forget(State(admin): State<Arc<Admin>>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    admin.decide(&headers, &name, |node| Command::Forget { node }).await
}

impl Admin {
    /// Has an operator's decision about a node recorded.
    async fn decide(&self, headers: &HeaderMap, name: &str, command: impl FnOnce(NodeId) -> Command) -> Response {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        if !host.is_some_and(|host| self.is_ours(host)) {
            return answer(StatusCode::FORBIDDEN, "the Host header names no host of this node");
        }
        let map = self.control.map().borrow().clone();
        let Some((node, _)) = map.nodes().find(|(_, node)| node.name == name) else {
            return answer(StatusCode::NOT_FOUND, format!("no node is called {name:?}"));
        };
        match self.control.propose(command(node)).await {
            Ok(Outcome::Node(Ok(Effect::Changed))) => answer(StatusCode::OK, "done"),
            Ok(Outcome::Node(Ok(Effect::Unchanged))) => answer(StatusCode::OK, "so it was already"),
            Ok(Outcome::Node(Err(NodeRefusal::Unregistered))) => answer(StatusCode::NOT_FOUND, "no such node"),
            Ok(Outcome::Node(Err(refusal @ NodeRefusal::BelowMinIsr { .. }))) => {
                answer(StatusCode::CONFLICT, format_args!("{refusal}; --force drains it all the same"))
            }
            Ok(Outcome::Node(Err(refusal))) => answer(StatusCode::CONFLICT, refusal),
            Ok(_) => answer(StatusCode::INTERNAL_SERVER_ERROR, "the answer to another question"),
            Err(error @ ProposeError::NoLeader) => answer(StatusCode::SERVICE_UNAVAILABLE, error),
            Err(error @ ProposeError::Unknown) => answer(StatusCode::GATEWAY_TIMEOUT, error),
        }
    }

    /// Whether a `Host` header can only come from somebody who means this node: an address, this machine's name, or the
    /// name that is advertised.
    fn is_ours(&self, host: &str) -> bool {
        let (host, _) = split(host);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let advertised = self.host.as_deref().map(|host| split(host).0);
        bare.parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || host.eq_ignore_ascii_case(&host_name())
            || advertised.is_some_and(|advertised| host.eq_ignore_ascii_case(advertised))
    }
}

fn answer(status: StatusCode, words: impl std::fmt::Display) -> Response {
    (status, format!("{words}\n")).into_response()
}
