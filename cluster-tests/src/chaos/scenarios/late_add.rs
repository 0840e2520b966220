//! A follower that was to enter the ISR restarts while that is being decided, and then the leader dies (KIP-903).

use std::time::Duration;

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "late-add",
    rank: 10,
    about: "what a leader proposes is held on its way, its follower is bounced, the proposal comes, the leader dies",
    setup: |setup| {
        setup.nodes = 3;
        setup.plan(&["cut", "kill"]);
        setup.expect.leader_change = true;
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    while arena.goes_on()? {
        let raft = arena.raft_leader().await;
        let (leader, follower) = ((raft + 1) % 3, (raft + 2) % 3);
        arena.kill(follower)?;
        arena.pass_some(Duration::from_millis(200), Duration::from_millis(1_500)).await;
        arena.start(follower)?;
        // It copies what it lacks, and is proposed for the ISR: held, not lost.
        arena.pass_some(Duration::from_millis(50), Duration::from_millis(700)).await;
        arena.cut(leader, raft);
        arena.pass_some(Duration::from_millis(100), Duration::from_millis(700)).await;
        arena.kill(follower)?;
        arena.start(follower)?;
        arena.mend_network()?;
        arena.pass_some(Duration::from_millis(0), Duration::from_millis(300)).await;
        arena.kill(leader)?;
        arena.start(leader)?;
        arena.until_full(Duration::from_secs(60)).await?;
        arena.pass_some(Duration::from_secs(2), Duration::from_secs(4)).await;
    }
    let refused = arena.came_too_late();
    arena.verdict.rule("changes of an ISR that came too late, refused: some", refused, refused > 0);
    Ok(())
}
