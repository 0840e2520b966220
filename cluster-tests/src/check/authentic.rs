//! I3: what is delivered was pushed in this run, as it was pushed.
//!
//! Readers compute the checksums anew from what they get, and compare nothing themselves; here they are compared with
//! those of the push. A message that carries no stamp at all was found when it was taken in.

use super::finding::{Finding, Findings};
use super::kind::Kind;
use super::messages::{Message, about};

pub(super) fn judge(message: &Message<'_>, findings: &mut Findings) {
    let id = message.id;
    for (at, origin, sighting) in message.sightings() {
        let Some((_, _, pushed)) = message.invoked else {
            findings.add(Kind::Phantom, at, || {
                let what = format!("message {id}, which nobody pushed, at {}", sighting.spot);
                Finding::new(Kind::Phantom, at, what).with("delivered", origin)
            });
            continue;
        };
        if (pushed.crc32, pushed.hash64) != (sighting.crc32, sighting.hash64) {
            findings.add(Kind::Corrupt, at, || {
                let what = format!(
                    "message {id} at {}: crc32 {} and hash {}, pushed with {} and {} ({} bytes)",
                    sighting.spot, sighting.crc32, sighting.hash64, pushed.crc32, pushed.hash64, pushed.len
                );
                about(Kind::Corrupt, at, what, message).with("delivered", origin)
            });
        }
    }
}
