//! How a message is written.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broky_client::MessageView;
use serde::Serialize;
use svix_ksuid::{Ksuid, KsuidLike as _};

use crate::args::Format;

/// Writes one message.
pub(super) fn write_message(out: &mut impl Write, format: Format, message: &MessageView<'_>) -> io::Result<()> {
    match format {
        Format::Payload => out.write_all(message.payload()),
        Format::Lines => {
            out.write_all(message.payload())?;
            out.write_all(b"\n")
        }
        Format::Json => {
            serde_json::to_writer(&mut *out, &Json::new(message))?;
            out.write_all(b"\n")
        }
    }
}

/// Every field of a message; bytes as base64, because any bytes may stand there.
#[derive(Serialize)]
struct Json {
    key: String,
    key_partition: String,
    payload: String,
    headers: std::collections::BTreeMap<String, String>,
    uid: Option<String>,
    ts_producer: i64,
    retain: bool,
    ttl_ms: u32,
    crc32: u32,
    ts_broker: i64,
    epoch: u64,
    vbucket: u16,
    offset: u64,
}

impl Json {
    fn new(message: &MessageView<'_>) -> Self {
        let base64 = |bytes: &[u8]| STANDARD.encode(bytes);
        Self {
            key: base64(message.key()),
            key_partition: base64(message.key_partition()),
            payload: base64(message.payload()),
            headers: message.headers().into_iter().map(|(name, value)| (name, base64(&value))).collect(),
            uid: message.uid().map(|uid| Ksuid::from_bytes(uid).to_string()),
            ts_producer: message.ts_producer(),
            retain: message.retain(),
            ttl_ms: message.ttl_ms(),
            crc32: message.crc32(),
            ts_broker: message.ts_broker(),
            epoch: message.epoch().0,
            vbucket: message.vbucket().0,
            offset: message.offset().0,
        }
    }
}
