//! A process is killed and started again at once, faster than most would notice that it was gone.

use std::time::Duration;

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "bounce",
    rank: 1,
    about: "kill -9 of any node, restarted at once; interruption p99 <= 1.5 s, full ISR <= 10 s after the last",
    setup: |setup| {
        setup.plan(&["kill"]);
        setup.expect.leader_change = true;
        setup.interruption_p99_max = Some(Duration::from_millis(1_500));
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    while arena.goes_on()? {
        let at = arena.any();
        arena.kill(at)?;
        arena.start(at)?;
        arena.pass_some(Duration::from_secs(10), Duration::from_secs(20)).await;
    }
    let at = arena.busiest().await?;
    arena.kill(at)?;
    arena.start(at)?;
    let took = arena.until_full(Duration::from_secs(60)).await?;
    arena.within("full ISR after the last kill", &mut [took], Duration::from_secs(10));
    Ok(())
}
