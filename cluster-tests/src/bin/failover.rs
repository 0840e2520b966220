//! Measures life and death of nodes on real processes: `failover --scenario kill`. Exit code 0 only if every rule held.

use std::path::PathBuf;
use std::process::ExitCode;

use broky_cluster_tests::command::{alone, binary, chosen};
use broky_cluster_tests::scenario::{Plan, SCENARIOS, Scenario};
use broky_cluster_tests::supervisor::leash;
use broky_cluster_tests::verdict::Verdict;
use clap::Parser;

/// Measures what the death of nodes costs, on real processes on loopback.
#[derive(Debug, Parser)]
#[command(name = "failover", max_term_width = 110)]
struct Args {
    /// Which scenarios; may be given more than once.
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Every scenario.
    #[arg(long)]
    all: bool,
    /// Name the scenarios and end.
    #[arg(long)]
    list: bool,
    /// How often what the scenario does is done. Default: its own number.
    #[arg(long, value_name = "N")]
    runs: Option<u32>,
    /// The broky binary. Default: beside this one.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// What chance is drawn from.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Write the verdicts there, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Vbuckets of the clusters.
    #[arg(long, value_name = "COUNT", default_value_t = 1_024)]
    vbuckets: u32,
    /// Messages pushed per second.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    rate: u32,
    /// Where logs are kept. Default: a new folder in the system's folder for temporary files.
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
}

fn main() -> ExitCode {
    if let Err(error) = leash() {
        eprintln!("cannot become a node: {error}");
        return ExitCode::FAILURE;
    }
    let args = Args::parse();
    if args.list {
        SCENARIOS.iter().for_each(|scenario| println!("{:12} {}", scenario.name, scenario.about));
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(words) => {
            eprintln!("failover: {words}");
            ExitCode::from(2)
        }
    }
}

/// Whether every rule of every scenario held.
fn run(args: &Args) -> Result<bool, String> {
    let scenarios = chosen(SCENARIOS, |scenario| scenario.name, (&args.scenario, args.all), "--list")?;
    let mut verdicts = Vec::new();
    for scenario in scenarios {
        let plan = plan(args, scenario)?;
        let verdict = alone((scenario.run)(plan.clone()))?.unwrap_or_else(|error| {
            let mut verdict = Verdict::new(scenario.name);
            verdict.rule("it can be carried out", error, false);
            verdict.note(format!("logs are in {}", plan.directory.display()));
            verdict
        });
        print!("{}", verdict.text());
        verdicts.push(verdict);
    }
    if let Some(file) = &args.json {
        let all: Vec<_> = verdicts.iter().map(Verdict::json).collect();
        std::fs::write(file, serde_json::Value::from(all).to_string()).map_err(|error| error.to_string())?;
    }
    Ok(verdicts.iter().all(Verdict::is_passed))
}

fn plan(args: &Args, scenario: &Scenario) -> Result<Plan, String> {
    let folder = format!("broky-failover-{}", std::process::id());
    let logs = args.logs.clone().unwrap_or_else(|| std::env::temp_dir().join(folder));
    Ok(Plan {
        scenario: scenario.name.to_owned(),
        binary: binary(args.binary.as_ref())?,
        directory: logs.join(scenario.name),
        runs: args.runs,
        seed: args.seed,
        vbuckets: args.vbuckets,
        rate_per_second: args.rate,
    })
}
