//! `sub --format json`.

use broky_client::{Client, Message};
use serde_json::{Value, json};

use crate::node::ServedNode;

/// Pushes a message from a program and gives what `sub` writes for it.
fn written(message: Message) -> Value {
    let node = ServedNode::start();
    let reader = node.subscribe(&["--format", "json", "--count", "1"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect([node.address.as_str()]).await.unwrap();
        client.push(&[message]).await.unwrap()[0].as_ref().unwrap();
        client.close().await;
    });
    let out = reader.wait().with_code(0).stdout;
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
    node.stop();
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn every_field_is_written() {
    let message = Message::new("a key", "a payload")
        .key_partition("a partition")
        .header("name", "value")
        .uid([7; 20])
        .ts_producer(-5)
        .retain(true)
        .ttl_ms(9);
    let mut written = written(message);
    let mut take = |name: &str| written.as_object_mut().unwrap().remove(name).unwrap();
    let (ts_broker, vbucket, epoch, uid) = (take("ts_broker"), take("vbucket"), take("epoch"), take("uid"));
    assert!(ts_broker.as_i64().unwrap() > 1_700_000_000_000_000_000, "{ts_broker}");
    assert!(vbucket.as_u64().unwrap() < 1024, "{vbucket}");
    assert!(epoch.as_u64().unwrap() > 0, "{epoch}");
    assert_eq!(uid.as_str().unwrap().len(), 27, "a KSUID in its own alphabet: {uid}");
    assert_eq!(
        written,
        json!({
            "key": "a key",
            "key_partition": "a partition",
            "payload": "a payload",
            "headers": {"name": "value"},
            "ts_producer": -5,
            "retain": true,
            "ttl_ms": 9,
            "crc32": 0x6734_232e_u32,
            "offset": 0,
            "base64": [],
        })
    );
}

#[test]
fn bytes_that_are_no_text_are_in_base64_and_listed() {
    let message = Message::new(&b"\xff"[..], &b"\x00\xfe"[..]).header("text", "x").header("bytes", &b"\x80"[..]);
    let written = written(message);
    assert_eq!(written["key"], "/w==");
    assert_eq!(written["payload"], "AP4=");
    assert_eq!(written["key_partition"], "");
    assert_eq!(written["uid"], Value::Null);
    assert_eq!(written["headers"], json!({"text": "x", "bytes": "gA=="}));
    assert_eq!(written["base64"], json!(["key", "payload", "headers.bytes"]));
}
