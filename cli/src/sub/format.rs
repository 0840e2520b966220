//! How a message is written.

use std::borrow::Cow;
use std::collections::BTreeMap;
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

/// Every field of a message. Bytes that are not UTF-8 are in base64, and `base64` names the fields for which that
/// holds.
#[derive(Serialize)]
struct Json<'a> {
    key: Cow<'a, str>,
    key_partition: Cow<'a, str>,
    payload: Cow<'a, str>,
    headers: BTreeMap<String, String>,
    uid: Option<String>,
    ts_producer: i64,
    retain: bool,
    ttl_ms: u32,
    crc32: u32,
    ts_broker: i64,
    epoch: u64,
    vbucket: u16,
    offset: u64,
    base64: Vec<String>,
}

impl<'a> Json<'a> {
    fn new(message: &MessageView<'a>) -> Self {
        let mut base64 = Vec::new();
        let mut text = |name: &str, bytes: &'a [u8]| match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => {
                base64.push(name.to_owned());
                Cow::Owned(STANDARD.encode(bytes))
            }
        };
        let (key, key_partition) = (text("key", message.key()), text("key_partition", message.key_partition()));
        let payload = text("payload", message.payload());
        let headers = message.headers().into_iter().map(|(name, value)| {
            let value = String::from_utf8(value.to_vec()).unwrap_or_else(|_| {
                base64.push(format!("headers.{name}"));
                STANDARD.encode(&value)
            });
            (name, value)
        });
        Self {
            key,
            key_partition,
            payload,
            headers: headers.collect(),
            uid: message.uid().map(|uid| Ksuid::from_bytes(uid).to_string()),
            ts_producer: message.ts_producer(),
            retain: message.retain(),
            ttl_ms: message.ttl_ms(),
            crc32: message.crc32(),
            ts_broker: message.ts_broker(),
            epoch: message.epoch().0,
            vbucket: message.vbucket().0,
            offset: message.offset().0,
            base64,
        }
    }
}
