//! Majorities that overlap: each node reaches some others, a majority even, and no two of them the same.

use std::time::{Duration, Instant};

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;

/// Until every vbucket takes pushes again.
const PROGRESS_LIMIT: Duration = Duration::from_secs(10);

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "overlap",
    rank: 7,
    about: "five nodes in a ring of which each reaches its neighbours only, or in two halves with one node between; every \
        vbucket takes pushes within 10 s",
    setup: |setup| {
        setup.nodes = 5;
        setup.plan(&["cut"]);
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    let (mut turn, mut standstills) = (0, Vec::new());
    while arena.goes_on()? {
        for (one, other) in (0..5_usize).flat_map(|one| (one + 1..5).map(move |other| (one, other))) {
            let is_apart = if turn % 2 == 0 {
                // A ring.
                !matches!(other - one, 1 | 4)
            } else {
                // Node 2 is the bridge between 0, 1 and 3, 4.
                one < 2 && other > 2
            };
            if is_apart {
                arena.sever(one, other);
            }
        }
        let since = Instant::now();
        // Any three of them hold two that reach each other: every vbucket can have its two copies.
        arena.until_served(Duration::from_secs(60)).await?;
        standstills.push(since.elapsed());
        let time = Duration::from_secs(60).min(arena.setup.faults_for / 3);
        arena.pass(time.saturating_sub(since.elapsed())).await;
        arena.mend_network()?;
        arena.until_full(Duration::from_secs(60)).await?;
        arena.pass_some(Duration::from_secs(3), Duration::from_secs(5)).await;
        turn += 1;
    }
    arena.within("every vbucket takes pushes", &mut standstills, PROGRESS_LIMIT);
    Ok(())
}
