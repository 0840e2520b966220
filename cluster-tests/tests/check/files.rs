//! From files to exit codes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use broky_cluster_tests::check::{CheckError, CheckOptions, Verdict, check_files};
use broky_cluster_tests::history::{
    Event, FileHead, Heal, HistoryError, HistoryReader, HistoryWriter, Nanos, Record, Spawn,
};

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("broky-check-tests-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// A copy of a hand-made history in it.
    fn with(name: &str) -> (Self, PathBuf) {
        let folder = Self::new();
        let file = folder.0.join("history.jsonl");
        fs::copy(fixture(name), &file).unwrap();
        (folder, file)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/history/{name}.jsonl"))
}

fn check(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_check")).args(arguments).output().unwrap()
}

fn head(process: &str) -> Event<'static> {
    Event::File(FileHead { run: "clean-leader-is-killed".to_owned(), process: process.to_owned() })
}

#[test]
fn what_is_written_is_read_back() {
    let folder = Folder::new();
    let path = folder.0.join("a.jsonl");
    let records = [
        Record { t_ns: Nanos(1), event: head("a") },
        Record { t_ns: Nanos(2), event: Event::Spawn(Spawn { node: "a".to_owned(), pid: Default::default() }) },
        Record { t_ns: Nanos(3), event: Event::Heal(Heal {}) },
    ];
    let mut writer = HistoryWriter::create(&path, Nanos(1), head("a")).unwrap();
    records.iter().skip(1).for_each(|record| writer.write(record).unwrap());
    writer.flush().unwrap();
    assert!(
        matches!(HistoryWriter::create(&path, Nanos(1), head("a")), Err(HistoryError::Io { .. })),
        "no overwriting"
    );
    let mut reader = HistoryReader::open(&path).unwrap();
    for (number, record) in (1..).zip(&records) {
        let line = reader.next_record().unwrap().unwrap();
        assert_eq!((line.number, &line.record), (number, record));
    }
    assert!(reader.next_record().unwrap().is_none() && !reader.is_cut());
}

#[test]
fn last_line_of_a_killed_process_may_be_cut_short() {
    let (_folder, file) = Folder::with("clean-leader-is-killed");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}{{\"t_ns\":99,\"event\":\"he")).unwrap();
    let report = check_files(&[file], CheckOptions::default()).unwrap();
    assert_eq!((report.verdict, report.counts.cut_files), (Verdict::Passed, 1));
}

#[test]
fn any_other_line_that_is_no_record_is_an_error_with_its_place() {
    let (_folder, file) = Folder::with("clean-leader-is-killed");
    let text = fs::read_to_string(&file).unwrap();
    for (line, words) in [
        ("{\"t_ns\":99,\"event\":\"he", "EOF while parsing"),
        ("", "EOF while parsing"),
        ("{\"t_ns\":99,\"event\":\"heal\",\"x\":1}", "unknown field `x`"),
        ("nonsense", "expected ident"),
    ] {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.insert(4, line);
        fs::write(&file, lines.join("\n") + "\n").unwrap();
        let error = check_files(std::slice::from_ref(&file), CheckOptions::default()).unwrap_err();
        assert!(matches!(&error, CheckError::History(HistoryError::Malformed { line: 5, .. })), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn file_says_first_which_run_it_is_of() {
    let (folder, file) = Folder::with("clean-leader-is-killed");
    let other = folder.0.join("node.jsonl");
    fs::write(&other, "{\"t_ns\":1,\"event\":\"heal\"}\n").unwrap();
    let error = check_files(std::slice::from_ref(&folder.0), CheckOptions::default()).unwrap_err();
    assert!(error.to_string().ends_with("node.jsonl:1: a file begins with a record of run or file"), "{error}");
    fs::write(&other, "{\"t_ns\":1,\"event\":\"file\",\"run\":\"before\",\"process\":\"a\"}\n").unwrap();
    let error = check_files(&[file, other], CheckOptions::default()).unwrap_err();
    assert!(error.to_string().contains("node.jsonl:1: of run \"before\", not \"clean-leader-is-killed\""), "{error}");
}

#[test]
fn nothing_to_judge_is_an_error() {
    let folder = Folder::new();
    for path in [folder.0.clone(), folder.0.join("not there")] {
        assert!(matches!(check_files(&[path], CheckOptions::default()), Err(CheckError::Nothing { .. })));
    }
    assert!(matches!(check_files(&[], CheckOptions::default()), Err(CheckError::Nothing { .. })));
}

#[test]
fn exit_code_says_what_came_of_it() {
    for (name, code) in [
        ("clean-leader-is-killed", 0),
        ("false-gap-about-what-others-still-got", 0),
        ("silent-skip-of-one-reader", 1),
        ("invalid-nothing-was-acked", 3),
        ("there is no such history", 2),
    ] {
        let output = check(&[fixture(name).to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(code), "{name}: {output:?}");
        assert_eq!(output.stdout.is_empty(), code == 2, "{name}: the verdict goes to stdout, errors do not");
    }
}

#[test]
fn bound_of_interruptions_is_a_matter_of_the_caller() {
    let file = fixture("unavailable-over-the-bound");
    let file = file.to_str().unwrap();
    assert_eq!(check(&[file]).status.code(), Some(0));
    assert_eq!(check(&[file, "--bound-unavailable-ms", "5000"]).status.code(), Some(0));
    assert_eq!(check(&[file, "--bound-unavailable-ms", "1000"]).status.code(), Some(1));
}

#[test]
fn verdict_is_there_for_programs_too() {
    let folder = Folder::new();
    let json = folder.0.join("verdict.json");
    check(&[fixture("silent-skip-of-one-reader").to_str().unwrap(), "--json", json.to_str().unwrap()]);
    let verdict: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(verdict["verdict"], "violated");
    let skip = verdict["invariants"].as_array().unwrap().iter().find(|it| it["invariant"] == "I6").unwrap();
    assert_eq!(skip["status"], "broken");
    assert_eq!(skip["found"][0]["kind"], "SILENT-SKIP");
    let shown = &skip["found"][0]["findings"][0]["evidence"][0];
    assert_eq!((&shown["line"], shown["record"].as_str().unwrap().starts_with("{\"t_ns\"")), (&11.into(), true));
}

#[test]
fn generated_history_passes_from_files_too() {
    let folder = Folder::new();
    let history = folder.0.join("history");
    let path = history.to_str().unwrap();
    let made = check(&["--generate", "4000", "--generate-vbuckets", "4", path]);
    assert!(made.status.success(), "{made:?}");
    let judged = check(&[path, "--gather-mib", "0", "--scratch", folder.0.to_str().unwrap()]);
    assert_eq!(judged.status.code(), Some(0), "{judged:?}");
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "what was put aside is removed");
}
