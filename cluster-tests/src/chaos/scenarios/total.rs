//! Two of three die, then the third, and all return: what was only in memory is gone, and everybody is told.

use std::time::{Duration, Instant};

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "total",
    rank: 8,
    about: "two of three are killed, then the third, and all restarted; every subscriber is told, service back <= 10 s",
    setup: |setup| {
        setup.plan(&["kill"]);
        setup.is_durable = true;
        setup.expect.total_loss = true;
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    let mut returns = Vec::new();
    while arena.goes_on()? {
        let survivor = arena.any();
        let others: Vec<usize> = (0..arena.setup.nodes).filter(|at| *at != survivor).collect();
        arena.kill_together(&others)?;
        arena.pass_some(Duration::from_millis(100), Duration::from_secs(2)).await;
        arena.kill(survivor)?;
        let since = Instant::now();
        (0..arena.setup.nodes).try_for_each(|at| arena.start(at))?;
        arena.until_served(Duration::from_secs(60)).await?;
        returns.push(since.elapsed());
        arena.until_full(Duration::from_secs(60)).await?;
        arena.pass_some(Duration::from_secs(5), Duration::from_secs(8)).await;
    }
    arena.within("every vbucket takes pushes after the restart", &mut returns, Duration::from_secs(10));
    Ok(())
}
