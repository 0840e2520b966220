//! Connections of the fake broker.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use broky_proto::frame::Deframer;
use broky_proto::v1::{self, ErrorCode};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::futures::OwnedNotified;
use tokio::sync::mpsc;

use super::{Broker, push, subscribe};

pub(crate) async fn accept(broker: Broker, listener: TcpListener) {
    while let Ok((socket, _)) = listener.accept().await {
        broker.lock().connections += 1;
        broker.touch();
        // From now on a cut meets it.
        let cut = std::sync::Arc::clone(&broker.cut).notified_owned();
        tokio::spawn(connection(broker.clone(), socket, cut));
    }
}

async fn connection(broker: Broker, socket: TcpStream, cut: OwnedNotified) {
    socket.set_nodelay(true).unwrap();
    let service = service_fn(move |request| call(broker.clone(), request));
    let serving = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(1 << 20)
        .serve_connection(TokioIo::new(socket), service);
    tokio::select! {
        _ = serving => {}
        () = cut => {}
    }
}

async fn call(broker: Broker, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    let (sender, receiver) = mpsc::channel(64);
    let answer = Sender(sender);
    broker.gate().await;
    let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let requests = Requests { body: request.into_body(), deframer: Deframer::new(8 << 20) };
    match method.as_str() {
        "PushStream" | "Push" => drop(tokio::spawn(push::serve(broker, requests, answer))),
        "Subscribe" => drop(tokio::spawn(subscribe::serve(broker, requests, answer))),
        "Topology" => drop(tokio::spawn(topology(broker, answer))),
        _ => answer.end(ErrorCode::Unimplemented, "no such method").await,
    }
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(Answer(receiver)).unwrap())
}

async fn topology(broker: Broker, answer: Sender) {
    broker.lock().maps_asked_at[broker.place] += 1;
    broker.touch();
    let mut changed = broker.changed.subscribe();
    let mut told = None;
    loop {
        broker.gate().await;
        let response = map(&broker);
        let version = Some((response.cluster_id.clone(), response.map_version));
        if told != version {
            told = version;
            answer.send(broky_proto::frame::encode(&response)).await;
        }
        tokio::select! {
            changed = changed.changed() => changed.unwrap(),
            () = answer.0.closed() => return,
        }
    }
}

fn map(broker: &Broker) -> v1::TopologyResponse {
    let state = broker.lock();
    let node = |address: &String| v1::TopologyNode {
        name: address.clone(),
        incarnation: 1,
        address: address.clone(),
        zone: String::new(),
    };
    v1::TopologyResponse {
        cluster_id: state.cluster_id.to_vec().into(),
        map_version: state.map_version,
        vbuckets: super::log::VBUCKETS,
        nodes: state.nodes.iter().map(node).collect(),
        leaders: state.leaders.iter().map(|leader| leader.map_or(0, |at| u32::try_from(at + 1).unwrap())).collect(),
        epochs: vec![super::log::EPOCH; 4],
        groups: Vec::new(),
    }
}

/// Requests of a call.
pub(crate) struct Requests {
    body: Incoming,
    deframer: Deframer,
}

impl Requests {
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(message) = self.deframer.next_message().unwrap() {
                return Some(message);
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(chunk) = frame.into_data() {
                self.deframer.push(chunk);
            }
        }
    }
}

/// Where answers go.
pub(crate) struct Sender(mpsc::Sender<Frame<Bytes>>);

impl Sender {
    pub(crate) async fn send(&self, framed: Bytes) -> bool {
        self.0.send(Frame::data(framed)).await.is_ok()
    }

    pub(crate) async fn end(&self, code: ErrorCode, message: &'static str) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(code.status() as u16));
        trailers.insert("grpc-message", HeaderValue::from_static(message));
        trailers.insert("broky-code", HeaderValue::from_static(code.name()));
        let _ = self.0.send(Frame::trailers(trailers)).await;
    }

    pub(crate) async fn end_well(&self) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let _ = self.0.send(Frame::trailers(trailers)).await;
    }

    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }
}

struct Answer(mpsc::Receiver<Frame<Bytes>>);

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}
