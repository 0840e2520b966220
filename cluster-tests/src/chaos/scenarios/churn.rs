//! Nodes come and go under load, and the one that copies are moved to or from dies in the middle.

use std::time::Duration;

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;

const LIMIT: Duration = Duration::from_secs(90);

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "churn",
    rank: 12,
    about: "a node joins, a node is killed while copies move, the newcomer is drained and leaves; whole again <= 30 s",
    setup: |setup| {
        setup.plan(&["join", "kill", "drain"]);
        setup.expect.leader_change = true;
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    let mut moves = Vec::new();
    while arena.goes_on()? {
        let newcomer = arena.join()?;
        arena.pass_some(Duration::from_millis(500), Duration::from_secs(3)).await;
        let victim = arena.any();
        arena.kill(victim)?;
        arena.start(victim)?;
        moves.push(arena.until_settled(LIMIT).await?);
        arena.drain(newcomer, LIMIT).await?;
        arena.leave(newcomer).await?;
        arena.until_settled(LIMIT).await?;
    }
    arena.within("all copies where they belong after a join and a kill", &mut moves, LIMIT / 2);
    Ok(())
}
