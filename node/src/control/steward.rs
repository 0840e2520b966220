//! What the raft leader does besides replicating: it puts the seed into a new group's log, keeps the group's members in
//! step with who is registered, and proposes the next moves.
//!
//! All of it is level-triggered: every round looks at what is and at what should be, and takes one step. So it does not
//! matter what an earlier leader had begun, nor whether a step was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use broky_proto::id::{Epoch, MapVersion, VBucketId};
use broky_ring::state::MoveLimits;
use openraft::{ChangeMembers, LogIdOptionExt as _};
use tokio::time::Instant;

use super::group::Group;
use super::propose::ProposeError;
use super::shared::Shared;
use super::timing;
use super::types::{Machine, Metrics, RaftId, Request};
use super::voters::{Change, View};

/// A round at least this often: raft does not tell of everything.
const ROUND: Duration = Duration::from_millis(250);
/// A member that lacks no more entries than this counts as having the log.
const LAG_MAX: u64 = 50;

/// Keeps the group in order while this process leads it. For ever.
pub(super) async fn keep_in_order(shared: Arc<Shared>, group: Arc<Group>) {
    let mut map = group.replicated.map();
    let mut metrics = group.raft.server_metrics();
    let mut steward = Steward::new(shared, group.clone());
    loop {
        tokio::select! {
            _ = map.changed() => {}
            _ = metrics.changed() => {}
            () = group.stir.notified() => {}
            () = tokio::time::sleep(ROUND) => {}
        }
        if !group.is_leader() {
            steward = Steward::new(steward.shared, steward.group);
            continue;
        }
        while steward.step().await.unwrap_or_else(|error| {
            tracing::debug!(%error, "the control plane cannot be put in order now");
            false
        }) {}
    }
}

struct Steward {
    shared: Arc<Shared>,
    group: Arc<Group>,
    /// Members of the group that are registered nowhere, and since when.
    unregistered: BTreeMap<RaftId, Instant>,
    /// Who was registered. Whoever is not any more has been forgotten or replaced.
    registered: BTreeSet<RaftId>,
    /// The map in which nothing is left to move.
    settled: Option<MapVersion>,
    /// The epoch of each vbucket, and since when it is known to be in that; `None`: for longer than is known.
    epochs: BTreeMap<VBucketId, (Epoch, Option<Instant>)>,
}

impl Steward {
    fn new(shared: Arc<Shared>, group: Arc<Group>) -> Self {
        Self {
            shared,
            group,
            unregistered: BTreeMap::new(),
            registered: BTreeSet::new(),
            settled: None,
            epochs: BTreeMap::new(),
        }
    }

    /// Takes one step. False when there is none to take.
    async fn step(&mut self) -> Result<bool, ProposeError> {
        if !self.group.is_seeded() {
            let Some(seed) = &self.group.seed else { return Ok(false) };
            self.group.write(Request::Seed(Box::new(seed.clone()))).await?;
            return Ok(true);
        }
        // A leader that has not committed anything yet has not applied everything either.
        if let Some(change) = self.next_change() {
            self.change(change).await?;
            return Ok(true);
        }
        self.move_on().await
    }

    fn next_change(&mut self) -> Option<Change> {
        let metrics = self.group.metrics();
        let membership = metrics.membership_config.membership();
        let wanted = self.group.replicated.with(Machine::peers);
        let map = self.group.replicated.map().borrow().clone();
        let unregistered: BTreeSet<RaftId> =
            membership.nodes().map(|(id, _)| *id).filter(|id| !wanted.contains_key(id)).collect();
        self.unregistered.retain(|id, _| unregistered.contains(id));
        for id in unregistered {
            self.unregistered.entry(id).or_insert_with(Instant::now);
        }
        self.registered.retain(|id| wanted.contains_key(id) || self.unregistered.contains_key(id));
        self.registered.extend(wanted.keys().copied());
        let is_overdue = |(id, since): (&RaftId, &Instant)| {
            (self.registered.contains(id) || since.elapsed() > timing::UNREGISTERED).then_some(*id)
        };
        let overdue = self.unregistered.iter().filter_map(is_overdue).collect();
        let caught_up = caught_up(&metrics);
        let view = View {
            me: self.group.raft_id,
            map: &map,
            wanted: &wanted,
            membership,
            caught_up: &caught_up,
            overdue: &overdue,
        };
        view.next_change()
    }

    async fn change(&self, change: Change) -> Result<(), ProposeError> {
        tracing::info!(?change, "the raft group changes");
        let change = match change {
            Change::Add(nodes) => ChangeMembers::AddNodes(nodes),
            Change::Update(nodes) => ChangeMembers::SetNodes(nodes),
            Change::Vote(voters) => ChangeMembers::ReplaceAllVoters(voters),
            Change::Remove(nodes) => ChangeMembers::RemoveNodes(nodes),
        };
        // Those who vote no longer stay to learn of it; removing them is a change of its own.
        let changing = self.group.raft.change_membership(change, true);
        match tokio::time::timeout(timing::COMMIT, changing).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the raft group was not changed");
                Err(ProposeError::Unknown)
            }
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// Proposes what brings the copies closer to where they should be.
    async fn move_on(&mut self) -> Result<bool, ProposeError> {
        let version = self.version();
        if self.settled == Some(version) {
            return Ok(false);
        }
        let restless = self.restless();
        let limits = MoveLimits::default();
        let moves = self.group.replicated.with(|machine| machine.state().next_moves_around(limits, &restless));
        for command in moves {
            self.group.write(Request::Command(command)).await?;
            // Each change of the map is work for every node, and those who push are to notice as little as may be.
            tokio::time::sleep(timing::MOVE_PACE).await;
        }
        if self.version() == version {
            // Nothing to move, or all of it was refused: the next change may make it possible, or time.
            self.settled = restless.is_empty().then_some(version);
            return Ok(false);
        }
        self.shared.beat.notify_one();
        Ok(true)
    }

    /// The vbuckets whose leader has changed a short while ago.
    fn restless(&mut self) -> BTreeSet<VBucketId> {
        let epochs: Vec<(VBucketId, Epoch)> = self
            .group
            .replicated
            .with(|machine| machine.state().map().vbuckets().map(|(id, vbucket)| (id, vbucket.epoch)).collect());
        let mut restless = BTreeSet::new();
        for (id, epoch) in epochs {
            let known = self.epochs.entry(id).or_insert((epoch, None));
            if known.0 != epoch {
                *known = (epoch, Some(Instant::now()));
            }
            if known.1.is_some_and(|since| since.elapsed() < timing::RETURN) {
                restless.insert(id);
            }
        }
        restless
    }

    fn version(&self) -> MapVersion {
        self.group.replicated.with(|machine| machine.state().map().version())
    }
}

/// The members that have the log, nearly.
fn caught_up(metrics: &Metrics) -> BTreeSet<RaftId> {
    let last = metrics.last_log_index.unwrap_or_default();
    let has_it = |(id, matched): (&RaftId, &Option<super::types::LogId>)| {
        matched.index().is_some_and(|index| index + LAG_MAX >= last).then_some(*id)
    };
    metrics.replication.iter().flatten().filter_map(has_it).collect()
}
