//! Those who know and those who do not take turns: the steps by which another broker lost what it had acknowledged
//! (nats-server #7567), when a node that came back empty helped to elect another that lacked the newest.

use std::time::Duration;

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "turns",
    rank: 4,
    about: "five nodes: two pause, a third is killed and restarted, one goes on, two others pause; nothing acked is lost",
    setup: |setup| {
        setup.nodes = 5;
        setup.plan(&["pause", "kill"]);
        setup.expect.leader_change = true;
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    while arena.goes_on()? {
        let first = arena.below(5);
        let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|step| (first + step) % 5);
        arena.pause(a)?;
        arena.pause(b)?;
        arena.pass_some(Duration::from_secs(2), Duration::from_secs(4)).await;
        arena.kill(c)?;
        arena.pass_some(Duration::from_millis(0), Duration::from_secs(1)).await;
        arena.start(c)?;
        arena.pass_some(Duration::from_millis(100), Duration::from_secs(2)).await;
        arena.resume(a)?;
        arena.pause(d)?;
        arena.pause(e)?;
        arena.pass_some(Duration::from_secs(3), Duration::from_secs(6)).await;
        [b, d, e].into_iter().try_for_each(|at| arena.resume(at))?;
        arena.until_full(Duration::from_secs(90)).await?;
        arena.pass_some(Duration::from_secs(3), Duration::from_secs(5)).await;
    }
    Ok(())
}
