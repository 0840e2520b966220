//! A leader dies when its followers have what was pushed, and their acknowledgements have not come to it.

use std::time::Duration;

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;
use crate::proxy::Faults;

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "between",
    rank: 2,
    about: "kill -9 of the busiest node while acknowledgements of its followers are on their way; nothing twice, nothing lost",
    setup: |setup| {
        setup.plan(&["late acknowledgements", "kill"]);
        setup.expect.leader_change = true;
        setup.interruption_p99_max = Some(Duration::from_secs(3));
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    let mut met = Vec::new();
    while arena.goes_on()? {
        let at = arena.busiest().await?;
        let before = arena.map().await?;
        for other in (0..3).filter(|other| *other != at).collect::<Vec<_>>() {
            let late = Faults::delayed(Duration::from_millis(300), Duration::ZERO);
            arena.disturb("late acknowledgements", (other, at), late);
        }
        arena.pass_some(Duration::from_millis(100), Duration::from_millis(290)).await;
        let killed = arena.now();
        arena.kill(at)?;
        arena.mend_network()?;
        arena.pass_some(Duration::from_millis(0), Duration::from_secs(2)).await;
        arena.start(at)?;
        arena.until_full(Duration::from_secs(60)).await?;
        arena.pass_some(Duration::from_secs(1), Duration::from_secs(3)).await;
        met.push(arena.outlived(at, killed, &before)?);
    }
    // On a busy machine nothing may be on its way in that very moment.
    let in_time = met.iter().filter(|messages| **messages > 0).count();
    let what = "kills with messages that followers held and nobody had acknowledged: nine of ten";
    arena.verdict.rule(what, format!("{met:?}"), in_time > 0 && in_time * 10 >= met.len() * 9);
    Ok(())
}
