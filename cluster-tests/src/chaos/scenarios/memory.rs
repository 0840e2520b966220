//! More is pushed than the memory holds, by clients that push as fast as they are let, while nodes die.

use std::time::Duration;

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;

/// Beyond its budget for messages a node may take this much.
const BESIDE_BYTES: u64 = 160 << 20;
const BUDGET_BYTES: u64 = 64 << 20;

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "memory",
    rank: 16,
    about: "a memory of 64 MiB under all the load there can be; resident memory stays bounded, evictions are told",
    setup: |setup| {
        setup.plan(&["kill"]);
        setup.memory = "64MiB".to_owned();
        setup.payload_bytes = 8_192;
        setup.rate_per_second = 12_000;
        setup.slow = 2;
        setup.readers = 2;
        setup.expect.evictions = true;
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    let mut most = 0;
    let mut turn = 0;
    while arena.goes_on()? {
        arena.pass(Duration::from_secs(1)).await;
        for (_, node) in arena.cluster.running() {
            most = most.max(node.resident_bytes().unwrap_or_default());
        }
        turn += 1;
        if turn % 15 == 10 {
            let at = arena.any();
            arena.kill(at)?;
            arena.start(at)?;
        }
    }
    let limit = BUDGET_BYTES + BESIDE_BYTES;
    arena.verdict.rule(format!("resident memory of a node <= {} MiB", limit >> 20), most >> 20, most <= limit);
    Ok(())
}
