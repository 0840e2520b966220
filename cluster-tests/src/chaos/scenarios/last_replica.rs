//! A leader's followers are cut off one by one, it is pushed to all the same, and then it dies.

use std::time::Duration;

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "last",
    rank: 9,
    about: "the followers of the busiest node are cut off one by one, then it is killed and they return; nothing acked is lost",
    setup: |setup| {
        setup.plan(&["cut", "kill"]);
        setup.expect.leader_change = true;
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    while arena.goes_on()? {
        let at = arena.busiest().await?;
        for other in (0..3).filter(|other| *other != at).collect::<Vec<_>>() {
            arena.sever(at, other);
            arena.pass_some(Duration::from_millis(300), Duration::from_secs(2)).await;
        }
        arena.kill(at)?;
        arena.pass_some(Duration::from_millis(0), Duration::from_secs(1)).await;
        arena.mend_network()?;
        arena.pass_some(Duration::from_millis(0), Duration::from_secs(2)).await;
        arena.start(at)?;
        arena.until_full(Duration::from_secs(60)).await?;
        arena.pass_some(Duration::from_secs(4), Duration::from_secs(6)).await;
    }
    Ok(())
}
