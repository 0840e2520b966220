//! `broky demo`: the broker's main job on real lines, with a death in the middle, watched and judged.
//!
//! Three nodes are started as processes of their own and form a cluster. A producer pushes lines; subscribers with
//! different patterns read them over real connections. In the middle the node that has taken the most pushes is killed
//! with `kill -9`; later it is started again, with nothing, and catches up under load. What each subscriber must get is
//! worked out from the input beside the broker: every message that was acked, once, in order per key_partition, with
//! the bytes that were pushed.
//!
//! The interruption is the longest span in which no push to the key_partitions that the dead node led was acked, from
//! the last ack before to the first one after, as the producer sees it; it is measured until the node is started again.

mod acks;
mod input;
mod nodes;
mod numbers;
mod pusher;
mod readers;
mod report;
mod tally;
mod teller;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use broky_client::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use self::input::Input;
use self::nodes::{MEMORY_MIB, Nodes};
use self::pusher::Pusher;
use self::readers::Readers;
use self::report::Report;
use self::tally::Verdict;
use self::teller::{Teller, show_time};
use crate::args::DemoArgs;
use crate::exit::{FAILED, INTERRUPTED, fail};
use crate::status::Status;
use crate::units::show_count;

/// A pattern, and which keys that means.
type Subscriber = (&'static str, fn(&[u8]) -> bool);

/// What the demo's subscribers ask for, and, said without the broker's patterns, which keys that means.
const SUBSCRIBERS: [Subscriber; 4] = [
    ("*", |_| true),
    ("line.short", |key| key == b"line.short"),
    ("line.l*", |key| key.starts_with(b"line.l")),
    ("*.???", |key| key.len() >= 4 && key.get(key.len() - 4) == Some(&b'.')),
];
const NAMES: [&str; 3] = ["n1", "n2", "n3"];
/// Of a hundred lines: when the busiest node is looked for, when it dies, and when it comes back.
const CHOICE_PERCENT: u64 = 35;
const DEATH_PERCENT: u64 = 40;
const RETURN_PERCENT: u64 = 60;
/// Time that a node may take to catch up.
const FULL_WITHIN: Duration = Duration::from_secs(30);

pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let input = Arc::new(Input::open(args)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        // Before there is anything that a signal must not leave behind.
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let teller = Teller::new();
        tokio::select! {
            outcome = demo(&input, teller) => outcome,
            _ = interrupt.recv() => Err(interrupted(teller)),
            _ = terminate.recv() => Err(interrupted(teller)),
        }
    });
    // A question to a dead node must not keep the process.
    runtime.shutdown_background();
    outcome
}

fn interrupted(teller: Teller) -> anyhow::Error {
    teller.say("interrupted: the nodes are stopped");
    fail(INTERRUPTED, "interrupted")
}

async fn demo(input: &Arc<Input>, teller: Teller) -> anyhow::Result<()> {
    teller.say(format_args!("starting three nodes on this machine, {MEMORY_MIB} MiB for messages each"));
    let mut nodes = Nodes::start(&NAMES).await?;
    let outcome = Demo::start(input, teller, &nodes).await;
    let outcome = match outcome {
        Ok(demo) => demo.run(&mut nodes).await,
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        teller.say(format_args!("what the nodes said is in {}", nodes.keep_logs().display()));
    }
    outcome
}

/// A demo under way.
struct Demo {
    input: Arc<Input>,
    teller: Teller,
    client: Client,
    pusher: Pusher,
    readers: Readers,
}

/// The node that is to die.
struct Victim {
    at: usize,
    name: String,
    status: Status,
    /// Which key_partitions it leads.
    leads: Vec<bool>,
    /// The admin address of a node that lives on.
    survivor: String,
}

impl Demo {
    async fn start(input: &Arc<Input>, teller: Teller, nodes: &Nodes) -> anyhow::Result<Self> {
        let addresses: Vec<_> = nodes.iter().map(|node| node.client.to_string()).collect();
        for node in nodes.iter().take(1) {
            let cluster = watch::status(&node.admin).await?.cluster;
            teller.say(format_args!(
                "they are a cluster: {} vbuckets, {} copies of each, {} of which must hold a message",
                cluster.vbuckets, cluster.replicas, cluster.min_isr
            ));
        }
        let readers = Readers::start(&addresses, input).await?;
        let client = Client::connect(addresses).await?;
        let pusher = Pusher::start(&client, input)?;
        Ok(Self { input: input.clone(), teller, client, pusher, readers })
    }

    async fn run(mut self, nodes: &mut Nodes) -> anyhow::Result<()> {
        let (total, teller) = (self.input.total(), self.teller);
        let at = |percent: u64| total / 100 * percent + total % 100 * percent / 100;
        teller.say(format_args!(
            "{} subscribers listen; pushing {} lines from {}",
            SUBSCRIBERS.len(),
            show_count(total),
            self.input.name()
        ));
        self.pusher.push(0..at(CHOICE_PERCENT), &mut self.readers).await?;
        // Pushing goes on, so that the death finds pushes on their way.
        let admins = nodes.iter().map(|node| node.admin.clone()).collect();
        let choosing = tokio::spawn(choose(admins, self.client.clone(), self.input.clone()));
        let mut percent = CHOICE_PERCENT;
        while percent < DEATH_PERCENT || percent < RETURN_PERCENT - 1 && !choosing.is_finished() {
            self.pusher.push(at(percent)..at(percent + 1), &mut self.readers).await?;
            percent += 1;
        }
        let victim = choosing.await??;
        self.kill(&victim, nodes);
        self.pusher.push(at(percent)..at(RETURN_PERCENT), &mut self.readers).await?;
        // With few lines all of them may be on their way before anybody has taken over.
        self.pusher.settle(..at(RETURN_PERCENT)).await;
        let interruption = self.pusher.watch(victim.leads.clone());
        teller.say(format_args!(
            "others lead in its place: no push to what it led was acked for {}",
            show_time(interruption.all)
        ));
        nodes.start_one(victim.at)?;
        teller.say(format_args!("{} is started again, with nothing", victim.name));
        let returning = self.wait_for(&victim);
        self.pusher.push(at(RETURN_PERCENT)..total, &mut self.readers).await?;
        let pushed = self.pusher.finish().await?;
        teller.say(format_args!("everything is pushed: {} of {} lines acked", pushed.acked, pushed.pushed));
        let returned = returning.await??;
        self.readers.until_done().await?;
        let tallies = self.readers.stop().await?;
        self.client.close().await;
        let verdicts: Vec<Verdict> = tallies.iter().map(|tally| tally.judge(&self.input, &pushed.unacked)).collect();
        let report = Report { victim: victim.name, pushed, verdicts, interruption, returned };
        report.print()?;
        if report.is_good() { Ok(()) } else { Err(fail(FAILED, "the demo did not go as promised")) }
    }

    fn kill(&self, victim: &Victim, nodes: &mut Nodes) {
        let Victim { name, status, .. } = victim;
        let pid = nodes.get(victim.at).map_or(0, nodes::DemoNode::pid);
        let partitions = victim.leads.iter().filter(|is_led| **is_led).count();
        let leads_raft = status.cluster.raft.leader.as_ref() == Some(name);
        self.teller.say(format_args!(
            "{name} is the busiest: it leads {partitions} of {} key_partitions{}, and serves {} of {} subscribers",
            victim.leads.len(),
            if leads_raft { " and the control plane" } else { "" },
            status.subscriptions,
            SUBSCRIBERS.len()
        ));
        self.teller.say(format_args!("kill -9 {pid}, which is {name}; pushing goes on"));
        self.pusher.watch(victim.leads.clone());
        nodes.kill(victim.at);
    }

    /// Waits, beside the pushing, until the node that was started again holds everything.
    fn wait_for(&self, victim: &Victim) -> JoinHandle<anyhow::Result<Duration>> {
        let before = victim.status.cluster.nodes.iter().find(|node| node.name == victim.name);
        let before = before.map_or(0, |node| node.incarnation);
        let (name, survivor, teller) = (victim.name.clone(), victim.survivor.clone(), self.teller);
        tokio::spawn(async move {
            let time = watch::until_full_isr(&survivor, &name, before, FULL_WITHIN).await?;
            teller.say(format_args!(
                "{name} has caught up after {}: every vbucket has all its copies in sync",
                show_time(time)
            ));
            Ok(time)
        })
    }
}

/// The busiest of the nodes with these admin addresses: that which has taken the most pushes.
async fn choose(admins: Vec<String>, client: Client, input: Arc<Input>) -> anyhow::Result<Victim> {
    let mut statuses = Vec::new();
    for admin in &admins {
        statuses.push(watch::status(admin).await?);
    }
    let busiest = statuses.into_iter().enumerate().max_by_key(|(_, s)| (s.pushed_messages, s.vbuckets_led));
    let (at, status) = busiest.ok_or_else(|| fail(FAILED, "there are no nodes"))?;
    let survivor = admins.into_iter().enumerate().find(|(other, _)| *other != at);
    let map = client.topology().await?;
    let is_led = |name: &[u8]| map.leader(map.vbucket_of(name, b"")).is_some_and(|(node, _)| node.name == status.name);
    Ok(Victim {
        at,
        name: status.name.clone(),
        leads: input.partition_names().map(is_led).collect(),
        survivor: survivor.map(|(_, admin)| admin).unwrap_or_default(),
        status,
    })
}
