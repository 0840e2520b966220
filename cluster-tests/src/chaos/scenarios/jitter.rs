//! A network that is bad but not broken: nobody is to be taken for dead, and ISRs are to stand still.

use std::time::Duration;

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;
use crate::proxy::{Faults, TcpFaults, UdpFaults};

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "jitter",
    rank: 13,
    about: "40 ms and 20 ms more or less on all links, one chunk in 5,000 stalls, 2 % of gossip is lost; then ten times that",
    setup: |setup| {
        setup.plan(&["bad network", "very bad network"]);
        setup.rate_per_second = 1_000;
    },
    run: |arena| Box::pin(run(arena)),
};

fn bad(share: f64) -> Faults {
    let (delay, jitter) = (Duration::from_millis(40), Duration::from_millis(20));
    Faults {
        tcp: TcpFaults { delay, jitter, stall: share / 100.0, ..TcpFaults::default() },
        udp: UdpFaults { delay, jitter, loss: share, duplication: share, reorder: share, ..UdpFaults::default() },
    }
}

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    arena.degrade("bad network", bad(0.02));
    let before = arena.map().await?;
    arena.pass(arena.setup.faults_for / 2).await;
    let after = arena.map().await?;
    let moved = after.vbuckets().filter(|(id, vb)| before.vbucket(*id).is_none_or(|old| old.epoch != vb.epoch)).count();
    arena.verdict.rule("vbuckets that changed their leader while 2 % was lost", moved, moved == 0);
    arena.degrade("very bad network", bad(0.2));
    arena.pass(arena.setup.faults_for / 2).await;
    Ok(())
}
