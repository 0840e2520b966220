//! Numbers and addresses as people write them.

use std::net::SocketAddr;
use std::time::Duration;

/// `4096`, `64KiB`, `8MiB`, `1GiB`: bytes.
pub(crate) fn parse_bytes(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.strip_prefix(digits).unwrap_or_default() {
        "" | "B" => 1,
        "KiB" | "K" | "k" => 1 << 10,
        "MiB" | "M" | "m" => 1 << 20,
        "GiB" | "G" | "g" => 1 << 30,
        other => return Err(format!("unknown unit {other:?}: use B, KiB, MiB or GiB")),
    };
    let count: usize = digits.trim().parse().map_err(|error| format!("{digits:?}: {error}"))?;
    count.checked_mul(unit).ok_or_else(|| "too many bytes".to_owned())
}

/// More than 30 years: what lies behind it cannot be told from a mistake, and clocks overflow at some time.
const SECONDS_MAX: f64 = 1e9;

/// `30`, `0.5`: seconds, more than none.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let duration = Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero() && seconds <= SECONDS_MAX);
    duration.ok_or_else(|| format!("must be more than 0 and at most {SECONDS_MAX} seconds"))
}

/// `node-1:7400`, `10.0.0.1:7400`, `[::1]:7400`: where something can be reached.
pub(crate) fn parse_host_port(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    let is_address = text.parse::<SocketAddr>().is_ok();
    // As in a URL: whoever connects makes one of it.
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._~%".contains(c);
    let is_host = !host.is_empty() && host.chars().all(is_name);
    let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
    if (is_address || is_host) && is_port { Ok(text.to_owned()) } else { Err("this is not host:port".to_owned()) }
}

/// `1.4 GiB`: bytes for a person.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub(crate) fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$} {}", UNITS.get(unit).unwrap_or(&"TiB"))
}

/// `3.1 M`, `870 k`: a count for a person.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub(crate) fn show_count(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..1_000_000 => format!("{:.0} k", count as f64 / 1e3),
        _ => format!("{:.2} M", count as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_with_their_unit() {
        assert_eq!(parse_bytes("512MiB"), Ok(512 << 20));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert!(parse_bytes("12 parsecs").is_err());
        assert!(parse_bytes("99999999999999GiB").is_err());
        assert!(parse_bytes("").is_err());
    }

    #[test]
    fn seconds_are_more_than_none_and_finite() {
        assert_eq!(parse_seconds("1.5"), Ok(Duration::from_millis(1500)));
        for bad in ["0", "-1", "nan", "inf", "1e10", "", "1s"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_and_port_are_both_wanted() {
        for good in ["127.0.0.1:1", "[::1]:7400", "node-1.example.org:7400"] {
            assert_eq!(parse_host_port(good), Ok(good.to_owned()));
        }
        for bad in ["", "node", "node:", ":1", "node:0", "node:65536", "::1:7400", "[::1]", "a b:1", "http://node:1"] {
            assert!(parse_host_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_are_shown_with_their_unit() {
        assert_eq!(show_bytes(1023), "1023 B");
        assert_eq!(show_bytes(1536), "1.5 KiB");
        assert_eq!(show_bytes(512 << 20), "512 MiB");
    }
}
