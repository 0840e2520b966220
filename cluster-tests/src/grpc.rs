//! gRPC over HTTP/2 by hand: any method, any bytes, any order, and nothing retried.

use std::net::SocketAddr;

use broky_proto::error::CODE_METADATA;
use broky_proto::frame::{Deframer, encode};
use broky_proto::v1::ErrorCode;
use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, StatusCode};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::wait::in_time;

/// More than any answer here.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What h2 may keep of small frames that were not read yet: as good as no limit.
const SMALL_FRAMES_BUDGET: usize = 1 << 30;

/// One HTTP/2 connection.
#[derive(Debug)]
pub struct Connection {
    send: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

impl Connection {
    /// Connects, with HTTP/2's default settings.
    pub async fn open(address: SocketAddr) -> Self {
        Self::open_with(address, &settings()).await
    }

    /// Connects, with other settings.
    ///
    /// # Panics
    /// When that fails.
    pub async fn open_with(address: SocketAddr, settings: &Builder) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self::over(stream, settings).await
    }

    /// Begins HTTP/2 on a socket that is connected.
    ///
    /// # Panics
    /// When that fails.
    pub async fn over(stream: TcpStream, settings: &Builder) -> Self {
        stream.set_nodelay(true).unwrap();
        let (send, connection) = settings.handshake(stream).await.unwrap();
        Self { send, driver: tokio::spawn(connection) }
    }

    /// Begins a call of broky's service.
    pub async fn call(&mut self, method: &str) -> Call {
        self.call_path(&format!("/broky.v1.Broker/{method}")).await
    }

    /// Begins a call of any path.
    ///
    /// # Panics
    /// When the path is none.
    pub async fn call_path(&mut self, path: &str) -> Call {
        let request = Request::post(format!("http://test{path}"));
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        self.request(request.body(()).unwrap()).await
    }

    /// Begins a call of broky's service; `None` when the node takes none on this connection any more.
    pub async fn try_call(&mut self, method: &str) -> Option<Call> {
        let request = Request::post(format!("http://test/broky.v1.Broker/{method}"));
        let request = request.header("content-type", "application/grpc").body(()).ok()?;
        let ready = in_time("the connection takes a call or ends", self.send.clone().ready()).await;
        Some(Call::new(ready.ok()?.send_request(request, false).ok()?))
    }

    /// Begins any request.
    ///
    /// # Panics
    /// When the connection is gone.
    pub async fn request(&mut self, request: Request<()>) -> Call {
        let ready = in_time("the connection takes a call", self.send.clone().ready()).await;
        Call::new(ready.unwrap().send_request(request, false).unwrap())
    }

    /// Waits until the node closes the connection.
    ///
    /// # Errors
    /// When it does so in anger.
    ///
    /// # Panics
    /// When it does not.
    pub async fn closed(self) -> Result<(), h2::Error> {
        drop(self.send);
        in_time("the connection closes", self.driver).await.unwrap()
    }
}

/// HTTP/2's default settings. However small the frames of a node's answers are, and however many wait to be read: that
/// is no reason to break the connection off.
#[must_use]
pub fn settings() -> Builder {
    let mut settings = Builder::new();
    settings.data_frame_budget(SMALL_FRAMES_BUDGET);
    settings
}

/// One call.
#[derive(Debug)]
pub struct Call {
    up: SendStream<Bytes>,
    down: Down,
    deframer: Deframer,
}

#[derive(Debug)]
enum Down {
    Waiting(ResponseFuture),
    Open(Head, RecvStream),
    Ended(End),
}

#[derive(Clone, Debug)]
struct Head {
    http: StatusCode,
    headers: HeaderMap,
}

/// How a call ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// The HTTP status.
    pub http: StatusCode,
    /// `grpc-status`; `None` when there was none.
    pub status: Option<u16>,
    /// `broky-code`.
    pub code: ErrorCode,
    /// `grpc-message`, as it was sent.
    pub words: String,
    /// With what the stream was reset instead of being ended.
    pub reset: Option<Reason>,
}

impl Call {
    fn new((response, up): (ResponseFuture, SendStream<Bytes>)) -> Self {
        Self { up, down: Down::Waiting(response), deframer: Deframer::new(ANSWER_BYTES_MAX) }
    }

    /// Sends bytes as they are. What exceeds HTTP/2's window waits for it.
    ///
    /// # Panics
    /// When the stream is closed already.
    pub fn send(&mut self, bytes: impl Into<Bytes>) {
        self.up.send_data(bytes.into(), false).unwrap();
    }

    /// As [`Call::send`], whether or not the node has ended the call already.
    pub fn try_send(&mut self, bytes: impl Into<Bytes>) {
        let _ = self.up.send_data(bytes.into(), false);
    }

    /// Sends a message.
    pub fn send_message(&mut self, message: &impl prost::Message) {
        self.send(encode(message));
    }

    /// Says that nothing more is sent.
    pub fn half_close(&mut self) {
        // The node may have ended the call.
        let _ = self.up.send_data(Bytes::new(), true);
    }

    /// Resets the stream.
    pub fn cancel(mut self) {
        self.up.send_reset(Reason::CANCEL);
    }

    /// Waits for the head of the response.
    pub async fn answered(&mut self) {
        if let Down::Waiting(response) = &mut self.down {
            self.down = match in_time("the call is answered", response).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    Down::Open(Head { http: head.status, headers: head.headers }, body)
                }
                Err(error) => Down::Ended(End::reset(StatusCode::default(), &error)),
            };
        }
    }

    /// The next message, or how the call ended.
    ///
    /// # Errors
    /// How the call ended.
    pub async fn next<M: prost::Message + Default>(&mut self) -> Result<M, End> {
        self.next_bytes().await.map(|bytes| M::decode(bytes).unwrap())
    }

    /// The next message's bytes, or how the call ended.
    ///
    /// # Errors
    /// How the call ended.
    ///
    /// # Panics
    /// When neither comes.
    pub async fn next_bytes(&mut self) -> Result<Bytes, End> {
        self.answered().await;
        loop {
            if let Some(message) = self.deframer.next_message().unwrap() {
                return Ok(message);
            }
            let (head, body) = match &mut self.down {
                Down::Open(head, body) => (head, body),
                Down::Ended(end) => return Err(end.clone()),
                Down::Waiting(_) => unreachable!("the call was answered"),
            };
            match in_time("the call goes on", body.data()).await {
                Some(Ok(data)) => {
                    body.flow_control().release_capacity(data.len()).unwrap();
                    self.deframer.push(data);
                }
                Some(Err(error)) => self.down = Down::Ended(End::reset(head.http, &error)),
                None => {
                    let trailers = in_time("the call ends", body.trailers()).await.unwrap();
                    self.down = Down::Ended(End::told(head.http, trailers.as_ref().unwrap_or(&head.headers)));
                }
            }
        }
    }

    /// How the call ended, after no more messages.
    ///
    /// # Panics
    /// When another message comes.
    pub async fn end(&mut self) -> End {
        match self.next_bytes().await {
            Ok(message) => panic!("another message of {} bytes", message.len()),
            Err(end) => end,
        }
    }
}

impl End {
    fn told(http: StatusCode, headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap());
        Self {
            http,
            status: text("grpc-status").map(|status| status.parse().unwrap()),
            code: text(CODE_METADATA).map(ErrorCode::from_name).unwrap_or_default(),
            words: text("grpc-message").unwrap_or_default().to_owned(),
            reset: None,
        }
    }

    fn reset(http: StatusCode, error: &h2::Error) -> Self {
        let reset = Some(error.reason().unwrap_or(Reason::INTERNAL_ERROR));
        Self { http, status: None, code: ErrorCode::Unspecified, words: error.to_string(), reset }
    }

    /// Fails unless the call was refused with this code and the status that belongs to it, in words that contain these.
    ///
    /// # Panics
    /// Then.
    #[track_caller]
    pub fn assert_refused(&self, code: ErrorCode, words: &str) {
        assert_eq!((self.http, self.code, self.status), (StatusCode::OK, code, Some(code.status() as u16)), "{self:?}");
        assert!(self.words.contains(words), "{words:?} is not in {:?}", self.words);
    }
}
