//! Hurts clusters of real processes and judges what everybody saw: `chaos --scenario bounce --minutes 2`. Exit code 0
//! only if every invariant held in every run, and every run did what it was meant to; with `--containers` also if there
//! is no Docker engine, which it says.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use broky_cluster_tests::chaos::{self, Conditions, FOR_CONTAINERS, SCENARIOS, Scenario};
use broky_cluster_tests::command::{alone, binary, chosen};
use broky_cluster_tests::supervisor::{Engine, Host, Network, leash};
use clap::Parser;

/// Runs scenarios against clusters of real processes behind a fault proxy, or of containers, and judges their
/// histories.
#[derive(Debug, Parser)]
#[command(name = "chaos", max_term_width = 110)]
struct Args {
    /// What to run; may be given more than once.
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Do it to the containers of docker-compose.yml, with Docker, in a project of its own that is removed again.
    #[arg(long)]
    containers: bool,
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
    /// The `broky` binary. Default: the one beside this. For containers one within target/static, which
    /// scripts/build-static
    /// --dev makes by default.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where logs and histories go. Default: /dev/shm, as a disk that is busy with them slows down everything else, or
    /// the system's folder for temporary files.
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
        known(args).iter().for_each(|scenario| {
            println!("{:>2} {:<10} {}", scenario.rank, scenario.name, scenario.about);
        });
        return Ok(true);
    }
    let list = if args.containers { "--containers --list" } else { "--list" };
    let scenarios = chosen(known(args), |scenario| scenario.name, (&args.scenario, args.all), list)?;
    let host = if args.containers {
        match Engine::find() {
            Ok(engine) => Host::Containers { engine, binary: static_binary(args)? },
            Err(lack) => {
                println!("skipped: {lack}");
                return Ok(true);
            }
        }
    } else {
        Host::Processes { binary: binary(args.binary.as_ref())?, network: Network::Proxied { seed: args.seed } }
    };
    let conditions = conditions(args, host)?;
    let mut outcomes = Vec::new();
    let mut is_passed = true;
    for scenario in scenarios {
        eprintln!("{}: {}", scenario.name, scenario.about);
        match alone(chaos::run(scenario, &conditions))? {
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

/// What there is to choose from.
fn known(args: &Args) -> &'static [Scenario] {
    if args.containers { FOR_CONTAINERS } else { SCENARIOS }
}

fn static_binary(args: &Args) -> Result<PathBuf, String> {
    if let Some(binary) = &args.binary {
        return Ok(binary.clone());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
    let built = Command::new(root.join("scripts/build-static")).arg("--dev").stderr(Stdio::inherit()).output();
    let built = built.map_err(|error| format!("scripts/build-static: {error}"))?;
    if !built.status.success() {
        return Err("scripts/build-static failed".to_owned());
    }
    Ok(root.join(String::from_utf8_lossy(&built.stdout).trim()))
}

fn conditions(args: &Args, host: Host) -> Result<Conditions, String> {
    let folder = format!("broky-chaos-{}", std::process::id());
    let faults_for = Duration::try_from_secs_f64(args.minutes * 60.0).map_err(|error| format!("--minutes: {error}"))?;
    Ok(Conditions {
        host,
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
