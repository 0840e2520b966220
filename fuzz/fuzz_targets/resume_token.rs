//! Resume tokens: whatever decodes encodes to a token that means the same.

#![no_main]

use broky_proto::resume::{decode_token, encode_token};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(data);
    // The same with a head and a checksum that are right, which a fuzzer does not find by itself.
    let mut token = b"BRT\x01".to_vec();
    token.extend_from_slice(data);
    let crc = crc32fast::hash(&token);
    token.extend_from_slice(&crc.to_le_bytes());
    check(&token);
});

fn check(token: &[u8]) {
    let Ok(resume) = decode_token(token) else { return };
    assert_eq!(resume.cluster_id.len(), 16);
    assert_eq!(decode_token(&encode_token(&resume)), Ok(resume));
}
