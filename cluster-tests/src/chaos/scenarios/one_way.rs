//! A node is heard and does not hear, or hears and is not heard: by its followers, not by whoever leads the raft group.

use std::time::Duration;

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "one-way",
    rank: 6,
    about: "of five nodes, what a leader sends to two others is lost, or what they send to it; the lead moves <= 5 s",
    setup: |setup| {
        setup.nodes = 5;
        setup.plan(&["cut"]);
        setup.expect.leader_change = true;
        setup.interruption_p99_max = Some(Duration::from_secs(5));
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    let mut turn = 0;
    while arena.goes_on()? {
        let spared = arena.raft_leader().await;
        let at = (spared + 1 + arena.below(4)) % 5;
        let others: Vec<usize> = (0..5).filter(|other| *other != at && *other != spared).take(2).collect();
        for other in others {
            if turn % 2 == 0 { arena.cut(at, other) } else { arena.cut(other, at) }
        }
        arena.pass_some(Duration::from_secs(8), Duration::from_secs(12)).await;
        arena.mend_network()?;
        arena.until_full(Duration::from_secs(60)).await?;
        arena.pass_some(Duration::from_secs(2), Duration::from_secs(4)).await;
        turn += 1;
    }
    Ok(())
}
