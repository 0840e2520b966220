//! One thread of the load generator: a single-threaded runtime with its share of the publishers and subscribers.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use tokio::task::LocalSet;

use super::check::Numbering;
use super::pace::Pace;
use super::plan::Plan;
use super::run::{Latencies, Outgoing, Phase, Shared, Sink, new_latencies};
use super::target::{Publish, Receive, Target};

/// What workers tell the coordinator.
pub(crate) enum Report {
    /// All subscribers of one worker are confirmed and its publishers connected. The first worker describes the broker.
    Ready { description: Option<String> },
    /// The run cannot go on.
    Failed(anyhow::Error),
}

/// The connections of one worker.
struct Share {
    publishers: Vec<u16>,
    /// Subscribers per connection.
    connections: Vec<usize>,
}

impl Share {
    /// Publishers are dealt from the first thread on, subscribers from the last: with two threads, one publisher and
    /// one subscriber do not share one.
    fn of(worker: usize, plan: &Plan) -> Self {
        let per_connection = plan.subscribers_per_connection;
        let publishers = (0..plan.publishers).filter(|index| index % plan.threads == worker);
        let connections = (0..plan.subscribers.div_ceil(per_connection))
            .filter(|index| plan.threads - 1 - index % plan.threads == worker)
            .map(|index| per_connection.min(plan.subscribers - index * per_connection));
        Self {
            publishers: publishers.filter_map(|index| u16::try_from(index).ok()).collect(),
            connections: connections.collect(),
        }
    }
}

/// Body of a worker thread. Returns when the run has finished, with the latencies seen.
///
/// # Errors
/// The runtime cannot be built. What happens to connections is told through `reports`.
pub(crate) fn work<T: Target>(
    worker: usize,
    shared: &Arc<Shared>,
    target: T,
    reports: Sender<Report>,
) -> Result<Histogram<u64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    let latencies: Latencies = Rc::new(RefCell::new(new_latencies()?));
    let crew = Crew { worker, shared: shared.clone(), latencies: latencies.clone(), target, reports };
    let tasks = LocalSet::new();
    runtime.block_on(tasks.run_until(crew.serve()));
    drop(tasks);
    Ok(latencies.replace(new_latencies()?))
}

struct Crew<T> {
    worker: usize,
    shared: Arc<Shared>,
    latencies: Latencies,
    target: T,
    reports: Sender<Report>,
}

impl<T: Target> Crew<T> {
    async fn serve(self) {
        let mut phase = self.shared.phase.subscribe();
        // The sender lives in `shared`: it cannot go away while anyone waits.
        let finished = async { phase.wait_for(|phase| *phase == Phase::Finished).await.is_ok() };
        let crew = async {
            if let Err(error) = self.start().await {
                let _ = self.reports.send(Report::Failed(error));
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = finished => {}
            () = crew => {}
        }
    }

    /// Connects everything, and spawns a task for each reader and publisher.
    async fn start(&self) -> Result<()> {
        let share = Share::of(self.worker, &self.shared.plan);
        for count in share.connections {
            for subscriber in self.target.subscribers(count).await.context("connecting a subscriber")? {
                self.spawn_subscriber(subscriber);
            }
        }
        for id in share.publishers {
            let publisher = self.target.publisher().await.context("connecting a publisher")?;
            self.spawn_publisher(id, publisher);
        }
        let description = if self.worker == 0 { Some(self.target.describe().await?) } else { None };
        let _ = self.reports.send(Report::Ready { description });
        Ok(())
    }

    fn spawn_subscriber(&self, mut subscriber: T::Subscriber) {
        let mut sink = Sink::new(self.shared.clone(), self.worker, self.latencies.clone(), subscriber.subscribers());
        let reports = self.reports.clone();
        tokio::task::spawn_local(async move {
            loop {
                let received = subscriber.receive(&mut sink).await;
                sink.settle();
                if let Err(error) = received {
                    let _ = reports.send(Report::Failed(error.context("a subscriber")));
                    return;
                }
            }
        });
    }

    fn spawn_publisher(&self, id: u16, mut publisher: T::Publisher) {
        let (shared, worker, reports) = (self.shared.clone(), self.worker, self.reports.clone());
        tokio::task::spawn_local(async move {
            let published = publish(&shared, worker, id, &mut publisher).await;
            shared.publishing.fetch_sub(1, Ordering::AcqRel);
            if let Err(error) = published {
                let _ = reports.send(Report::Failed(error.context("a publisher")));
            }
            // Its connection stays open until the run has finished.
            let _ = shared.phase.subscribe().wait_for(|phase| *phase == Phase::Finished).await;
        });
    }
}

/// Life of one publisher: as many messages as are due and as the window has room for, until it is closed.
async fn publish<P: Publish>(shared: &Shared, worker: usize, id: u16, publisher: &mut P) -> Result<()> {
    let started = shared.phase.subscribe().wait_for(|phase| *phase >= Phase::Running).await.map(|phase| *phase);
    if !matches!(started, Ok(Phase::Running)) {
        return Ok(());
    }
    let mut numbering = Numbering::new(id, shared.plan.keys);
    let mut pace = Pace::new(&shared.plan, id, shared.now_ns());
    loop {
        let due = pace.due(shared).await;
        let granted = shared.window.reserve(due).await;
        if granted == 0 {
            return publisher.finish().await;
        }
        let times = pace.take(granted, shared);
        publisher.publish(&mut Outgoing { numbering: &mut numbering, times, remaining: granted }).await?;
        shared.count_published(worker, granted);
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::super::args::BenchArgs;
    use super::*;

    fn plan(flags: &str) -> Plan {
        let command = BenchArgs::augment_args(clap::Command::new("bench"));
        let matches = command.get_matches_from(std::iter::once("bench").chain(flags.split_whitespace()));
        Plan::new(&BenchArgs::from_arg_matches(&matches).unwrap()).unwrap()
    }

    #[test]
    fn one_publisher_and_one_subscriber_do_not_share_a_thread() {
        let plan = plan("--threads 2");
        assert_eq!((Share::of(0, &plan).publishers, Share::of(0, &plan).connections), (vec![0], vec![]));
        assert_eq!((Share::of(1, &plan).publishers, Share::of(1, &plan).connections), (vec![], vec![1]));
    }

    #[test]
    fn every_subscriber_is_dealt_once() {
        let plan = plan("--threads 3 --subscribers 1001 --subscribers-per-connection 10 --publishers 7");
        let shares: Vec<_> = (0..3).map(|worker| Share::of(worker, &plan)).collect();
        assert_eq!(shares.iter().flat_map(|share| &share.connections).sum::<usize>(), 1001);
        let mut publishers: Vec<_> = shares.iter().flat_map(|share| share.publishers.clone()).collect();
        publishers.sort_unstable();
        assert_eq!(publishers, (0..7).collect::<Vec<_>>());
    }
}
