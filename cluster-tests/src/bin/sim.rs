//! Runs seeds through the simulator: `sim --seeds 500`. Exit code 0 only if every rule held in every run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use broky_cluster_tests::sim::{self, Coverage, Failure, How, Options, Report};
use clap::{Parser, ValueEnum};

/// Runs a simulated cluster through faults, one run per seed, and checks every rule after every event.
#[derive(Debug, Parser)]
#[command(name = "sim", max_term_width = 110)]
struct Args {
    /// How many runs.
    #[arg(long, value_name = "N", default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, value_name = "S", default_value_t = 0)]
    from: u64,
    /// Set an option of every run, as in kill_every_ms=0; may be given more than once.
    #[arg(long, value_name = "NAME=NUMBER")]
    set: Vec<String>,
    /// Do every run twice, and compare the hashes of their traces.
    #[arg(long)]
    twice: bool,
    /// Go on after a run that has failed.
    #[arg(long)]
    keep_going: bool,
    /// Print so many of the last events of every run, also of those that pass.
    #[arg(long, value_name = "N")]
    trace: Option<usize>,
    /// Say what each run was like.
    #[arg(long, short)]
    verbose: bool,
    /// Who judges a run.
    #[arg(long, value_enum, default_value_t = Judge::Rules)]
    judge: Judge,
    /// Write the history of each run to a folder, which must have none, for `check` to judge: of several runs, to a
    /// folder in it that is called like the seed.
    #[arg(long, value_name = "DIR")]
    history: Option<PathBuf>,
    /// Threads. Default: one for each core.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

/// Who judges a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Judge {
    /// The simulator's rules, which look into every node after every event.
    Rules,
    /// The history checker, which knows only what was written down. No broken rule ends the run.
    Checker,
    /// The rules, and of a run that keeps them the history.
    Both,
}

fn main() -> ExitCode {
    let args = Args::parse();
    std::panic::set_hook(Box::new(|panic| {
        // Told with the run; where a panic ends the process, this is all there is.
        let seed = sim::current_seed().map(|seed| format!("seed {seed}: ")).unwrap_or_default();
        eprintln!("{seed}{panic}");
    }));
    let options = |seed| {
        let mut options = Options::of(seed);
        args.set.iter().try_for_each(|assignment| options.set(assignment)).map(|()| options)
    };
    if let Err(words) = options(args.from) {
        eprintln!("sim: {words}");
        return ExitCode::from(2);
    }
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1).max(1);
    let begun = Instant::now();
    let mut total = Total::default();
    let seeds: Vec<u64> = (args.from..args.from.saturating_add(args.seeds)).collect();
    for batch in seeds.chunks(jobs * 4) {
        for report in run_all(batch, jobs, &args, &options) {
            total.add(&report);
            if args.verbose {
                println!(
                    "{}: {} events, hash {:016x}, {}",
                    report.options, report.events, report.hash, report.coverage
                );
            }
            if report.failure.is_some() || args.trace.is_some() {
                tell(&report, &args);
            }
        }
        if total.failed > 0 && !args.keep_going {
            break;
        }
    }
    total.tell(begun.elapsed());
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does runs, on so many threads; gives their reports in order.
fn run_all(
    seeds: &[u64],
    jobs: usize,
    args: &Args,
    options: &(impl Fn(u64) -> Result<Options, String> + Sync),
) -> Vec<Report> {
    let mut reports: Vec<Report> = std::thread::scope(|scope| {
        let work = |first: usize| {
            let seeds = seeds.iter().skip(first).step_by(jobs);
            seeds.filter_map(|seed| options(*seed).ok()).map(|options| run(&options, args)).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..jobs).map(|first| scope.spawn(move || work(first))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
    });
    reports.sort_by_key(|report| report.options.seed);
    reports
}

fn run(options: &Options, args: &Args) -> Report {
    let how = How {
        words: args.trace.unwrap_or_default(),
        is_recorded: args.judge != Judge::Rules || args.history.is_some(),
        is_ruled: args.judge != Judge::Checker,
    };
    let mut report = sim::run(options, how);
    if let Some(folder) = &args.history {
        let folder = if args.seeds > 1 { folder.join(options.seed.to_string()) } else { folder.clone() };
        if let Err(error) = sim::write(&report.history, &folder) {
            report.failure.get_or_insert(Failure { rule: "history", words: error.to_string() });
        }
    }
    if args.judge != Judge::Rules && report.failure.is_none() {
        report.failure = sim::judge(&report.history);
    }
    // Reports of many runs are kept until it is their turn to be told.
    report.history = Vec::new();
    if args.twice && report.failure.is_none() {
        let again = sim::run(options, How::default());
        if again.hash != report.hash {
            let words = format!("trace {:016x}, and when done again {:016x}", report.hash, again.hash);
            report.failure = Some(sim::Failure { rule: "one seed is one run", words });
        }
    }
    report
}

fn tell(report: &Report, args: &Args) {
    report.last.iter().for_each(|line| println!("  {line}"));
    println!("{}", report.options);
    if let Some(failure) = &report.failure {
        println!("FAILED {}: {}", failure.rule, failure.words);
    }
    let set: String = args.set.iter().map(|assignment| format!(" --set {assignment}")).collect();
    let judge = args.judge.to_possible_value().filter(|_| args.judge != Judge::Rules);
    let judge = judge.map(|judge| format!(" --judge {}", judge.get_name())).unwrap_or_default();
    println!("again: cargo run -p cluster-tests --bin sim -- --seeds 1 --from {}{judge}{set}", report.options.seed);
}

/// What all runs were like together.
#[derive(Default)]
struct Total {
    runs: u64,
    failed: u64,
    events: u64,
    passed: Duration,
    rest_max: Duration,
    coverage: Coverage,
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.failed += u64::from(report.failure.is_some());
        self.events += report.events;
        self.passed += report.passed;
        self.rest_max = self.rest_max.max(report.rest);
        self.coverage.add(&report.coverage);
    }

    fn tell(&self, took: Duration) {
        let per_second = u128::from(self.events) * 1000 / took.as_millis().max(1);
        let hours = self.passed.as_secs() / 3600;
        let minutes = self.passed.as_secs() / 60 % 60;
        println!(
            "{} runs, {} failed, {} events ({per_second}/s), {hours} h {minutes} min simulated in {took:.1?}",
            self.runs, self.failed, self.events
        );
        println!("{}; at rest at most {:.1?} after the last fault", self.coverage, self.rest_max);
    }
}
