//! SIGSTOP of a leader for 30 s: the others take over, and what it does afterwards counts for nothing.

use std::time::Duration;

use super::stage::{SETTLED_LIMIT, Stage};
use super::{Plan, Role, Spans, name_of, role_of};
use crate::error::HarnessError;
use crate::observer::{is_full, is_settled, newest_map, until_map};
use crate::reader::Faults;
use crate::verdict::Verdict;
use crate::workload::Fate;

const QUIET: Duration = Duration::from_secs(2);
const PAUSED: Duration = Duration::from_secs(30);

/// Three nodes, each paused in turn.
///
/// # Errors
/// When it cannot be carried out.
pub async fn run(plan: Plan) -> Result<Verdict, HarnessError> {
    let mut stage = Stage::open(&plan, plan.cluster(3), plan.load()).await?;
    let (mut spans, mut rejoins, mut stale) = (Spans::default(), Vec::new(), Faults::default());
    for round in 0..plan.runs(3) {
        stage.workload.go(round);
        stage.pass(QUIET).await;
        let (before, victim) = (newest_map(&stage.cluster).await?, round as usize % 3);
        let name = name_of(&stage.cluster, victim)?;
        stage.cluster.pause(victim)?;
        let window = stage.pass(PAUSED).await;
        spans.add(&stage.workload, &window, |vbucket| role_of(&before, &name, vbucket));
        plan.say(format!("round {round}: {name} paused, {}", spans.last()));
        let epochs = newest_map(&stage.cluster).await?;
        let continued = stage.workload.clock.now();
        stage.cluster.resume(victim)?;
        until_map(&mut stage.cluster, "it is in sync again", SETTLED_LIMIT, is_full).await?;
        rejoins.push(stage.workload.clock.now() - continued);
        until_map(&mut stage.cluster, "the leaders are back", SETTLED_LIMIT, is_settled).await?;
        spans.add_return(&stage.workload, &(continued..stage.workload.clock.now()));
        stage.check(round).await?;
        stage.workload.for_each(|producer, sequence, attempt| {
            let Fate::Committed(Some(at)) = &attempt.fate else { return };
            let is_over = epochs.vbucket(at.vbucket).is_some_and(|vb| at.epoch < vb.epoch);
            // A message of before may be answered late, as a duplicate, with where it was stored then.
            if attempt.round == round && is_over && attempt.pushed > continued {
                stale.add(|| format!("{sequence} of producer {producer}: {attempt:?}"));
            }
        });
    }
    let (mut verdict, audit) = stage.close();
    verdict.integrity(&audit);
    verdict.never("ack of its old epoch after SIGCONT", &stale);
    for (what, role) in [("led", Role::Led), ("followed", Role::Followed)] {
        verdict.spread(&format!("interruption, {what}"), spans.of(role));
        verdict.bound(&format!("interruption, {what}"), spans.of(role), 100, Duration::from_secs(3));
    }
    verdict.bound("full ISR after SIGCONT", &mut rejoins, 100, Duration::from_secs(10));
    verdict.spread("full ISR after SIGCONT", &mut rejoins);
    verdict.spread("interruption while it returns", &mut spans.of_return);
    Ok(verdict)
}
