//! The scenarios, one file each.

mod bounce;
mod churn;
mod disk;
mod herd;
mod memory;
mod pause;
mod rolling;
mod slow;
mod total;

use super::Scenario;

/// Every scenario, by its number in the ranked list.
pub const SCENARIOS: &[Scenario] = &[
    bounce::SCENARIO,
    pause::SCENARIO,
    total::SCENARIO,
    rolling::SCENARIO,
    churn::SCENARIO,
    slow::SCENARIO,
    herd::SCENARIO,
    memory::SCENARIO,
    disk::SCENARIO,
];
