//! Judges the history of a run: `check DIR`. Exit code 0: passed; 1: an invariant is broken; 2: the history cannot be
//! judged; 3: the run is invalid, it did not do what it was meant to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use broky_cluster_tests::check::generate::{Generate, generate, processes};
use broky_cluster_tests::check::{CheckOptions, Report, Verdict, check_files};
use broky_cluster_tests::history::{Event, FileHead, HistoryError, HistoryWriter, Nanos};
use broky_proto::id::VBucketCount;
use clap::Parser;

/// Judges the history of a run, invariant by invariant.
#[derive(Debug, Parser)]
#[command(name = "check", max_term_width = 110)]
struct Args {
    /// Files of the history, or folders with its `.jsonl` files.
    #[arg(required = true, value_name = "DIR_OR_FILE")]
    paths: Vec<PathBuf>,
    /// Write the verdict there too, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// An interruption of a vbucket's pushes that is longer is a violation. Default: they are told only.
    #[arg(long, value_name = "MS")]
    bound_unavailable_ms: Option<u64>,
    /// Every vbucket has a living leader this long after the faults are over.
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    bound_leaders_ms: u64,
    /// Every vbucket has all its copies in sync this long after the faults are over.
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    bound_copies_ms: u64,
    /// Readers have what was acknowledged this long after that, or after the faults are over.
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    bound_caught_up_ms: u64,
    /// Findings of each kind that are told in full.
    #[arg(long, value_name = "N", default_value_t = 10)]
    findings: usize,
    /// Compact records gathered in memory before they go to disk, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    gather_mib: usize,
    /// Where they go. Default: the system's folder for temporary files.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Write a clean history of about this many records to the folder, which must not exist, and end.
    #[arg(long, value_name = "RECORDS", hide = true)]
    generate: Option<u64>,
    /// How many vbuckets that history has.
    #[arg(long, value_name = "COUNT", hide = true, default_value_t = 64)]
    generate_vbuckets: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.generate {
        Some(records) => write_history(&args, records).map(|()| ExitCode::SUCCESS),
        None => judge(&args),
    };
    done.unwrap_or_else(|words| {
        eprintln!("check: {words}");
        ExitCode::from(2)
    })
}

fn judge(args: &Args) -> Result<ExitCode, String> {
    let begun = Instant::now();
    let report = check_files(&args.paths, options(args)).map_err(|error| error.to_string())?;
    print!("{}", report.text());
    if let Some(file) = &args.json {
        fs::write(file, report.json().to_string()).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    eprintln!("{}", costs(&report, begun.elapsed()));
    Ok(match report.verdict {
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Violated => ExitCode::from(1),
        Verdict::Invalid => ExitCode::from(3),
    })
}

fn options(args: &Args) -> CheckOptions {
    CheckOptions {
        unavailable_max: args.bound_unavailable_ms.map(Duration::from_millis),
        leaders_within: Duration::from_millis(args.bound_leaders_ms),
        copies_within: Duration::from_millis(args.bound_copies_ms),
        caught_up_within: Duration::from_millis(args.bound_caught_up_ms),
        findings_max: args.findings,
        gathered_bytes_max: args.gather_mib << 20,
        scratch: args.scratch.clone(),
    }
}

/// What the judging took.
fn costs(report: &Report, took: Duration) -> String {
    let per_second = report.counts.records as f64 / took.as_secs_f64();
    let peak = fs::read_to_string("/proc/self/status").ok();
    let peak = peak.as_deref().and_then(|status| status.lines().find_map(|line| line.strip_prefix("VmHWM:")));
    let peak = peak.map_or(String::new(), |kib| format!(", at most {} resident", kib.trim()));
    format!("judged in {:.1} s, {per_second:.0} records/s{peak}", took.as_secs_f64())
}

fn write_history(args: &Args, records: u64) -> Result<(), String> {
    let [folder] = args.paths.as_slice() else { return Err("give one folder".to_owned()) };
    let vbuckets = VBucketCount::new(args.generate_vbuckets).ok_or("vbuckets are a power of two")?;
    let (readers, filtered) = (2, 2);
    // An invocation, an outcome, a delivery to each reader of everything and the final one, and a quarter to the
    // others.
    let pushes = records * 2 / 11;
    let options =
        Generate { pushes, vbuckets, producers: 8, readers, filtered, slow: 0, kills: 5, total_losses: 0, seed: 1 };
    fs::create_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut writers: Vec<Option<HistoryWriter>> = Vec::new();
    writers.resize_with(processes(&options), || None);
    let mut written = 0_u64;
    let done = generate(&options, |process, record| {
        let Some(writer) = writers.get_mut(process) else { return Ok(()) };
        written += 1;
        match writer {
            Some(writer) => writer.write(record),
            None if process == 0 => {
                *writer = Some(create(folder, process, record.t_ns, record.event.clone())?);
                Ok(())
            }
            None => {
                let head = FileHead { run: "generated-1".to_owned(), process: format!("process-{process}") };
                let mut new = create(folder, process, record.t_ns, Event::File(head))?;
                new.write(record)?;
                *writer = Some(new);
                Ok(())
            }
        }
    });
    let flushed = writers.iter_mut().flatten().try_for_each(HistoryWriter::flush);
    done.and(flushed).map_err(|error| error.to_string())?;
    eprintln!("{written} records");
    Ok(())
}

fn create(folder: &Path, process: usize, at: Nanos, head: Event<'_>) -> Result<HistoryWriter, HistoryError> {
    HistoryWriter::create(folder.join(format!("process-{process}.jsonl")), at, head)
}
