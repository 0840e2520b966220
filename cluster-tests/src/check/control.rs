//! What the control log said of each vbucket, and when everybody was dead who held it.
//!
//! Several nodes may tell of one entry; it counts from the moment at which the first of them applied it, and all of
//! them have to agree on what it says. Between two entries the earlier one holds.
//!
//! The *holders* of a vbucket are its ISR and those that left it below `min_isr`: each of them has everything
//! committed. An entry that leaves nobody changes nothing about who had it, so the last who did are looked at: emptying
//! an ISR on paper excuses no loss.

use std::collections::{BTreeMap, BTreeSet};

use broky_proto::id::{Lineage, MapVersion, Member, VBucketId};

use super::finding::{Finding, Findings, Origin};
use super::kind::Kind;
use super::lives::Lives;
use super::names::ClusterNo;
use crate::history::{Meta, Nanos};

/// Entries that are told before and after a moment.
const TOLD_BEFORE: usize = 3;
const TOLD_AFTER: usize = 5;

/// A vbucket as it is from one entry on.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    /// When the first node applied it.
    pub(crate) at: Nanos,
    pub(crate) origin: Origin,
    pub(crate) meta: Meta,
}

impl Version {
    /// Who has everything committed.
    pub(crate) fn holders(&self) -> impl Iterator<Item = Member> {
        self.meta.isr.iter().chain(&self.meta.eligible).copied()
    }

    fn words(&self) -> String {
        let Meta { index, epoch, isr_version, lineage, min_isr, .. } = &self.meta;
        let members = |members: &[Member]| members.iter().map(Member::to_string).collect::<Vec<_>>().join(", ");
        let leader = self.meta.leader.map_or("nobody".to_owned(), |leader| leader.to_string());
        let (isr, eligible) = (members(&self.meta.isr), members(&self.meta.eligible));
        let eligible = if eligible.is_empty() { eligible } else { format!(", eligible {{{eligible}}}") };
        format!(
            "{} entry {index}: lineage {lineage}, epoch {epoch}, leader {leader}, isr version {isr_version} {{{isr}}}\
             {eligible}, min_isr {min_isr}",
            self.at
        )
    }
}

/// The control log of every cluster, by vbucket.
#[derive(Default, Debug)]
pub(crate) struct ControlLog {
    by_vbucket: BTreeMap<(ClusterNo, VBucketId), Vec<Version>>,
    /// The newest entry that each node said it applied.
    newest: BTreeMap<(ClusterNo, VBucketId, String), (MapVersion, Nanos)>,
}

impl ControlLog {
    pub(crate) fn add(&mut self, cluster: ClusterNo, at: Nanos, origin: Origin, mut meta: Meta, all: &mut Findings) {
        if let Some(node) = meta.by.take() {
            let newest = self.newest.entry((cluster, meta.vbucket, node)).or_insert((meta.index, at));
            *newest = (*newest).max((meta.index, at));
        }
        let versions = self.by_vbucket.entry((cluster, meta.vbucket)).or_default();
        let place = versions.partition_point(|version| version.meta.index < meta.index);
        match versions.get_mut(place) {
            Some(known) if known.meta.index == meta.index => {
                if known.meta != meta {
                    all.add(Kind::MetaDiverged, at.max(known.at), || diverged(at.max(known.at), known, &meta, origin));
                }
                if (at, origin) < (known.at, known.origin) {
                    (known.at, known.origin) = (at, origin);
                }
            }
            Some(_) | None => versions.insert(place, Version { at, origin, meta }),
        }
    }

    /// Brings moments into the order of the log: an entry is in force no later than one behind it, even if whoever told
    /// of it was late.
    pub(crate) fn settle(&mut self) {
        for versions in self.by_vbucket.values_mut() {
            let mut next = Nanos(u64::MAX);
            for version in versions.iter_mut().rev() {
                version.at = version.at.min(next);
                next = version.at;
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_vbucket.is_empty()
    }

    /// Every lineage of a vbucket, in every cluster.
    pub(crate) fn lineages(&self, vbucket: VBucketId) -> BTreeSet<(ClusterNo, Lineage)> {
        let of_vbucket = self.vbuckets().filter(|(_, other, _)| *other == vbucket);
        of_vbucket
            .flat_map(|(cluster, _, versions)| versions.iter().map(move |it| (cluster, it.meta.lineage)))
            .collect()
    }

    /// Whether any vbucket went from one leader to another.
    pub(crate) fn has_leader_change(&self) -> bool {
        self.by_vbucket.values().any(|versions| {
            let mut leaders = versions.iter().filter_map(|version| version.meta.leader);
            let first = leaders.next();
            leaders.any(|leader| Some(leader) != first)
        })
    }

    /// What was said of a vbucket, in the order of the log.
    pub(crate) fn versions(&self, cluster: ClusterNo, vbucket: VBucketId) -> &[Version] {
        self.by_vbucket.get(&(cluster, vbucket)).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn vbuckets(&self) -> impl Iterator<Item = (ClusterNo, VBucketId, &[Version])> {
        self.by_vbucket.iter().map(|((cluster, vbucket), versions)| (*cluster, *vbucket, versions.as_slice()))
    }

    /// The newest entry that each node said it applied to a vbucket.
    pub(crate) fn newest_by_node(
        &self,
        cluster: ClusterNo,
        vbucket: VBucketId,
    ) -> impl Iterator<Item = (&str, MapVersion)> {
        let first = (cluster, vbucket, String::new());
        let of_vbucket = self.newest.range(first..).take_while(move |(key, _)| (key.0, key.1) == (cluster, vbucket));
        of_vbucket.map(|(key, (index, _))| (key.2.as_str(), *index))
    }

    /// The version that held at a moment.
    pub(crate) fn version_at(&self, cluster: ClusterNo, vbucket: VBucketId, at: Nanos) -> Option<&Version> {
        let versions = self.versions(cluster, vbucket);
        let now = versions.partition_point(|version| version.at <= at);
        now.checked_sub(1).and_then(|now| versions.get(now))
    }

    /// The moments at which the last holder of a lineage died.
    ///
    /// More than one only if somebody held the lineage again after that, which a correct control log never says.
    pub(crate) fn voids(&self, cluster: ClusterNo, vbucket: VBucketId, lineage: Lineage, lives: &Lives) -> Vec<Nanos> {
        let versions = self.versions(cluster, vbucket);
        let mut holders: Vec<Member> = Vec::new();
        let mut was_void = false;
        let mut voids = Vec::new();
        for (at, version) in versions.iter().enumerate() {
            if version.meta.lineage != lineage {
                continue;
            }
            let until = versions.get(at + 1).map_or(Nanos(u64::MAX), |next| next.at);
            let now: Vec<Member> = version.holders().collect();
            if !now.is_empty() {
                holders = now;
            }
            let void = last_death(&holders, cluster, lives).map(|death| death.max(version.at));
            let is_void = void.is_some_and(|void| void <= until);
            if is_void && !was_void {
                voids.extend(void);
            }
            was_void = is_void;
        }
        voids
    }

    /// Whether anybody ever held anything in a lineage.
    pub(crate) fn was_held(&self, cluster: ClusterNo, vbucket: VBucketId, lineage: Lineage) -> bool {
        let mut versions = self.versions(cluster, vbucket).iter();
        versions.any(|version| version.meta.lineage == lineage && version.holders().next().is_some())
    }

    /// What the log said of a vbucket around a moment, and how its holders ended.
    pub(crate) fn around(&self, cluster: ClusterNo, vbucket: VBucketId, at: Nanos, lives: &Lives) -> Vec<String> {
        let versions = self.versions(cluster, vbucket);
        let now = versions.partition_point(|version| version.at <= at);
        let told = versions.get(now.saturating_sub(TOLD_BEFORE)..(now + TOLD_AFTER).min(versions.len()));
        let told = told.unwrap_or_default();
        let mut members: Vec<Member> = told.iter().flat_map(Version::holders).collect();
        members.sort_unstable();
        members.dedup();
        let deaths = members.into_iter().filter_map(|member| {
            lives.death(cluster, member).map(|death| (death, format!("{death} process of {member} is gone")))
        });
        let mut lines: Vec<(Nanos, String)> = told.iter().map(|it| (it.at, it.words())).chain(deaths).collect();
        lines.sort_by_key(|(at, _)| *at);
        lines.into_iter().map(|(_, words)| words).collect()
    }
}

/// When the last of them died. `None` while one lives, and when there is nobody.
fn last_death(holders: &[Member], cluster: ClusterNo, lives: &Lives) -> Option<Nanos> {
    let deaths: Option<Vec<Nanos>> = holders.iter().map(|member| lives.death(cluster, *member)).collect();
    deaths?.into_iter().max()
}

fn diverged(at: Nanos, known: &Version, meta: &Meta, origin: Origin) -> Finding {
    let what = format!("entry {} says two things of vbucket {}", meta.index, meta.vbucket);
    Finding::new(Kind::MetaDiverged, at, what).with("one", known.origin).with("other", origin)
}

#[cfg(test)]
mod tests {
    use broky_proto::id::{Epoch, Incarnation, IsrVersion, NodeId};

    use super::*;
    use crate::history::Pid;

    const CLUSTER: ClusterNo = ClusterNo(0);
    const VBUCKET: VBucketId = VBucketId(3);
    const NEVER: [u64; 0] = [];

    fn member(node: u32) -> Member {
        Member { node: NodeId(node), incarnation: Incarnation(u64::from(node) + 100) }
    }

    fn meta(index: u64, lineage: u64, isr: &[u32], eligible: &[u32]) -> Meta {
        let members = |nodes: &[u32]| nodes.iter().map(|node| member(*node)).collect::<Vec<_>>();
        Meta {
            by: None,
            cluster: String::new(),
            index: MapVersion(index),
            vbucket: VBUCKET,
            epoch: Epoch(index),
            isr_version: IsrVersion(index),
            leader: members(isr).first().copied(),
            isr: members(isr),
            eligible: members(eligible),
            min_isr: 2,
            lineage: Lineage(lineage),
        }
    }

    fn log(versions: &[(u64, Meta)]) -> ControlLog {
        let mut log = ControlLog::default();
        let mut findings = Findings::new(1);
        for (at, meta) in versions {
            log.add(CLUSTER, Nanos(*at), Origin { source: 0, line: *at }, meta.clone(), &mut findings);
        }
        log.settle();
        log
    }

    /// Nodes and when each died.
    fn lives(deaths: &[(u32, Option<u64>)]) -> Lives {
        let mut lives = Lives::default();
        for (node, death) in deaths {
            let (name, pid) = (node.to_string(), Pid(*node));
            lives.spawn(name.clone(), pid, Nanos(0));
            lives.register(CLUSTER, member(*node), name.clone(), pid);
            if let Some(death) = death {
                lives.exit(name, pid, Nanos(*death), true);
            }
        }
        lives
    }

    fn voids(log: &ControlLog, lineage: u64, lives: &Lives) -> Vec<u64> {
        log.voids(CLUSTER, VBUCKET, Lineage(lineage), lives).iter().map(|void| void.0).collect()
    }

    #[test]
    fn lineage_is_void_when_the_last_holder_dies() {
        let log = log(&[(1, meta(1, 0, &[1, 2], &[])), (90, meta(2, 1, &[1, 3], &[]))]);
        assert_eq!(voids(&log, 0, &lives(&[(1, Some(20)), (2, Some(50))])), [50]);
        assert_eq!(voids(&log, 0, &lives(&[(1, Some(20)), (2, None)])), NEVER);
        assert_eq!(voids(&log, 0, &lives(&[(1, Some(20))])), NEVER, "nobody knows of the other's end");
    }

    #[test]
    fn lineage_that_ended_before_its_last_holder_is_not_void() {
        let log = log(&[(1, meta(1, 0, &[1, 2], &[])), (40, meta(2, 1, &[3], &[]))]);
        assert_eq!(voids(&log, 0, &lives(&[(1, Some(20)), (2, Some(50)), (3, None)])), NEVER);
    }

    #[test]
    fn eligible_process_holds_too() {
        let log = log(&[(1, meta(1, 0, &[1, 2], &[])), (10, meta(2, 0, &[1], &[2]))]);
        assert_eq!(voids(&log, 0, &lives(&[(1, Some(20)), (2, None)])), NEVER);
        assert_eq!(voids(&log, 0, &lives(&[(1, Some(20)), (2, Some(30))])), [30]);
    }

    #[test]
    fn emptying_the_isr_on_paper_is_no_death() {
        let log = log(&[(1, meta(1, 0, &[1, 2], &[])), (10, meta(2, 0, &[], &[])), (20, meta(3, 1, &[3], &[]))]);
        assert_eq!(voids(&log, 0, &lives(&[(1, None), (2, None), (3, None)])), NEVER);
        assert_eq!(voids(&log, 0, &lives(&[(1, Some(5)), (2, Some(6)), (3, None)])), [6], "once, not once per entry");
    }

    #[test]
    fn member_that_left_in_time_holds_nothing() {
        let log = log(&[(1, meta(1, 0, &[1, 2, 3], &[])), (10, meta(2, 0, &[1, 2], &[]))]);
        assert_eq!(voids(&log, 0, &lives(&[(1, Some(20)), (2, Some(30)), (3, None)])), [30]);
    }

    #[test]
    fn entry_counts_from_the_first_who_applied_it() {
        let log = log(&[(30, meta(1, 0, &[1], &[])), (20, meta(1, 0, &[1], &[]))]);
        assert_eq!(log.versions(CLUSTER, VBUCKET).len(), 1);
        assert_eq!(log.versions(CLUSTER, VBUCKET)[0].at, Nanos(20));
    }

    #[test]
    fn two_contents_of_an_entry_are_found() {
        let mut log = ControlLog::default();
        let mut findings = Findings::new(1);
        for isr in [[1, 2], [1, 3]] {
            log.add(CLUSTER, Nanos(1), Origin { source: 0, line: 1 }, meta(1, 0, &isr, &[]), &mut findings);
        }
        assert_eq!(findings.count(Kind::MetaDiverged), 1);
    }
}
