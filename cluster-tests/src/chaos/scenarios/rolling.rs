//! One node after the other is restarted: first emptied by `broky drain`, then in another round as it is.

use std::time::Duration;

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;

const LIMIT: Duration = Duration::from_secs(60);

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "rolling",
    rank: 11,
    about: "restarts of one node after the other, with drain and SIGTERM and without; interruption p99 <= 1.5 s",
    setup: |setup| {
        setup.plan(&["drain", "stop"]);
        setup.expect.leader_change = true;
        setup.interruption_p99_max = Some(Duration::from_millis(1_500));
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    let mut turn = 0;
    while arena.goes_on()? {
        let at = turn % arena.setup.nodes;
        if (turn / arena.setup.nodes).is_multiple_of(2) {
            arena.drain(at, LIMIT).await?;
        }
        arena.stop(at).await?;
        arena.pass_some(Duration::from_millis(100), Duration::from_secs(2)).await;
        arena.start(at)?;
        arena.until_full(LIMIT).await?;
        turn += 1;
    }
    Ok(())
}
