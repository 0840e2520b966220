//! Nodes, their links, the control plane, producers and readers.

use broky_proto::id::{ClusterId, Member, Token, VBucketCount, VBucketId};
use broky_proto::time::Timestamp;
use broky_proto::v1::{OutcomeKind, PushResponse};
use broky_proto::wire::scan_push;
use broky_ring::command::Command;
use broky_ring::map::ClusterMap;
use broky_shard::{Collector, Outbox, Shard, ShardConfig, ShardId, Ticket};
use bytes::Bytes;
use prost::Message as _;
use std::collections::BTreeMap;

use crate::control::Cluster;
use crate::ledger::{Id, Ledger};
use crate::network::Network;
use crate::producers::{Producer, tag_of};
use crate::readers::Reader;
use crate::relays::Relays;
use crate::rng::Rng;

pub(crate) const CLUSTER: ClusterId = ClusterId([5; 16]);

/// One node: a process, while it lives.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) member: Member,
    pub(crate) shard: Option<Shard>,
    /// A paused process does nothing and answers nothing.
    pub(crate) is_paused: bool,
}

/// A request on its way.
struct Attempt {
    producer: usize,
    ids: Vec<Id>,
    collector: Option<Collector>,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) vbuckets: VBucketCount,
    pub(crate) control: Cluster,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) relays: Relays,
    pub(crate) producers: Vec<Producer>,
    pub(crate) readers: Vec<Reader>,
    pub(crate) ledger: Ledger,
    /// Commands on their way to the control plane.
    pub(crate) proposals: Vec<Command>,
    attempts: BTreeMap<u64, Attempt>,
    tickets: u64,
    ids: Id,
    pub(crate) now: Timestamp,
    pub(crate) lineage_changes: usize,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize, vbuckets: u32, replicas: u8, padding: usize) -> Self {
        let vbuckets = VBucketCount::new(vbuckets).unwrap();
        let mut control = Cluster::new(vbuckets, replicas, 2.min(replicas));
        let names = (0..nodes).map(|number| format!("node-{number}"));
        let members: Vec<(String, Member)> = names.map(|name| (name.clone(), control.register(&name))).collect();
        let node = |(name, member)| Node { name, member, shard: Some(shard(member, vbuckets)), is_paused: false };
        let mut world = Self {
            rng: Rng::new(seed),
            vbuckets,
            control,
            nodes: members.into_iter().map(node).collect(),
            network: Network::default(),
            relays: Relays::default(),
            producers: (1..=3).map(|id| Producer::new(id, padding)).collect(),
            readers: Vec::new(),
            ledger: Ledger::default(),
            proposals: Vec::new(),
            attempts: BTreeMap::new(),
            tickets: 0,
            ids: 0,
            now: Timestamp(1_000_000_000),
            lineage_changes: 0,
        };
        world.place();
        (0..nodes).for_each(|node| world.learn(node));
        world
    }

    /// Lets the control plane do whatever it would do next by itself.
    pub(crate) fn place(&mut self) {
        self.control.settle();
        self.check_control();
    }

    pub(crate) fn alive(&self) -> Vec<usize> {
        let lives = |node: &usize| self.nodes[*node].shard.is_some() && !self.nodes[*node].is_paused;
        (0..self.nodes.len()).filter(lives).collect()
    }

    pub(crate) fn with(&mut self, node: usize, act: impl FnOnce(&mut Shard, &mut Outbox)) {
        if self.nodes[node].is_paused {
            return;
        }
        let Some(shard) = &mut self.nodes[node].shard else { return };
        let mut out = Outbox::default();
        act(shard, &mut out);
        shard.check_invariants();
        self.carry_out(node, out);
    }

    /// Tells a node the newest map, and gives it the links it wants.
    pub(crate) fn learn(&mut self, node: usize) {
        let map: ClusterMap = self.control.map().clone();
        self.with(node, |shard, out| shard.handle_map(&map, out));
        self.connect(node);
    }

    /// Opens the links that a node wants and lacks, and closes those it wants no more.
    pub(crate) fn connect(&mut self, node: usize) {
        let Some(shard) = &self.nodes[node].shard else { return };
        if self.nodes[node].is_paused {
            return;
        }
        let wanted = shard.wanted_sessions().to_vec();
        let obsolete = self.network.links.iter().filter(|(_, l)| l.from == node && !wanted.contains(&l.member));
        for session in obsolete.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.cut(session, false);
        }
        for member in wanted {
            if self.network.links.values().any(|link| link.from == node && link.member == member) {
                continue;
            }
            let there = self.nodes.iter().position(|other| other.member == member && other.shard.is_some());
            let Some(there) = there else {
                self.with(node, |shard, _| shard.note_absent(member, true));
                continue;
            };
            let from = self.nodes[node].member;
            let (session, inbound) = self.network.open(node, there, member);
            let now = self.now;
            // A paused process' kernel takes the connection all the same.
            if let Some(shard) = &mut self.nodes[there].shard {
                let mut out = Outbox::default();
                shard.handle_inbound_open(inbound, from, &mut out);
                self.carry_out(there, out);
            }
            self.with(node, |shard, out| shard.handle_session_open(now, session, member, out));
        }
    }

    /// Breaks a link; both ends notice.
    pub(crate) fn cut(&mut self, session: broky_shard::SessionId, is_refused: bool) {
        let Some(link) = self.network.links.remove(&session) else { return };
        let now = self.now;
        if let Some(shard) = &mut self.nodes[link.from].shard {
            shard.handle_session_closed(now, session, is_refused);
        }
        if let Some(shard) = &mut self.nodes[link.to].shard {
            shard.handle_inbound_closed(link.inbound);
        }
    }

    pub(crate) fn carry_out(&mut self, node: usize, out: Outbox) {
        for (session, frame) in &out.to_followers {
            self.network.send_down(*session, frame);
        }
        for (inbound, frame) in &out.to_leaders {
            self.network.send_up(*inbound, frame);
        }
        self.carry_out_relays(node, &out);
        for session in out.close_sessions {
            self.cut(session, false);
        }
        for (inbound, _) in out.close_inbound {
            let session = self.network.links.iter().find(|(_, link)| link.inbound == inbound).map(|(id, _)| *id);
            session.into_iter().for_each(|session| self.cut(session, false));
        }
        let leader = self.nodes[node].member;
        if !out.isr_changes.is_empty() {
            self.proposals.push(Command::AlterIsr { leader, changes: out.isr_changes });
        }
        if !out.resign.is_empty() {
            self.proposals.push(Command::Resign { leader, vbuckets: out.resign });
        }
        for reply in out.replies {
            self.take_reply(reply.ticket, reply.outcome);
        }
    }

    /// Lets the control plane decide a proposal.
    pub(crate) fn decide(&mut self, at: usize) {
        let command = self.proposals.remove(at);
        self.control.apply(command);
        self.check_control();
    }

    fn check_control(&mut self) {
        for (vbucket, base) in self.control.new_lineages() {
            self.lineage_changes += 1;
            self.ledger.lose(u32::from(vbucket.0), base.0);
        }
    }

    /// A key of a vbucket that begins with a tag.
    fn key_of(&self, vbucket: VBucketId, tag: u8) -> Bytes {
        let key = |number: u16| [&[tag], number.to_be_bytes().as_slice()].concat();
        let is_of = |number: &u16| self.vbuckets.vbucket_of(Token::of(b"", &key(*number))) == vbucket;
        key((0..u16::MAX).find(is_of).unwrap()).into()
    }

    /// Lets a producer have one more message to push.
    pub(crate) fn produce(&mut self, producer: usize) {
        let all: Vec<VBucketId> = self.vbuckets.iter().collect();
        let vbucket = self.rng.pick(&all).unwrap();
        self.ids += 1;
        let key = self.key_of(vbucket, tag_of(self.ids));
        if self.producers[producer].unsettled.len() < 5 {
            self.producers[producer].add(self.ids, key);
        }
    }

    /// Has a producer push what is unsettled, to the nodes that its first message's leader is at.
    pub(crate) fn push(&mut self, producer: usize) {
        let this = &mut self.producers[producer];
        if this.attempt.is_some() || this.unsettled.is_empty() {
            return;
        }
        // One message at a time where several nodes lead: a node does not forward here.
        let mut request = this.request();
        let token = Token::of(b"", &request.messages[0].key);
        let vbucket = self.vbuckets.vbucket_of(token);
        let Some(leader) = self.control.map().vbucket(vbucket).and_then(|vbucket| vbucket.leader) else { return };
        let same =
            |message: &broky_proto::v1::Message| self.vbuckets.vbucket_of(Token::of(b"", &message.key)) == vbucket;
        let run = request.messages.iter().take_while(|message| same(message)).count();
        request.messages.truncate(run);
        let Some(node) = self.nodes.iter().position(|node| node.member == leader) else { return };
        if self.nodes[node].shard.is_none() || self.nodes[node].is_paused {
            return;
        }
        let ids = self.producers[producer].unsettled.iter().take(run).map(|message| message.id).collect();
        self.tickets += 1;
        let ticket = self.tickets;
        self.producers[producer].attempt = Some((ticket, node));
        let bytes = request.encode_to_vec();
        let scanned = scan_push(&bytes, 4 << 20).unwrap();
        let collector = Some(Collector::new(&scanned));
        self.attempts.insert(ticket, Attempt { producer, ids, collector });
        self.with(node, |shard, out| shard.push(1, &bytes, &scanned, Ticket(ticket), out));
    }

    /// Has a producer give up on its attempt: nobody can tell what became of it.
    pub(crate) fn give_up(&mut self, producer: usize) {
        if let Some((ticket, _)) = self.producers[producer].attempt.take() {
            self.attempts.remove(&ticket);
        }
    }

    fn take_reply(&mut self, Ticket(ticket): Ticket, outcome: broky_shard::PartOutcome) {
        let Some(attempt) = self.attempts.get_mut(&ticket) else { return };
        let Some(mut collector) = attempt.collector.take() else { panic!("{ticket} was answered twice") };
        assert!(collector.take(outcome));
        let Attempt { producer, ids, .. } = self.attempts.remove(&ticket).unwrap();
        self.producers[producer].attempt = None;
        self.settle(producer, &ids, &collector.into_response());
    }

    fn settle(&mut self, producer: usize, ids: &[Id], response: &PushResponse) {
        let mut places: BTreeMap<u32, (u32, u64)> = BTreeMap::new();
        for position in &response.positions {
            for at in 0..position.count {
                places.insert(position.first + at, (position.vbucket, position.offset + u64::from(at)));
            }
        }
        for outcome in &response.outcomes {
            for index in outcome.first..outcome.first + outcome.count {
                let id = ids[index as usize];
                match outcome.kind() {
                    OutcomeKind::Committed => {
                        self.producers[producer].unsettled.retain(|message| message.id != id);
                        // A duplicate of long ago has no position any more.
                        if let Some((vbucket, offset)) = places.get(&index) {
                            self.ledger.acknowledge(id, *vbucket, *offset);
                        }
                    }
                    // Pushed again, under the same sequence.
                    OutcomeKind::Rejected | OutcomeKind::Unknown => {}
                    OutcomeKind::Unspecified => panic!("an outcome says nothing"),
                }
            }
        }
    }
}

pub(crate) fn shard(me: Member, vbuckets: VBucketCount) -> Shard {
    Shard::new(ShardConfig {
        shard: ShardId(0),
        shards: 1,
        me,
        cluster: CLUSTER,
        vbuckets,
        memory_bytes: ShardConfig::MEMORY_BYTES_MIN,
        block_bytes_max: ShardConfig::BLOCK_BYTES_MAX_DEFAULT,
    })
    .unwrap()
}
