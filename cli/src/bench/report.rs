//! The result, for people and for scripts.

use std::io::Write as _;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::args::Mode;
use super::drive::Outcome;
use super::machine::Machine;
use super::plan::{Length, Plan};
use super::units::human;

/// Percentiles in microseconds.
#[derive(Serialize, Clone, Copy, Debug)]
struct LatencyUs {
    samples: u64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p999: f64,
    max: f64,
}

impl LatencyUs {
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let at = |quantile| micros(histogram.value_at_quantile(quantile));
        (!histogram.is_empty()).then(|| Self {
            samples: histogram.len(),
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: micros(histogram.max()),
        })
    }
}

#[derive(Serialize, Debug)]
struct Parameters {
    mode: String,
    address: String,
    read_from: String,
    publishers: usize,
    subscribers: usize,
    subscribers_per_connection: usize,
    size: usize,
    keys: usize,
    seconds: Option<f64>,
    messages: Option<u64>,
    warmup_seconds: f64,
    rate: Option<u64>,
    batch_bytes: usize,
    window_messages: u64,
    burst_messages: Option<u64>,
    threads: usize,
}

impl Parameters {
    fn of(plan: &Plan) -> Self {
        let (seconds, messages) = match plan.length {
            Length::Time(time) => (Some(time.as_secs_f64()), None),
            Length::Messages(messages) => (None, Some(messages)),
        };
        Self {
            mode: plan.mode.to_string(),
            address: plan.broker.address(),
            read_from: plan.read_from.to_string(),
            publishers: plan.publishers,
            subscribers: plan.subscribers,
            subscribers_per_connection: plan.subscribers_per_connection,
            size: plan.size,
            keys: plan.keys,
            seconds,
            messages,
            warmup_seconds: plan.warmup.as_secs_f64(),
            rate: (plan.mode == Mode::OpenLoop).then_some(plan.rate),
            batch_bytes: plan.batch_bytes,
            window_messages: plan.window_messages,
            burst_messages: plan.burst_messages,
            threads: plan.threads,
        }
    }
}

#[derive(Serialize, Debug)]
struct Report<'a> {
    broker: &'static str,
    broker_version: &'a str,
    bench_version: &'static str,
    parameters: Parameters,
    machine: &'a Machine,
    connect_seconds: f64,
    measured_seconds: f64,
    published_per_second: f64,
    delivered_per_second: f64,
    /// Payload, delivered; 10^6 bytes.
    megabytes_per_second: f64,
    latency_us: Option<LatencyUs>,
    sent: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    foreign: u64,
    failure: Option<&'a str>,
}

impl<'a> Report<'a> {
    fn new(plan: &'a Plan, machine: &'a Machine, outcome: &'a Outcome) -> Self {
        let seconds = outcome.measured.as_secs_f64();
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let delivered_per_second = per_second(outcome.delivered);
        Self {
            broker: plan.broker.name(),
            broker_version: &outcome.description,
            bench_version: env!("CARGO_PKG_VERSION"),
            parameters: Parameters::of(plan),
            machine,
            connect_seconds: outcome.connecting.as_secs_f64(),
            measured_seconds: seconds,
            published_per_second: per_second(outcome.published),
            delivered_per_second,
            megabytes_per_second: delivered_per_second * plan.size as f64 / 1e6,
            latency_us: LatencyUs::of(&outcome.latencies),
            sent: outcome.sent_total,
            lost: outcome.losses.lost,
            duplicated: outcome.losses.duplicated,
            reordered: outcome.losses.reordered,
            foreign: outcome.losses.foreign,
            failure: outcome.failure.as_deref(),
        }
    }

    fn table(&self) -> String {
        let p = &self.parameters;
        let mut rows = vec![
            ("broker", format!("{} at {}", self.broker_version, p.address)),
            ("work", format!("{}, {} -> {}, {} B, {} key(s)", p.mode, p.publishers, p.subscribers, p.size, p.keys)),
            ("measured", format!("{:.2} s after {:.2} s of warm-up", self.measured_seconds, p.warmup_seconds)),
            ("published/s", human(self.published_per_second)),
            ("delivered/s", human(self.delivered_per_second)),
            ("MB/s", human(self.megabytes_per_second)),
        ];
        if let Some(l) = self.latency_us {
            let text = format!(
                "p50 {:.1}   p90 {:.1}   p99 {:.1}   p99.9 {:.1}   max {:.1}",
                l.p50, l.p90, l.p99, l.p999, l.max
            );
            rows.push(("latency us", text));
        }
        let losses = format!("{} lost, {} repeated, {} out of order", self.lost, self.duplicated, self.reordered);
        rows.push(("checked", format!("{} sent: {losses}", human(self.sent as f64))));
        rows.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect()
    }
}

/// Prints the result to stdout.
///
/// # Errors
/// stdout cannot be written to.
pub(crate) fn print(plan: &Plan, machine: &Machine, outcome: &Outcome, as_json: bool) -> Result<()> {
    let report = Report::new(plan, machine, outcome);
    let text = if as_json { serde_json::to_string(&report)? + "\n" } else { report.table() };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}
