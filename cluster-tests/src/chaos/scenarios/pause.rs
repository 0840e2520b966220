//! A leader is stopped and goes on when another has taken its place: it must not answer for what it led.

use std::time::Duration;

use crate::chaos::{Arena, Scenario};
use crate::error::HarnessError;

const PAUSES_SECONDS: [u64; 4] = [1, 5, 30, 60];

/// See the module.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "pause",
    rank: 3,
    about: "SIGSTOP of a leader for 1, 5, 30 and 60 s, SIGCONT under load; interruption p99 <= 3 s",
    setup: |setup| {
        setup.plan(&["pause"]);
        setup.expect.leader_change = true;
        setup.interruption_p99_max = Some(Duration::from_secs(3));
    },
    run: |arena| Box::pin(run(arena)),
};

async fn run(arena: &mut Arena) -> Result<(), HarnessError> {
    for (turn, seconds) in PAUSES_SECONDS.into_iter().cycle().enumerate() {
        if !arena.goes_on()? {
            break;
        }
        let at = if turn.is_multiple_of(2) { arena.busiest().await? } else { arena.raft_leader().await };
        let time = Duration::from_secs(seconds).min(arena.setup.faults_for / 3);
        arena.pause(at)?;
        arena.pass(time).await;
        arena.resume(at)?;
        arena.pass_some(Duration::from_secs(5), Duration::from_secs(8)).await;
    }
    Ok(())
}
