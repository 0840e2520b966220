//! The admin HTTP: `/metrics`, `/healthz`, `/readyz`, `/status`. It only reads.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use broky_proto::id::ClusterId;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::listener::ListenerStats;
use crate::metrics::{Exporter, Snapshot};
use crate::worker::{Inbox, ToWorker, WorkerStats};

/// Time a worker has to say how it is doing.
const STATS_TIMEOUT: Duration = Duration::from_secs(2);

/// What the admin HTTP tells of.
pub(crate) struct Admin {
    pub(crate) name: String,
    pub(crate) cluster: ClusterId,
    pub(crate) address: String,
    pub(crate) inboxes: Vec<Inbox>,
    pub(crate) listener: Arc<ListenerStats>,
    pub(crate) memory_max_bytes: usize,
    pub(crate) started: Instant,
    pub(crate) exporter: Exporter,
}

/// Serves the admin HTTP for ever.
pub(crate) async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .with_state(admin);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the admin listener ended");
    }
}

impl Admin {
    /// How every worker is doing; `None` when one does not answer.
    async fn snapshot(&self) -> Option<Snapshot> {
        let mut workers = Vec::with_capacity(self.inboxes.len());
        for inbox in &self.inboxes {
            workers.push(ask(inbox).await?);
        }
        Some(Snapshot {
            workers,
            accepted: self.listener.accepted.load(Ordering::Relaxed) as u64,
            refused: self.listener.refused.load(Ordering::Relaxed) as u64,
            memory_max_bytes: self.memory_max_bytes,
            uptime_seconds: self.started.elapsed().as_secs_f64(),
        })
    }
}

async fn ask(inbox: &Inbox) -> Option<WorkerStats> {
    let (answer, answered) = oneshot::channel();
    inbox.send(ToWorker::Stats(answer)).ok()?;
    tokio::time::timeout(STATS_TIMEOUT, answered).await.ok()?.ok()
}

fn unresponsive() -> axum::response::Response {
    (StatusCode::SERVICE_UNAVAILABLE, "a worker does not answer\n").into_response()
}

async fn metrics(State(admin): State<Arc<Admin>>) -> axum::response::Response {
    let Some(snapshot) = admin.snapshot().await else { return unresponsive() };
    let text = admin.exporter.render(&snapshot);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn readyz(State(admin): State<Arc<Admin>>) -> axum::response::Response {
    match admin.snapshot().await {
        Some(_) => "ready\n".into_response(),
        None => unresponsive(),
    }
}

async fn status(State(admin): State<Arc<Admin>>) -> axum::response::Response {
    let Some(snapshot) = admin.snapshot().await else { return unresponsive() };
    let sum = |of: fn(&WorkerStats) -> u64| snapshot.workers.iter().map(of).sum::<u64>();
    let status = serde_json::json!({
        "name": admin.name,
        "cluster_id": admin.cluster.to_string(),
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
    });
    ([(header::CONTENT_TYPE, "application/json")], format!("{status}\n")).into_response()
}
