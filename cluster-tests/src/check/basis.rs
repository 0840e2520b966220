//! By what each invariant was judged: who recorded something decides how much can be known.

use super::coverage::Coverage;
use super::facts::Facts;
use super::kind::Invariant;
use crate::history::ReaderRole;

/// What to say of an invariant, or why it could not be judged.
pub(super) fn of(
    invariant: Invariant,
    facts: &Facts,
    coverage: &Coverage,
    converged: Result<(), &'static str>,
) -> Result<Vec<String>, String> {
    let has_control = !facts.control.is_empty();
    let clients = || vec!["by clients".to_owned()];
    let note = |words: &str| Ok(vec![words.to_owned()]);
    match invariant {
        Invariant::I1Kept => note(match (has_control, facts.lives.is_supervised()) {
            (true, true) => "by clients, control log and supervisor",
            (true, false) => {
                "by clients and control log; no supervisor: nobody is known to be dead, nothing is excused"
            }
            (false, _) => {
                "by clients; no control log: only what the run announced and every reader was told is excused"
            }
        }),
        Invariant::I2Ordered | Invariant::I3Authentic | Invariant::I4Offsets => Ok(clients()),
        Invariant::I5Committed => note(match facts.counts.appends {
            0 => "by clients; no node recorded what it appended",
            _ => "by clients, control log and what nodes appended",
        }),
        Invariant::I6Signalled => {
            let mut notes = clients();
            if facts.counts.unnamed_keys > 0 {
                notes.push(format!("{} messages have keys beyond those told apart", facts.counts.unnamed_keys));
            }
            Ok(notes)
        }
        Invariant::I8Leaders => note(match (has_control, facts.counts.acts) {
            (true, 0) => "by clients and control log; no node recorded its role",
            (true, _) => "by clients, control log and nodes",
            (false, 0) => "by clients",
            (false, _) => "by clients and nodes; no control log",
        }),
        Invariant::I9Converged => converged.map_err(str::to_owned).map(|()| vec!["by the control log".to_owned()]),
        Invariant::I10Agreed => {
            let dumps = facts.sessions.all().filter(|(_, _, session)| session.role == ReaderRole::Dump).count();
            match (facts.counts.chains, dumps) {
                (0, 0) => Err("no hash of a log and no dump of a copy".to_owned()),
                (chains, dumps) => Ok(vec![format!("by {chains} hashes of logs and {dumps} dumps of copies")]),
            }
        }
        Invariant::I11Available => Ok(coverage.interruptions()),
        Invariant::I12CaughtUp => note(match facts.nemesis.healed() {
            Some(_) => "by clients",
            None => "by clients; nobody said when the faults were over, so that lags count from the beginning",
        }),
        Invariant::I13Monotonic => note(if facts.counts.acts > 0 { "by clients and nodes" } else { "by clients" }),
        Invariant::I14Covered => Ok(coverage.figures()),
    }
}
