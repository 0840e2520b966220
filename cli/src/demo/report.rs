//! What the demo shows at its end.

use std::time::Duration;

use super::expect::Tally;
use crate::units::show_count;

/// Prints what each subscriber got, and the verdict. Returns whether everything is as it must be.
pub(super) fn print(rows: &[(&str, &Tally, &Tally)], pushed: u64, push_time: Duration, time: Duration) -> bool {
    println!(
        "pushed and committed {} messages in {:.2} s, {}/s\n",
        show_count(pushed),
        push_time.as_secs_f64(),
        rate(pushed, push_time)
    );
    println!("  {:<12} {:>12} {:>12} {:>10}  order and content", "pattern", "expected", "delivered", "missed");
    let mut is_good = true;
    for (pattern, want, got) in rows {
        let agrees = got.agrees_with(want);
        is_good &= agrees && got.missed() == 0;
        let words = if agrees { "as pushed" } else { "WRONG" };
        println!("  {pattern:<12} {:>12} {:>12} {:>10}  {words}", want.messages(), got.messages(), got.missed());
    }
    let delivered = rows.iter().map(|(_, _, got)| got.messages()).sum();
    println!("\ndelivered {} messages, {}/s", show_count(delivered), rate(delivered, time));
    println!("verdict: {}", if is_good { "nothing lost, nothing repeated, order kept" } else { "FAILED" });
    is_good
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "shown with three digits"
)]
fn rate(count: u64, time: Duration) -> String {
    show_count((count as f64 / time.as_secs_f64().max(1e-9)) as u64)
}
