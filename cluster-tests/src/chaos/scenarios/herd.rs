//! Very many subscribers at one node, which dies: all of them go on elsewhere at the same moment.

use std::time::Duration;

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "herd",
    rank: 15,
    about: "a thousand subscribers, and the node that most are at is killed; all resume, nothing is missed",
    setup: |setup| {
        setup.plan(&["kill"]);
        setup.rate_per_second = 500;
        setup.producers = 2;
        setup.herd = 1_000;
        setup.bounds.caught_up_within = Duration::from_secs(10);
        setup.min_acked_during_faults = 500;
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    while arena.goes_on()? {
        arena.kill(0)?;
        arena.pass_some(Duration::from_secs(2), Duration::from_secs(4)).await;
        arena.start(0)?;
        arena.until_full(Duration::from_secs(60)).await?;
        arena.pass_some(Duration::from_secs(8), Duration::from_secs(12)).await;
    }
    Ok(())
}
