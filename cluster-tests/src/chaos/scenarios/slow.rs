//! Readers that cannot keep up, beside others: they are told what they miss, and cost nobody anything.

use std::time::Duration;

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "slow",
    rank: 14,
    about: "a third of the subscribers read far slower than is pushed, through a small memory, and a node dies",
    setup: |setup| {
        setup.plan(&["kill"]);
        setup.slow = 3;
        setup.memory = "32MiB".to_owned();
        setup.payload_bytes = 4_096;
        setup.expect.evictions = true;
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    while arena.goes_on()? {
        arena.pass_some(Duration::from_secs(8), Duration::from_secs(12)).await;
        let at = arena.any();
        arena.kill(at)?;
        arena.pass_some(Duration::from_secs(1), Duration::from_secs(3)).await;
        arena.start(at)?;
        arena.until_full(Duration::from_secs(60)).await?;
    }
    Ok(())
}
