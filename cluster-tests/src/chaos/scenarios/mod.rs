//! The scenarios, one file each.

mod between;
mod bounce;
mod choreography;
mod churn;
mod disk;
mod herd;
mod jitter;
mod last_replica;
mod late_add;
mod memory;
mod one_way;
mod overlap;
mod partition;
mod pause;
mod rolling;
mod slow;
mod total;

use super::Scenario;

/// Every scenario, by its number in the ranked list.
pub const SCENARIOS: &[Scenario] = &[
    bounce::SCENARIO,
    between::SCENARIO,
    pause::SCENARIO,
    choreography::SCENARIO,
    partition::SCENARIO,
    one_way::SCENARIO,
    overlap::SCENARIO,
    total::SCENARIO,
    last_replica::SCENARIO,
    late_add::SCENARIO,
    rolling::SCENARIO,
    churn::SCENARIO,
    jitter::SCENARIO,
    slow::SCENARIO,
    herd::SCENARIO,
    memory::SCENARIO,
    disk::SCENARIO,
];

/// Those that can be done to the containers of `docker-compose.yml` as well: there are three, whose links cannot be
/// broken one by one, and whose disks are Docker's.
pub const FOR_CONTAINERS: &[Scenario] =
    &[bounce::SCENARIO, pause::SCENARIO, partition::SCENARIO, total::SCENARIO, rolling::SCENARIO];
