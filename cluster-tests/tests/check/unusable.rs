//! Histories that cannot be judged: a typed error says which record of which source is wrong, and there is no verdict.

use broky_cluster_tests::check::{CheckError, CheckOptions, check_records};
use broky_cluster_tests::history::Record;

const RUN: &str = r#"{"t_ns":0,"event":"run","run":"r","scenario":"s","seed":1,"vbuckets":2}"#;
const SUBSCRIBE: &str = r#"{"t_ns":1,"event":"subscribe","reader":"a","session":1,"patterns":["*"],"start":"live"}"#;
const CONFIRMED: &str = r#"{"t_ns":2,"event":"confirmed","reader":"a","session":1,"cluster":"c","cursors":[]}"#;
const INVOKE: &str = r#"{"t_ns":1,"event":"push_invoke","producer":1,"sequence":1,"key":"k","key_partition":"6b","len":1,"crc32":1,"hash64":"01"}"#;
const OK: &str = r#"{"t_ns":3,"event":"push_ok","producer":1,"sequence":1}"#;

/// What the checker says of these records.
fn error_of(lines: &[&str]) -> CheckError {
    let records: Vec<Record<'_>> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    check_records(&records, CheckOptions::default()).unwrap_err()
}

#[test]
fn contradictions_are_errors_of_the_record_that_contradicts() {
    let deliver = r#"{"t_ns":3,"event":"deliver","reader":"a","session":1,"vbucket":0,"lineage":0,"epoch":1,"offset":0,"producer":1,"sequence":1,"crc32":1,"hash64":"01"}"#;
    let half = r#"{"t_ns":3,"event":"deliver","reader":"a","session":1,"vbucket":0,"lineage":0,"epoch":1,"offset":0,"producer":1,"crc32":1,"hash64":"01"}"#;
    let gap =
        r#"{"t_ns":3,"event":"gap","reader":"a","session":1,"vbucket":0,"lineage":0,"from":7,"to":3,"reason":"slow"}"#;
    let far = r#"{"t_ns":3,"event":"advance","reader":"a","session":1,"vbucket":2,"lineage":0,"epoch":1,"offset":0}"#;
    let foreign = r#"{"t_ns":3,"event":"file","run":"other","process":"p"}"#;
    let other = r#"{"t_ns":2,"event":"push_invoke","producer":1,"sequence":1,"key":"k","key_partition":"6b","len":1,"crc32":2,"hash64":"01"}"#;
    let three = r#"{"t_ns":0,"event":"run","run":"r","scenario":"s","seed":1,"vbuckets":3}"#;
    let cases: &[(&[&str], &str)] = &[
        (&[RUN, RUN], "records:2: a second record of run"),
        (&[RUN, foreign], "records:2: of run \"other\", not \"r\""),
        (&[three], "records:1: 3 vbuckets: not a power of two from 1 to 32,768"),
        (&[RUN, SUBSCRIBE, CONFIRMED, far], "records:4: vbucket 2 of 2"),
        (&[RUN, SUBSCRIBE, CONFIRMED, gap], "records:4: a range from 7 to 3"),
        (&[RUN, SUBSCRIBE, SUBSCRIBE], "records:3: session 1 of reader \"a\" begins twice"),
        (&[RUN, CONFIRMED], "records:2: session 1 of reader \"a\" has no subscribe before this in this file"),
        (&[RUN, SUBSCRIBE, deliver], "records:3: session 1 of reader \"a\" is not confirmed"),
        (
            &[RUN, SUBSCRIBE, CONFIRMED, half],
            "records:4: half a stamp: a producer without a sequence, or a sequence without a producer",
        ),
        (&[RUN, OK], "records:2: an outcome of message 1/1, which was not invoked so often"),
        (&[RUN, INVOKE, OK, OK], "records:4: an outcome of message 1/1, which was not invoked so often"),
        (&[RUN, INVOKE, other], "records:3: message 1/1 is invoked with two contents"),
    ];
    for (lines, words) in cases {
        let error = error_of(lines);
        assert!(matches!(error, CheckError::Unusable { .. }), "{error:?}");
        assert_eq!(error.to_string(), *words);
    }
}

#[test]
fn records_without_a_run_are_no_history() {
    assert!(matches!(error_of(&[SUBSCRIBE]), CheckError::NoRun));
    assert!(matches!(error_of(&[]), CheckError::NoRun));
}
