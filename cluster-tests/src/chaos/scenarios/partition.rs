//! The network falls into two parts: one node alone, which may lead much, or even the raft group, and the others.

use std::time::Duration;

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "partition",
    rank: 5,
    about: "the busiest node, or the raft leader, is cut off from the others; interruption p99 <= 3 s, whole again <= 5 s",
    setup: |setup| {
        setup.plan(&["cut"]);
        setup.expect.leader_change = true;
        setup.interruption_p99_max = Some(Duration::from_secs(3));
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    let (mut turn, mut healed) = (0, Vec::new());
    while arena.goes_on()? {
        let at = if turn % 2 == 0 { arena.busiest().await? } else { arena.raft_leader().await };
        arena.isolate(at)?;
        let time = Duration::from_secs(30).min(arena.setup.faults_for / 4);
        arena.pass(time).await;
        arena.mend_network()?;
        healed.push(arena.until_full(Duration::from_secs(60)).await?);
        arena.pass_some(Duration::from_secs(3), Duration::from_secs(6)).await;
        turn += 1;
    }
    arena.within("full ISR after the network is whole", &mut healed, Duration::from_secs(10));
    Ok(())
}
