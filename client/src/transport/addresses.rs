//! Which addresses there are, and in which order to try them.
//!
//! Pure. Some were given by the application, some were learnt from the cluster map. A learnt one may be of no use from
//! here (a container's host name), and a node that is paused still completes TCP handshakes. So an address that failed
//! is tried last, for a time that doubles with each failure, and only an answer to a call clears it. It is never left
//! out: when nothing else is reachable it may be.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// How long an address is tried last after its first failure, and at the most.
const SHUN_FIRST: Duration = Duration::from_millis(500);
const SHUN_MAX: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(super) struct Addresses {
    all: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    address: Arc<str>,
    /// Given by the application: it is never forgotten.
    is_given: bool,
    /// Whether a node answered there.
    is_proven: bool,
    /// Failures since it last answered.
    failures: u32,
    shunned_until: Option<Instant>,
}

impl Known {
    fn new(address: Arc<str>, is_given: bool) -> Self {
        Self { address, is_given, is_proven: false, failures: 0, shunned_until: None }
    }

    fn is_shunned(&self, now: Instant) -> bool {
        self.shunned_until.is_some_and(|until| now < until)
    }
}

impl Addresses {
    pub(super) fn new(given: Vec<Arc<str>>) -> Self {
        Self { all: given.into_iter().map(|address| Known::new(address, true)).collect() }
    }

    /// Takes the addresses of the cluster map; what was learnt earlier and is not among them is forgotten.
    pub(super) fn learn(&mut self, listed: &[Arc<str>]) {
        self.all.retain(|known| known.is_given || listed.contains(&known.address));
        for address in listed {
            if self.find(address).is_none() {
                self.all.push(Known::new(Arc::clone(address), false));
            }
        }
    }

    /// No connection could be made, or a stream there broke or went silent.
    pub(super) fn handle_failure(&mut self, address: &str, now: Instant) {
        let Some(known) = self.all.iter_mut().find(|known| *known.address == *address) else { return };
        // All that was under way there fails together: that counts once.
        if known.is_shunned(now) {
            return;
        }
        let time = SHUN_FIRST.saturating_mul(1 << known.failures.min(10)).min(SHUN_MAX);
        known.failures = known.failures.saturating_add(1);
        known.shunned_until = Some(now + time);
    }

    /// A node answered a call there.
    pub(super) fn handle_answer(&mut self, address: &str) {
        if let Some(known) = self.all.iter_mut().find(|known| *known.address == *address) {
            *known = Known { is_proven: true, ..Known::new(Arc::clone(&known.address), known.is_given) };
        }
    }

    /// Whether an address is known and did not fail lately.
    pub(super) fn is_trusted(&self, address: &str, now: Instant) -> bool {
        self.find(address).is_some_and(|known| !known.is_shunned(now))
    }

    /// Every address: `wanted` first if it is trusted; then what is trusted and was given or has answered before; then
    /// what is trusted otherwise; then what failed lately; `avoid` last. In random order within each.
    pub(super) fn order(
        &self,
        wanted: Option<&str>,
        avoid: Option<&str>,
        now: Instant,
        mut random: impl FnMut() -> u64,
    ) -> Vec<Arc<str>> {
        let rank = |known: &Known| {
            let is_shunned = known.is_shunned(now);
            if avoid == Some(&*known.address) {
                return 4;
            }
            match (is_shunned, known.is_given || known.is_proven) {
                (true, _) => 3,
                (false, _) if wanted == Some(&*known.address) => 0,
                (false, true) => 1,
                (false, false) => 2,
            }
        };
        let mut keyed: Vec<(u8, u64, &Arc<str>)> =
            self.all.iter().map(|known| (rank(known), random(), &known.address)).collect();
        keyed.sort_unstable();
        keyed.into_iter().map(|(.., address)| Arc::clone(address)).collect()
    }

    fn find(&self, address: &str) -> Option<&Known> {
        self.all.iter().find(|known| *known.address == *address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(given: &[&str], learnt: &[&str]) -> Addresses {
        let list = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<Vec<Arc<str>>>();
        let mut addresses = Addresses::new(list(given));
        addresses.learn(&list(learnt));
        addresses
    }

    fn order(addresses: &Addresses, wanted: Option<&str>, avoid: Option<&str>, now: Instant) -> Vec<String> {
        let mut count = 0;
        let random = || {
            count += 1;
            count
        };
        addresses.order(wanted, avoid, now, random).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn avoided_address_comes_last_and_the_wanted_one_first() {
        let now = Instant::now();
        let addresses = addresses(&["a:1", "b:1"], &["c:1", "a:1"]);
        assert_eq!(order(&addresses, Some("c:1"), Some("a:1"), now), ["c:1", "b:1", "a:1"]);
        assert_eq!(order(&addresses, None, None, now), ["a:1", "b:1", "c:1"]);
    }

    #[test]
    fn failed_address_comes_late_for_a_time_that_doubles() {
        let mut now = Instant::now();
        let mut addresses = addresses(&["a:1", "b:1"], &["c:1"]);
        for time in [500, 1_000, 2_000] {
            addresses.handle_failure("a:1", now);
            addresses.handle_failure("a:1", now);
            assert!(!addresses.is_trusted("a:1", now));
            assert_eq!(order(&addresses, Some("a:1"), None, now), ["b:1", "c:1", "a:1"]);
            now += Duration::from_millis(time - 1);
            assert!(!addresses.is_trusted("a:1", now));
            now += Duration::from_millis(1);
            assert!(addresses.is_trusted("a:1", now));
        }
        for _ in 0..40 {
            addresses.handle_failure("a:1", now);
            now += SHUN_MAX;
            assert!(addresses.is_trusted("a:1", now));
        }
    }

    #[test]
    fn answer_clears_failures() {
        let now = Instant::now();
        let mut addresses = addresses(&["a:1"], &["c:1", "b:1"]);
        addresses.handle_failure("b:1", now);
        addresses.handle_answer("b:1");
        assert_eq!(order(&addresses, None, None, now), ["a:1", "b:1", "c:1"], "it has answered, c has not");
    }

    #[test]
    fn learnt_addresses_are_forgotten_and_given_ones_are_not() {
        let now = Instant::now();
        let mut addresses = addresses(&["a:1"], &["b:1"]);
        addresses.learn(&[Arc::from("c:1")]);
        assert_eq!(order(&addresses, None, None, now), ["a:1", "c:1"]);
        assert!(!addresses.is_trusted("b:1", now));
    }
}
