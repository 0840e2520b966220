//! How a call ends: gRPC status, message and broky's stable code, as trailers or as headers.

use broky_proto::error::{CODE_METADATA, Refusal, Status};
use broky_proto::frame::FrameError;
use broky_proto::v1::ErrorCode;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::body::ServerBody;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Trailers of a call that went well.
pub(crate) fn ok_trailers() -> HeaderMap {
    HeaderMap::from_iter([(header::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))])
}

/// Trailers of a call that was refused.
pub(crate) fn refusal_trailers(refusal: &Refusal) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(3);
    set_refusal(&mut trailers, refusal);
    trailers
}

fn set_refusal(headers: &mut HeaderMap, refusal: &Refusal) {
    let status = match refusal.code {
        // The gRPC specification asks for this status where a compression is not supported.
        ErrorCode::Malformed if refusal.reason.starts_with("compression") => Status::Unimplemented,
        code => code.status(),
    };
    headers.insert("grpc-status", HeaderValue::from(status as u16));
    let message = percent_encode(&refusal.to_string());
    headers.insert("grpc-message", HeaderValue::from_str(&message).unwrap_or(HeaderValue::from_static("error")));
    headers.insert(CODE_METADATA, HeaderValue::from_static(refusal.code.name()));
}

/// The head of a streaming or unary response.
pub(crate) fn respond(body: ServerBody) -> Response<ServerBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    response
}

/// A whole response that only says why the call was refused.
pub(crate) fn refuse(refusal: &Refusal) -> Response<ServerBody> {
    let mut response = respond(ServerBody::Empty);
    set_refusal(response.headers_mut(), refusal);
    response
}

/// A response to something that is not a gRPC call.
pub(crate) fn not_grpc(status: StatusCode) -> Response<ServerBody> {
    let mut response = Response::new(ServerBody::Empty);
    *response.status_mut() = status;
    response
}

/// The refusal of a body that is not a sequence of messages.
pub(crate) fn framing(error: FrameError, too_large: ErrorCode) -> Refusal {
    let code = match error {
        FrameError::TooLarge { .. } => too_large,
        FrameError::Compressed(_) | FrameError::Truncated(_) => ErrorCode::Malformed,
    };
    Refusal::new(code, error.to_string())
}

/// Percent-encoding as the gRPC specification defines it: printable ASCII but `%` stays.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_survives_percent_encoding() {
        assert_eq!(percent_encode("50 % of ü\n"), "50 %25 of %C3%BC%0A");
    }
}
