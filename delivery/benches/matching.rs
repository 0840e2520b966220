//! Nanoseconds to match one key against 100,000 exact patterns and 10,000 prefixes and globs.
//!
//! `cargo bench -p broky-delivery`. A plain timed loop: what is wanted is the mean over a million distinct keys in
//! random order, with the caches as cold as they are in the broker, not the best case of one key in a loop. The keys
//! lie one behind the other in the order they are asked for, as they do in a block that was just received.

use std::hint::black_box;
use std::time::Instant;

use broky_delivery::index::PatternIndex;
use broky_delivery::pattern::Pattern;

const EXACT: u64 = 100_000;
const ROUNDS: u32 = 5;
const REGIONS: [&str; 4] = ["us", "eu", "asia", "latam"];

fn main() {
    // `cargo test --benches` runs this too: then it only has to work.
    let keys = if std::env::args().any(|arg| arg == "--bench") { 1_000_000 } else { 1_000 };
    let mut random = Random(42);
    let index = subscribed();
    println!("{} patterns, {keys} distinct keys per line, mean of the best of {ROUNDS} rounds", index.len());

    measure("exact hit", &index, &Keys::new(keys, |n| order_key(n % EXACT), &mut random));
    measure("miss, nothing alike", &index, &Keys::new(keys, |n| format!("user-{n:08x}/inbox"), &mut random));
    measure("miss, alike", &index, &Keys::new(keys, |n| order_key(EXACT + n), &mut random));
    measure("prefix hit", &index, &Keys::new(keys, market_key, &mut random));
    measure("glob hit", &index, &Keys::new(keys, glob_key, &mut random));
    measure("exact, prefix and glob hit", &index, &Keys::new(keys, several_key, &mut random));
    measure("mixed", &index, &Keys::new(keys, mixed_key, &mut random));
    measure("mixed, skewed to few keys", &index, &Keys::skewed(keys, mixed_key, &mut random));
    let index = filled((0..10_000).map(|n| format!("*.{n:04}.*")));
    measure("10,000 globs `*.NNNN.*`", &index, &Keys::new(keys / 10, market_key, &mut random));
    let index = filled((0..10_000).map(|n| format!("sensor.*.temp{n:04}")));
    let rooms = |n| format!("sensor.room{n}.temp{:04}", n % 10_000);
    measure("10,000 globs `sensor.*.tempNNNN`", &index, &Keys::new(keys / 10, rooms, &mut random));
    let index = filled((1..1_000).map(|n| "x".repeat(n) + "*"));
    measure("prefixes of 999 lengths, short keys", &index, &Keys::new(keys, market_key, &mut random));
    let long = |n| format!("{}{n}", "y".repeat(1_000));
    measure("prefixes of 999 lengths, 1 KB keys", &index, &Keys::new(keys / 100, long, &mut random));
    edits();
}

/// 100,000 exact patterns, 6,000 prefixes, 4,000 globs of several shapes. Every value has eleven patterns.
fn subscribed() -> PatternIndex<u32> {
    let exact = (0..EXACT).map(order_key);
    let prefixes = (0..4_000).map(|n| format!("market.{}.{:04}.*", region(n), n / 4));
    let deeper = (0..2_000).map(|n| format!("orders.{}.{:05}*", region(n * 50), n * 50));
    let sensors = (0..2_000).map(|n| format!("sensor.{n}.*.temp"));
    let everywhere = ["sensor.*.temp", "sensor.*.fire", "*.alarm", "orders.*0.state"].map(String::from).into_iter();
    let singles = (0..1_500).map(|n| format!("a?c.{n}.*"));
    let suffixes = (0..496).map(|n| format!("*.suffix{n}"));
    filled(exact.chain(prefixes).chain(deeper).chain(sensors).chain(everywhere).chain(singles).chain(suffixes))
}

fn filled(patterns: impl Iterator<Item = String>) -> PatternIndex<u32> {
    let mut index = PatternIndex::new();
    for (value, text) in (0_u32..).zip(patterns) {
        index.insert(&parsed(&text), value % 10_000);
    }
    index
}

/// What an insert and a remove cost on top of the full index.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn edits() {
    let mut index = subscribed();
    let patterns = (0..10_000).flat_map(|n| [format!("new.{n}"), format!("new.{n}.*"), format!("new.{n}.*.x")]);
    let patterns = patterns.map(|text| parsed(&text)).collect::<Vec<_>>();
    let started = Instant::now();
    patterns.iter().for_each(|pattern| index.insert(pattern, 7));
    println!("{:<40}{:>9.0} ns", "insert", started.elapsed().as_secs_f64() * 1e9 / patterns.len() as f64);
    let started = Instant::now();
    let removed = patterns.iter().filter(|pattern| index.remove(pattern, 7)).count();
    println!("{:<40}{:>9.0} ns", "remove", started.elapsed().as_secs_f64() * 1e9 / patterns.len() as f64);
    assert_eq!(removed, patterns.len());
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn measure(name: &str, index: &PatternIndex<u32>, keys: &Keys) {
    let mut out = Vec::with_capacity(1_024);
    let mut best = f64::INFINITY;
    let mut found = 0;
    for _ in 0..ROUNDS {
        found = 0;
        let started = Instant::now();
        for key in keys.iter() {
            out.clear();
            index.matches(black_box(key), &mut out);
            found += black_box(&out).len();
        }
        best = best.min(started.elapsed().as_secs_f64());
    }
    let count = keys.ends.len() as f64;
    println!("{name:<40}{:>9.0} ns{:>8.2} values per key", best * 1e9 / count, found as f64 / count);
}

#[expect(clippy::expect_used, reason = "the texts are this file's own")]
fn parsed(text: &str) -> Pattern {
    Pattern::parse(text.as_bytes()).expect("the benchmark's patterns are valid")
}

fn region(n: u64) -> &'static str {
    REGIONS.into_iter().nth(usize::try_from(n % 4).unwrap_or(0)).unwrap_or("us")
}

fn order_key(n: u64) -> String {
    format!("orders.{}.{n:05}.state", region(n))
}

fn market_key(n: u64) -> String {
    format!("market.{}.{:04}.{n}", region(n), n / 4 % 1_000)
}

fn glob_key(n: u64) -> String {
    match n % 3 {
        0 => format!("sensor.{}.room{n}.temp", n % 2_000),
        1 => format!("abc.{}.{n}", n % 1_500),
        _ => format!("service{n}.suffix{}", n % 496),
    }
}

/// An exact pattern, a prefix and a glob each time.
fn several_key(n: u64) -> String {
    order_key(n * 50 % EXACT)
}

/// Half match nothing, the others one or several.
fn mixed_key(n: u64) -> String {
    match n % 8 {
        0 | 1 => order_key(n % EXACT),
        2 => market_key(n),
        3 => glob_key(n / 8),
        4 | 5 => format!("user-{n:08x}/inbox"),
        6 => order_key(EXACT + n),
        _ => format!("sensor.{}.humidity", n),
    }
}

/// Keys in the order they are asked for, one behind the other in memory.
struct Keys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    /// Keys 0 to `count`, shuffled.
    fn new(count: u64, key: impl Fn(u64) -> String, random: &mut Random) -> Self {
        let mut order = (0..count).collect::<Vec<_>>();
        for at in (1..order.len()).rev() {
            order.swap(at, usize::try_from(random.below(at as u64 + 1)).unwrap_or(0));
        }
        Self::of(order.into_iter().map(key))
    }

    /// As many keys, low numbers far more often: half of the draws go to the first eighth, and a sixth of those again.
    fn skewed(count: u64, key: impl Fn(u64) -> String, random: &mut Random) -> Self {
        Self::of((0..count).map(|_| (0..3).fold(count, |bound, _| random.below(bound) + 1) - 1).map(key))
    }

    fn of(keys: impl Iterator<Item = String>) -> Self {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for key in keys {
            bytes.extend_from_slice(key.as_bytes());
            ends.push(bytes.len());
        }
        Self { bytes, ends }
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| self.bytes.get(std::mem::replace(&mut start, *end)..*end).unwrap_or_default())
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % bound
    }
}
