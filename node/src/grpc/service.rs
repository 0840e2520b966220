//! Which call goes where.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::Service;
use tonic::service::Routes;
use tower_service::Service as _;

use super::body::ServerBody;
use super::push::{PushStream, push};
use super::status::not_grpc;
use super::subscribe::Subscribe;
use super::topology::Topology;
use crate::worker::{ConnectionId, Worker};

/// Serves the calls of one connection.
#[derive(Clone)]
pub(crate) struct ClientService {
    pub(crate) worker: Rc<Worker>,
    pub(crate) connection: ConnectionId,
    /// Health, reflection, and the answer to unknown methods.
    pub(crate) routes: Routes,
}

impl Service<Request<Incoming>> for ClientService {
    type Response = Response<ServerBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ServerBody>, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if request.method() != Method::POST {
            return ready(not_grpc(StatusCode::METHOD_NOT_ALLOWED));
        }
        if !is_grpc(&request) {
            return ready(not_grpc(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let worker = self.worker.clone();
        match request.uri().path() {
            "/broky.v1.Broker/Push" => Box::pin(async { Ok(push(worker, request.into_body()).await) }),
            "/broky.v1.Broker/PushStream" => ready(PushStream::response(worker, request.into_body())),
            "/broky.v1.Broker/Subscribe" => ready(Subscribe::response(worker, self.connection, request.into_body())),
            "/broky.v1.Broker/Topology" => ready(Topology::response(worker, request.into_body())),
            _ => {
                let mut routes = self.routes.clone();
                Box::pin(async move {
                    let Ok(response) = routes.call(request.map(tonic::body::Body::new)).await;
                    Ok(response.map(ServerBody::Tonic))
                })
            }
        }
    }
}

fn ready(response: Response<ServerBody>) -> Pin<Box<dyn Future<Output = Result<Response<ServerBody>, Infallible>>>> {
    Box::pin(std::future::ready(Ok(response)))
}

/// `application/grpc`, alone or with a subtype or parameters.
fn is_grpc(request: &Request<Incoming>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    match content_type.and_then(|value| value.strip_prefix(b"application/grpc")) {
        Some([]) | Some([b'+' | b';', ..]) => true,
        Some(_) | None => false,
    }
}
