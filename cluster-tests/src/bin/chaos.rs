//! Hurts clusters of real processes and judges what everybody saw: `chaos --scenario bounce --minutes 2`. Exit code 0 only
//! if every invariant held in every run, and every run did what it was meant to.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use broky_cluster_tests::chaos::{self, Conditions, SCENARIOS, Scenario};
use broky_cluster_tests::supervisor::{Host, Network, leash};
use clap::Parser;

/// Runs scenarios against clusters of real processes behind a fault proxy, and judges their histories.
#[derive(Debug, Parser)]
#[command(name = "chaos", max_term_width = 110)]
struct Args {
    /// What to run; may be given more than once.
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Run every scenario.
    #[arg(long)]
    all: bool,
    /// Say which scenarios there are.
    #[arg(long)]
    list: bool,
    /// How long faults are done, for each scenario. A fraction is taken.
    #[arg(long, value_name = "M", default_value_t = 1.0)]
    minutes: f64,
    /// What chance is drawn from.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Tell how long things took, and judge only what was lost or wrong: for machines that others use too.
    #[arg(long)]
    untimed: bool,
    /// The `broky` binary. Default: the one beside this.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where logs and histories go. Default: /dev/shm, as a disk that is busy with them slows down everything else, or the
    /// system's folder for temporary files.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Keep logs and histories of scenarios that pass, too.
    #[arg(long)]
    keep: bool,
    /// Write the outcomes there too, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    if let Err(error) = leash() {
        eprintln!("chaos: {error}");
        return ExitCode::FAILURE;
    }
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(words) => {
            eprintln!("chaos: {words}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool, String> {
    if args.list {
        SCENARIOS.iter().for_each(|scenario| println!("{:>2} {:<10} {}", scenario.rank, scenario.name, scenario.about));
        return Ok(true);
    }
    let conditions = conditions(args)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| error.to_string())?;
    let mut outcomes = Vec::new();
    let mut is_passed = true;
    for scenario in chosen(args)? {
        eprintln!("{}: {}", scenario.name, scenario.about);
        match runtime.block_on(chaos::run(scenario, &conditions)) {
            Ok(outcome) => {
                println!("{}", outcome.text());
                is_passed &= outcome.is_passed();
                if outcome.is_passed() && !args.keep {
                    // Half a gigabyte for a minute.
                    let _ = std::fs::remove_dir_all(conditions.directory.join(scenario.name));
                }
                outcomes.push(outcome.json());
            }
            Err(error) => {
                println!("{}: {error}", scenario.name);
                is_passed = false;
                outcomes
                    .push(serde_json::json!({"scenario": scenario.name, "passed": false, "error": error.to_string()}));
            }
        }
    }
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::Value::from(outcomes).to_string()).map_err(|error| error.to_string())?;
    }
    Ok(is_passed)
}

fn chosen(args: &Args) -> Result<Vec<&'static Scenario>, String> {
    if args.all {
        return Ok(SCENARIOS.iter().collect());
    }
    if args.scenario.is_empty() {
        return Err("give --scenario NAME, --all or --list".to_owned());
    }
    let find = |name: &String| {
        let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
        found.ok_or_else(|| format!("there is no scenario {name:?}; --list names them"))
    };
    args.scenario.iter().map(find).collect()
}

fn conditions(args: &Args) -> Result<Conditions, String> {
    let beside = || std::env::current_exe().ok()?.parent().map(|folder| folder.join("broky"));
    let binary = args.binary.clone().or_else(beside).filter(|binary| binary.is_file());
    let binary = binary.ok_or("no broky binary; build it, or give --binary PATH")?;
    let folder = format!("broky-chaos-{}", std::process::id());
    let faults_for = Duration::try_from_secs_f64(args.minutes * 60.0).map_err(|error| format!("--minutes: {error}"))?;
    Ok(Conditions {
        host: Host::Processes { binary, network: Network::Proxied { seed: args.seed } },
        directory: args.directory.clone().unwrap_or_else(|| {
            let memory = PathBuf::from("/dev/shm");
            let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
            parent.join(folder)
        }),
        faults_for,
        seed: args.seed,
        is_timed: !args.untimed,
    })
}
