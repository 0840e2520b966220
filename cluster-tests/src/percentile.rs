//! Percentiles of what was measured.

use std::time::Duration;

/// The value that a share of all does not exceed: nearest rank. Zero of nothing.
#[must_use]
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_a_value_that_was_measured() {
        let values: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!((percentile(&values, 50).as_millis(), percentile(&values, 99).as_millis()), (50, 99));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
        assert_eq!(percentile(&values[..1], 99).as_millis(), 1);
    }
}
