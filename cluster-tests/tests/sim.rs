//! The simulator itself: that a seed is one run, and that what can happen does.

use std::collections::BTreeSet;

use broky_cluster_tests::sim::{self, Coverage, How, Options};

#[test]
fn one_seed_is_one_run() {
    let mut hashes = BTreeSet::new();
    for seed in 0..10 {
        let [one, other] = [(); 2].map(|()| sim::run_once(&Options::of(seed), How::default()));
        assert_eq!((one.hash, one.events, one.coverage), (other.hash, other.events, other.coverage), "seed {seed}");
        assert!(hashes.insert(one.hash), "seed {seed} is another one");
    }
}

#[test]
fn words_and_records_change_nothing() {
    let options = Options::of(3);
    let silent = sim::run_once(&options, How::default());
    let told = sim::run_once(&options, How { words: 50, is_recorded: true, is_ruled: false });
    assert_eq!((silent.hash, silent.events), (told.hash, told.events));
    assert!(silent.history.is_empty() && told.history.len() > 1_000);
    assert!(silent.last.is_empty());
    assert_eq!(told.last.len(), 50);
}

#[test]
fn everything_that_can_happen_does_and_breaks_no_rule() {
    let mut all = Coverage::default();
    for seed in 100..160 {
        let report = sim::run(&Options::of(seed), How { is_recorded: true, ..How::default() });
        assert_eq!(report.failure, None, "{}", report.options);
        assert_eq!(sim::judge(&report.history), None, "{}", report.options);
        all.add(&report.coverage);
    }
    let Coverage { pushed, acked, rejected, unknown, shown, elections, lineages, .. } = all;
    let Coverage { deaths, faults, relayed, histories, gaps, missed, .. } = all;
    let counts = [pushed, acked, rejected, unknown, shown, elections, lineages];
    assert!(
        counts.into_iter().chain([deaths, faults, relayed, histories, gaps, missed]).all(|count| count > 0),
        "{all}"
    );
}
