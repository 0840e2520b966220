//! The folder of a node's control log is damaged while it is down: it must say so and stay away, or come as a new one.

use std::time::Duration;

use crate::chaos::{Arena, Damage, Scenario};
use crate::error::HarnessError;

const LIMIT: Duration = Duration::from_secs(60);

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "disk",
    rank: 18,
    about: "a control log is flipped a bit, cut short, or deleted while its node is down, and a leader dies meanwhile",
    setup: |setup| {
        setup.plan(&["kill", "bit flip on disk", "log cut short", "folder deleted"]);
        setup.is_durable = true;
        setup.expect.leader_change = true;
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    let mut kinds = [Damage::BitFlip, Damage::CutShort, Damage::Deleted].into_iter().cycle();
    let (mut turn, mut refused) = (0, 0);
    while arena.goes_on()? || turn < 3 {
        let at = arena.any();
        arena.until_logged(at, LIMIT).await?;
        arena.kill(at)?;
        let damage = kinds.next().unwrap_or(Damage::Deleted);
        arena.damage(at, damage)?;
        if arena.start_or_refused(at, LIMIT).await? {
            refused += 1;
            arena.damage(at, Damage::Deleted)?;
            arena.start(at)?;
        }
        arena.until_full(LIMIT).await?;
        let leader = arena.busiest().await?;
        arena.kill(leader)?;
        arena.start(leader)?;
        arena.until_full(LIMIT).await?;
        turn += 1;
    }
    arena.verdict.figure("damaged folders that were refused", format!("{refused} of {turn}"));
    Ok(())
}
