//! Hand-made histories, `fixtures/history/*.jsonl`: what each shows is its name, and what the checker has to say of it
//! is here. Nothing else may be found in it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use broky_cluster_tests::check::{CheckOptions, Kind, Verdict, check_files};

const VERDICTS: &[(&str, &[Kind])] = &[
    ("ack-after-fence-by-clients", &[Kind::AckAfterFence]),
    ("ack-after-fence-by-nodes", &[Kind::AckAfterFence]),
    ("clean-another-cluster-after-everything-is-lost", &[]),
    ("clean-everything-is-lost-and-told", &[]),
    ("clean-everything-is-lost-as-announced-and-no-control-log", &[]),
    ("clean-copy-that-was-dropped-begins-anew", &[]),
    ("clean-evicted-before-anybody-read-it", &[]),
    ("clean-filtered-readers", &[]),
    ("clean-gaps-of-a-resume-are-recorded-behind-its-confirmation", &[]),
    ("clean-holder-that-was-emptied-on-paper-had-died", &[]),
    ("clean-keys-of-the-system-are-not-for-everybody", &[]),
    ("clean-leader-is-killed", &[]),
    ("clean-nodes-and-copies-agree", &[]),
    ("clean-plain-push-is-stored-twice", &[]),
    ("clean-reader-resumes-on-another-node", &[]),
    ("clean-retry-is-stored-again-in-the-next-lineage", &[]),
    ("clean-retry-left-an-unknown-copy-in-the-lineage-before", &[]),
    ("clean-retry-of-one-message", &[]),
    ("clean-slow-reader-is-told", &[]),
    ("clean-unavailable-while-no-majority-runs", &[]),
    ("clean-unknown-outcomes", &[]),
    ("corrupt-payload", &[Kind::Corrupt]),
    ("diverged-by-hashes-of-logs", &[Kind::Diverged]),
    ("diverged-copy-holds-another-message", &[Kind::Diverged]),
    ("diverged-copy-lacks-a-message", &[Kind::Diverged]),
    ("diverged-two-copies-hold-different-messages", &[Kind::Diverged]),
    ("duplicate-of-one-message", &[Kind::Duplicate]),
    ("epoch-reused-by-going-back", &[Kind::EpochReused]),
    ("epoch-reused-for-another-leader", &[Kind::EpochReused]),
    ("false-gap-about-what-others-still-got", &[Kind::FalseGap]),
    ("hole-among-what-was-acked", &[Kind::Hole]),
    ("hole-that-readers-pass-over", &[Kind::Hole]),
    ("inconsistent-offset-below-its-lineage", &[Kind::InconsistentOffset]),
    ("inconsistent-offset-of-an-old-lineage-above-a-new-one", &[Kind::InconsistentOffset]),
    ("inconsistent-offset-of-one-message-in-two-epochs", &[Kind::InconsistentOffset]),
    ("inconsistent-offset-to-two-readers", &[Kind::InconsistentOffset]),
    ("invalid-fault-was-never-installed", &[Kind::InvalidRun]),
    ("invalid-final-reader-read-too-little", &[Kind::InvalidRun]),
    ("invalid-no-leader-changed", &[Kind::InvalidRun]),
    ("invalid-nothing-was-acked", &[Kind::InvalidRun]),
    ("invalid-too-little-was-acked-during-faults", &[Kind::InvalidRun]),
    ("lost-although-a-member-of-the-isr-lives", &[Kind::Lost]),
    ("lost-and-nobody-was-told", &[Kind::Lost, Kind::SilentSkip]),
    ("lost-because-a-paused-holder-is-no-dead-one", &[Kind::Lost]),
    ("lost-duplicate-that-nobody-got", &[Kind::Lost]),
    ("lost-head-that-the-log-begins-above", &[Kind::Lost]),
    ("lost-in-the-lineage-after-a-total-loss", &[Kind::Lost]),
    ("lost-left-the-memory-in-a-run-without-evictions", &[Kind::Lost]),
    ("lost-lineage-that-nobody-announced-is-excused-by-nothing", &[Kind::Lost]),
    ("lost-pushed-after-every-holder-had-died", &[Kind::Lost]),
    ("lost-tail-that-the-final-reader-did-not-get", &[Kind::Lost]),
    ("lost-with-its-lineage-and-one-reader-was-not-told", &[Kind::Lost, Kind::SilentSkip]),
    ("lost-with-a-cluster-that-a-holder-outlived", &[Kind::Lost, Kind::UnsignalledLineageChange]),
    ("lost-with-the-whole-vbucket", &[Kind::Lost]),
    ("meta-diverged-between-two-nodes", &[Kind::MetaDiverged]),
    ("not-caught-up-final-reader", &[Kind::NotCaughtUp]),
    ("not-caught-up-reader", &[Kind::NotCaughtUp]),
    ("not-caught-up-reader-that-never-got-on", &[Kind::NotCaughtUp]),
    ("not-converged-at-a-node-that-is-behind", &[Kind::NotConverged]),
    ("not-converged-in-time", &[Kind::NotConverged]),
    ("not-converged-with-a-dead-copy", &[Kind::NotConverged]),
    ("not-converged-with-too-few-copies", &[Kind::NotConverged]),
    ("not-converged-without-a-leader", &[Kind::NotConverged]),
    ("phantom-that-nobody-pushed", &[Kind::Phantom]),
    ("phantom-without-a-stamp", &[Kind::Phantom]),
    ("reorder-in-the-log", &[Kind::Reorder]),
    ("reorder-into-another-vbucket", &[Kind::Reorder]),
    ("reorder-to-a-reader", &[Kind::Reorder]),
    ("silent-skip-between-two-sessions", &[Kind::SilentSkip]),
    ("silent-skip-by-a-cursor", &[Kind::SilentSkip]),
    ("silent-skip-by-a-resume-without-a-cursor", &[Kind::SilentSkip]),
    ("silent-skip-into-another-cluster", &[Kind::SilentSkip]),
    ("silent-skip-into-another-lineage", &[Kind::SilentSkip]),
    ("silent-skip-of-a-filtered-reader", &[Kind::SilentSkip]),
    ("silent-skip-of-one-reader", &[Kind::SilentSkip]),
    ("silent-skip-of-what-may-be-an-unknown-push", &[Kind::SilentSkip]),
    ("two-leaders-by-acks", &[Kind::TwoLeaders]),
    ("two-leaders-by-roles", &[Kind::TwoLeaders]),
    ("unavailable-over-the-bound", &[Kind::Unavailable]),
    ("uncommitted-seen-above-the-high-watermark", &[Kind::UncommittedSeen]),
    ("uncommitted-seen-after-it-was-refused", &[Kind::UncommittedSeen]),
    ("uncommitted-seen-and-then-replaced", &[Kind::UncommittedSeen]),
    ("uncommitted-seen-before-the-isr-had-it", &[Kind::UncommittedSeen]),
    ("unsignalled-change-of-cluster-that-was-not-announced", &[Kind::UnsignalledLineageChange]),
    ("unsignalled-lineage-change-that-was-not-announced", &[Kind::UnsignalledLineageChange]),
    ("unsignalled-lineage-change-while-a-holder-lives", &[Kind::UnsignalledLineageChange]),
    ("went-back-epoch", &[Kind::WentBack]),
    ("went-back-high-watermark", &[Kind::WentBack]),
    ("went-back-high-watermark-of-a-replica", &[Kind::WentBack]),
    ("went-back-log-cut-below-its-high-watermark", &[Kind::WentBack]),
    ("went-back-map-version", &[Kind::WentBack]),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/history")
}

fn options() -> CheckOptions {
    CheckOptions { unavailable_max: Some(Duration::from_secs(1)), ..CheckOptions::default() }
}

fn verdict_of(kinds: &[Kind]) -> Verdict {
    match kinds {
        [] | [Kind::FalseGap] => Verdict::Passed,
        [Kind::InvalidRun] => Verdict::Invalid,
        _ => Verdict::Violated,
    }
}

#[test]
fn each_history_shows_what_its_name_says_and_nothing_else() {
    for (name, kinds) in VERDICTS {
        let file = folder().join(format!("{name}.jsonl"));
        let report = check_files(&[file], options()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(report.kinds(), *kinds, "{name}\n{}", report.text());
        assert_eq!(report.verdict, verdict_of(kinds), "{name}");
    }
}

#[test]
fn every_finding_comes_with_a_record_that_shows_it() {
    let without = [Kind::InvalidRun];
    for (name, kinds) in VERDICTS.iter().filter(|(_, kinds)| !kinds.iter().any(|kind| without.contains(kind))) {
        let report = check_files(&[folder().join(format!("{name}.jsonl"))], options()).unwrap();
        for found in kinds.iter().map(|kind| report.found(*kind).unwrap()) {
            let evidence = found.kept.iter().map(|finding| &finding.evidence);
            for evidence in evidence {
                assert!(!evidence.is_empty(), "{name}");
                assert!(evidence.iter().all(|it| it.record.starts_with("{\"t_ns\":")), "{name}: {evidence:?}");
            }
        }
    }
}

#[test]
fn every_kind_has_a_history_that_shows_it() {
    let shown: BTreeSet<Kind> = VERDICTS.iter().flat_map(|(_, kinds)| kinds.iter().copied()).collect();
    for kind in Kind::ALL {
        assert!(shown.contains(&kind), "{kind}");
    }
}

#[test]
fn every_file_has_a_verdict() {
    let files = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let files: BTreeSet<String> = files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let named: BTreeSet<String> = VERDICTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, named);
}

#[test]
fn loss_is_told_with_its_part_and_what_the_control_log_said() {
    let report = check_files(&[folder().join("lost-although-a-member-of-the-isr-lives.jsonl")], options()).unwrap();
    let lost = &report.found(Kind::Lost).unwrap().kept[0];
    assert!(
        lost.what.contains("message 1/2 at offset 1 of lineage 0 of vbucket 0 (middle of its producer)"),
        "{}",
        lost.what
    );
    assert!(lost.isr_history.iter().any(|line| line.contains("leader 3@3, isr version 5 {3@3}")), "{lost:?}");
    assert!(lost.isr_history.iter().any(|line| line.contains("process of 2@2 is gone")), "{lost:?}");
    for (name, part) in
        [("lost-tail-that-the-final-reader-did-not-get", "postfix"), ("lost-head-that-the-log-begins-above", "prefix")]
    {
        let report = check_files(&[folder().join(format!("{name}.jsonl"))], options()).unwrap();
        assert!(report.found(Kind::Lost).unwrap().kept[0].what.contains(part), "{name}");
    }
}
