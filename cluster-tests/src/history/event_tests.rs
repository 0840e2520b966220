use super::*;
use crate::history::Hash64;

fn parse(line: &str) -> Result<Record<'_>, String> {
    serde_json::from_str(line).map_err(|error| error.to_string())
}

#[test]
fn every_event_is_read_back_as_it_was_written() {
    let lines = [
        r#"{"t_ns":1,"event":"run","run":"r","scenario":"kill","seed":7,"vbuckets":1,"faults":["kill"],"expect":{"leader_change":true,"total_loss":false,"evictions":false},"min_acked_during_faults":3}"#,
        r#"{"t_ns":1,"event":"file","run":"r","process":"client"}"#,
        r#"{"t_ns":1,"event":"push_invoke","producer":1,"sequence":2,"key":"k\n","key_partition":"00ff","len":3,"crc32":4,"hash64":"0000000000000005"}"#,
        r#"{"t_ns":1,"event":"push_ok","producer":1,"sequence":2,"position":{"cluster":"c","vbucket":0,"lineage":0,"epoch":1,"offset":2},"leader":{"node":1,"incarnation":2}}"#,
        r#"{"t_ns":1,"event":"push_ok","producer":1,"sequence":2}"#,
        r#"{"t_ns":1,"event":"push_fail","producer":1,"sequence":2,"code":"NOT_LEADER"}"#,
        r#"{"t_ns":1,"event":"push_unknown","producer":1,"sequence":2,"code":"UNKNOWN"}"#,
        r#"{"t_ns":1,"event":"subscribe","reader":"r","session":1,"patterns":["*"],"start":"live","role":"plain"}"#,
        r#"{"t_ns":1,"event":"subscribe","reader":"r","session":2,"node":"a","patterns":["a*"],"key_partitions":["61"],"start":{"resume":{"cluster":"c","cursors":[{"vbucket":0,"lineage":0,"epoch":1,"offset":2}]}},"role":"final"}"#,
        r#"{"t_ns":1,"event":"confirmed","reader":"r","session":1,"cluster":"c","map_version":3,"cursors":[]}"#,
        r#"{"t_ns":1,"event":"deliver","reader":"r","session":1,"vbucket":0,"lineage":0,"epoch":1,"offset":2,"hw":3,"producer":1,"sequence":2,"crc32":4,"hash64":"0000000000000005"}"#,
        r#"{"t_ns":1,"event":"advance","reader":"r","session":1,"vbucket":0,"lineage":0,"epoch":1,"offset":2}"#,
        r#"{"t_ns":1,"event":"gap","reader":"r","session":1,"vbucket":0,"lineage":0,"from":1,"to":2,"reason":"slow"}"#,
        r#"{"t_ns":1,"event":"heartbeat","reader":"r","session":1,"map_version":3}"#,
        r#"{"t_ns":1,"event":"close","reader":"r","session":1,"reason":"foreign_cluster"}"#,
        r#"{"t_ns":1,"event":"incarnation_start","node":"a","pid":3,"cluster":"c","member":{"node":1,"incarnation":2}}"#,
        r#"{"t_ns":1,"event":"meta","cluster":"c","index":9,"vbucket":0,"epoch":9,"isr_version":9,"leader":null,"isr":[],"min_isr":1,"lineage":0}"#,
        r#"{"t_ns":1,"event":"append","cluster":"c","member":{"node":1,"incarnation":2},"vbucket":0,"lineage":0,"epoch":1,"from":0,"to":2}"#,
        r#"{"t_ns":1,"event":"hw_advance","cluster":"c","member":{"node":1,"incarnation":2},"vbucket":0,"lineage":0,"hw":2}"#,
        r#"{"t_ns":1,"event":"truncate","cluster":"c","member":{"node":1,"incarnation":2},"vbucket":0,"lineage":0,"from":1,"to":2,"why":"epoch"}"#,
        r#"{"t_ns":1,"event":"ack_sent","cluster":"c","member":{"node":1,"incarnation":2},"vbucket":0,"lineage":0,"epoch":1,"offset":0}"#,
        r#"{"t_ns":1,"event":"role_change","cluster":"c","member":{"node":1,"incarnation":2},"vbucket":0,"epoch":1,"role":"leader"}"#,
        r#"{"t_ns":1,"event":"chain_hash","cluster":"c","member":{"node":1,"incarnation":2},"vbucket":0,"lineage":0,"offset":1,"hash":"00000000000000aa"}"#,
        r#"{"t_ns":1,"event":"spawn","node":"a","pid":3}"#,
        r#"{"t_ns":1,"event":"exit","node":"a","pid":3,"signal":9}"#,
        r#"{"t_ns":1,"event":"stop","node":"a","pid":3}"#,
        r#"{"t_ns":1,"event":"continue","node":"a","pid":3}"#,
        r#"{"t_ns":1,"event":"fault","kind":"kill","target":"a","phase":"start","outcome":"installed"}"#,
        r#"{"t_ns":1,"event":"heal"}"#,
        r#"{"t_ns":1,"event":"end"}"#,
    ];
    for line in lines {
        let record = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(serde_json::to_string(&record).unwrap(), line);
    }
}

#[test]
fn fields_that_nobody_knows_are_errors() {
    let error = parse(r#"{"t_ns":1,"event":"spawn","node":"a","pid":3,"color":"red"}"#).unwrap_err();
    assert!(error.contains("unknown field `color`"), "{error}");
    let error = parse(r#"{"t_ns":1,"event":"heal","node":"a"}"#).unwrap_err();
    assert!(error.contains("unknown field `node`"), "{error}");
}

#[test]
fn events_that_nobody_knows_are_errors() {
    let error = parse(r#"{"t_ns":1,"event":"explode"}"#).unwrap_err();
    assert!(error.contains("unknown variant `explode`"), "{error}");
}

#[test]
fn record_begins_with_its_time_and_name() {
    for (line, words) in [
        (r#"{"event":"heal","t_ns":1}"#, "field \"event\" where \"t_ns\" has to be"),
        (r#"{"t_ns":1,"node":"a","event":"spawn"}"#, "field \"node\" where \"event\" has to be"),
        (r#"{"t_ns":1}"#, "field \"event\" is missing"),
        (r"{}", "field \"t_ns\" is missing"),
        (r"[1]", "expected a record that begins with t_ns and event"),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.contains(words), "{line}: {error}");
    }
}

#[test]
fn missing_and_doubled_fields_are_errors() {
    let error = parse(r#"{"t_ns":1,"event":"spawn","node":"a"}"#).unwrap_err();
    assert!(error.contains("missing field `pid`"), "{error}");
    let error = parse(r#"{"t_ns":1,"event":"spawn","node":"a","pid":1,"pid":2}"#).unwrap_err();
    assert!(error.contains("duplicate field `pid`"), "{error}");
}

#[test]
fn hashes_of_all_sizes_survive() {
    for hash in [0, 1, u64::MAX] {
        let text = serde_json::to_string(&Hash64(hash)).unwrap();
        assert_eq!(serde_json::from_str::<Hash64>(&text).unwrap(), Hash64(hash));
    }
}
