//! What peers may ask.

use std::sync::Arc;

use broky_proto::id::MapVersion;
use broky_proto::peer_v1 as pb;
use broky_proto::peer_v1::control_server::Control;
use broky_ring::command::{Command, Outcome};
use broky_ring::map::MapDiff;
use broky_ring::member::{Addresses, BootId, Zone};
use broky_ring::state::RegisterRefusal;
use openraft::error::RaftError;
use serde::Serialize;
use tonic::{Request, Response, Status};

use super::detector::{How, Suspicion};
use super::group::Group;
use super::ids::{member, pb_member};
use super::propose::ProposeError;
use super::shared::{Shared, standing};
use super::types::{Answer, RaftId, Request as Entry};
use crate::peer::DialError;

/// The service of the peer port.
#[derive(Clone)]
pub(crate) struct Server(pub(super) Arc<Shared>);

type Answered<T> = Result<Response<T>, Status>;

fn encode(value: &impl Serialize) -> Result<bytes::Bytes, Status> {
    postcard::to_stdvec(value).map(Into::into).map_err(|_| Status::internal("cannot be encoded"))
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Status> {
    postcard::from_bytes(bytes).map_err(|_| Status::invalid_argument("cannot be decoded"))
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

#[tonic::async_trait]
impl Control for Server {
    async fn raft(&self, request: Request<pb::RaftRequest>) -> Answered<pb::RaftResponse> {
        let request = request.into_inner();
        let refuse = |refusal: pb::RaftRefusal| {
            Ok(Response::new(pb::RaftResponse { refusal: refusal.into(), payload: bytes::Bytes::new() }))
        };
        let Some(group) = self.0.group_of(&request.group) else { return refuse(pb::RaftRefusal::OtherGroup) };
        if group.raft_id.0 != request.to {
            return refuse(pb::RaftRefusal::NotMe);
        }
        if request.has_quorum {
            group.note_led();
        }
        let payload = match request.kind() {
            pb::RaftKind::Append => {
                encode(&group.raft.append_entries(decode(&request.payload)?).await.map_err(stopped)?)?
            }
            pb::RaftKind::Vote => {
                // Without this, a member that was removed, and does not know, would unseat leaders for ever.
                if !is_member(&group, RaftId(request.from)) {
                    return refuse(pb::RaftRefusal::UnknownSender);
                }
                encode(&group.raft.vote(decode(&request.payload)?).await.map_err(stopped)?)?
            }
            pb::RaftKind::Snapshot => match group.raft.install_snapshot(decode(&request.payload)?).await {
                Ok(response) => encode(&Ok::<_, openraft::error::InstallSnapshotError>(response))?,
                Err(RaftError::APIError(error)) => {
                    encode(&Err::<openraft::raft::InstallSnapshotResponse<RaftId>, _>(error))?
                }
                Err(RaftError::Fatal(error)) => return Err(stopped(error)),
            },
            pb::RaftKind::Unspecified => return Err(Status::invalid_argument("no kind")),
        };
        Ok(Response::new(pb::RaftResponse { refusal: pb::RaftRefusal::None.into(), payload }))
    }

    async fn propose(&self, request: Request<pb::ProposeRequest>) -> Answered<pb::ProposeResponse> {
        let request = request.into_inner();
        let group = self.0.group().filter(|group| group.id.0 == *request.group && group.is_leader());
        let written = match group {
            Some(group) => group.write(decode(&request.request)?).await,
            None => Err(ProposeError::NoLeader),
        };
        let (proposal, answer) = match written {
            Ok(answer) => (pb::Proposal::Applied, encode(&answer)?),
            Err(ProposeError::NoLeader) => (pb::Proposal::NotLeader, bytes::Bytes::new()),
            Err(ProposeError::Unknown) => (pb::Proposal::Unknown, bytes::Bytes::new()),
        };
        Ok(Response::new(pb::ProposeResponse { proposal: proposal.into(), answer }))
    }

    async fn meet(&self, request: Request<pb::MeetRequest>) -> Answered<pb::MeetResponse> {
        let request = request.into_inner();
        if let Some(process) = request.me {
            self.0.meet(process);
        }
        self.0.note_rumours(request.known);
        Ok(Response::new(self.0.introduction()))
    }

    async fn promise(&self, request: Request<pb::PromiseRequest>) -> Answered<pb::PromiseResponse> {
        Ok(Response::new(self.0.handle_promise(request.into_inner()).await))
    }

    async fn join(&self, request: Request<pb::JoinRequest>) -> Answered<pb::JoinResponse> {
        Ok(Response::new(self.join(request.into_inner()).await))
    }

    async fn heartbeat(&self, request: Request<pb::HeartbeatRequest>) -> Answered<pb::HeartbeatResponse> {
        let request = request.into_inner();
        let from = member(&request.me.unwrap_or_default());
        let map = self.0.map();
        let standing = match standing(&map, from) {
            pb::Standing::Ok if !self.0.group().is_some_and(|group| group.is_leader()) => pb::Standing::NotLeader,
            standing => standing,
        };
        if standing == pb::Standing::Ok {
            self.0.heard_of(from);
            let reports = [(request.refused, How::Refused), (request.silent, How::Silent)];
            for (members, how) in reports {
                for about in members.iter().map(member).filter(|about| *about != from).take(REPORTS_MAX) {
                    // The receiver lives as long as the node.
                    let _ = self.0.suspicions.send(Suspicion { member: about, how, by: Some(from) });
                }
            }
        }
        let MapVersion(map_version) = map.version();
        let quorum_age_ms = self.0.group().and_then(|group| group.quorum_age_ms());
        Ok(Response::new(pb::HeartbeatResponse { standing: standing.into(), map_version, quorum_age_ms }))
    }

    async fn pull_map(&self, request: Request<pb::PullMapRequest>) -> Answered<pb::PullMapResponse> {
        let since = MapVersion(request.into_inner().since);
        let diff: MapDiff = self.0.map().diff(since);
        Ok(Response::new(pb::PullMapResponse { diff: encode(&diff)? }))
    }

    async fn probe(&self, request: Request<pb::ProbeRequest>) -> Answered<pb::ProbeResponse> {
        let request = request.into_inner();
        let about = member(&request.member.unwrap_or_default());
        // Only members are looked for, and only where the map says they are: this is no port scanner.
        let is_known = self.0.map().nodes().any(|(_, node)| node.addresses.peer == request.address);
        if !is_known {
            return Err(Status::not_found("no node has this address"));
        }
        let reach = match self.0.probe(about, &request.address).await {
            Ok(()) => pb::Reach::Ok,
            Err(error) if error.is_gone() => pb::Reach::Refused,
            Err(DialError::Silent(_)) => pb::Reach::Silent,
            // There may be no way to it, or its name may lead nowhere. Or this process can open nothing at all.
            Err(DialError::Io(_)) if self.0.hears(about) => pb::Reach::Ok,
            Err(DialError::Io(_)) => pb::Reach::Silent,
            // Something answers; whatever it is, it is not dead.
            Err(_) => pb::Reach::Ok,
        };
        Ok(Response::new(pb::ProbeResponse { reach: reach.into() }))
    }
}

/// Peers that one heartbeat may report.
const REPORTS_MAX: usize = 64;

/// Whether a raft id is in the group. A member that knows of no members yet believes everybody.
fn is_member(group: &Group, from: RaftId) -> bool {
    let metrics = group.metrics();
    let membership = metrics.membership_config.membership();
    membership.nodes().next().is_none() || membership.get_node(&from).is_some()
}

impl Shared {
    /// What this process says of itself to whoever meets it.
    pub(super) fn introduction(&self) -> pb::MeetResponse {
        let group = self.group();
        let promised = super::shared::lock(&self.place).promised.clone().map(|promised| promised.group);
        let cluster = group.as_ref().map(|group| group.cluster.0.to_vec()).unwrap_or_default();
        let (last_term, last_index) = group.as_ref().map(|group| group.log.last()).unwrap_or_default();
        // Only who has accepted entries of a founding is bound to it.
        let bound = group.clone().or(promised.filter(|group| group.log.has_entries()));
        pb::MeetResponse {
            me: Some(self.process()),
            known: self.acquaintances(),
            cluster: cluster.into(),
            raft: bound.as_ref().map_or(0, |group| group.raft_id.0),
            group: bound.map(|group| group.id.0.to_vec()).unwrap_or_default().into(),
            last_term,
            last_index,
            knew_all: group.as_ref().is_some_and(|group| self.knew_all(group)),
            has_leader: group.is_some_and(|group| group.living_leader().is_some()),
        }
    }
}

impl Server {
    async fn join(&self, request: pb::JoinRequest) -> pb::JoinResponse {
        if let Some(process) = &request.me {
            self.0.meet(process.clone());
        }
        let answer = |joining: pb::Joining| pb::JoinResponse { joining: joining.into(), ..Default::default() };
        let Some(group) = self.0.group().filter(|group| group.is_seeded()) else {
            return answer(pb::Joining::Later);
        };
        if !group.is_leader() {
            return match group.leader().filter(|_| group.living_leader().is_some()) {
                Some((_, leader)) => pb::JoinResponse { leader: leader.address, ..answer(pb::Joining::Redirect) },
                None => answer(pb::Joining::Later),
            };
        }
        let Some(entry) = registration(&request) else {
            return pb::JoinResponse { reason: "malformed".to_owned(), ..answer(pb::Joining::Refused) };
        };
        match group.write(entry).await {
            Ok(Answer::Outcome(Outcome::Register(Ok(registration)))) => {
                group.stir.notify_one();
                self.0.heard_of(registration.member);
                let map = group.replicated.with(|machine| machine.state().map().diff(MapVersion(0)));
                pb::JoinResponse {
                    cluster: group.cluster.0.to_vec().into(),
                    group: group.id.0.to_vec().into(),
                    member: Some(pb_member(registration.member)),
                    map: postcard::to_stdvec(&map).unwrap_or_default().into(),
                    ..answer(pb::Joining::Done)
                }
            }
            Ok(Answer::Outcome(Outcome::Register(Err(RegisterRefusal::Replaced { current })))) => {
                let reason = current.to_string();
                pb::JoinResponse { reason, ..answer(pb::Joining::Replaced) }
            }
            Ok(Answer::Outcome(Outcome::Register(Err(refusal)))) => {
                pb::JoinResponse { reason: refusal.to_string(), ..answer(pb::Joining::Refused) }
            }
            Ok(Answer::Outcome(_) | Answer::None | Answer::Seeded) | Err(_) => answer(pb::Joining::Later),
        }
    }
}

/// The entry that registers whoever asks to join.
fn registration(request: &pb::JoinRequest) -> Option<Entry> {
    let process = request.me.as_ref()?;
    let addresses = request.addresses.clone()?;
    let command = Command::Register {
        name: process.name.clone(),
        boot: BootId(process.boot.as_ref().try_into().ok()?),
        addresses: Addresses { client: addresses.client, peer: addresses.peer, admin: addresses.admin },
        zone: Zone(request.zone.clone()),
    };
    Some(Entry::Register { command, raft: RaftId(request.raft) })
}
