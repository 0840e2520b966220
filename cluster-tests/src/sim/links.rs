//! The life of connections: dialling, what arrives, ends, and which ones nodes keep. What frames mean is in
//! [`super::frames`].

use std::collections::btree_map::Entry;
use std::time::Duration;

use broky_proto::id::Member;
use broky_proto::relay::decode_history;
use broky_proto::v1::Open;
use broky_shard::{HistoryId, InboundId, SessionId, UpstreamId};
use prost::Message as _;

use super::frames::deframed;
use super::network::Place;
use super::node::{Link, Purpose, Timer};
use super::streams::{Item, Kind, Side, StreamId};
use super::world::{Event, World};

/// Time that whoever is dialled has to answer.
const DIAL_TIMEOUT: Duration = Duration::from_millis(800);
/// A connection on which nothing passes is given up by who dialled it after this, by who was dialled later.
const DIALLER_PATIENCE: Duration = Duration::from_secs(3);
const LISTENER_PATIENCE: Duration = Duration::from_secs(5);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Deliveries of history that may wait for their subscriber.
const BACKLOG_MAX: usize = 2;
/// Until it is looked again whether there is room.
const ROOM: Duration = Duration::from_millis(10);

impl World {
    /// Dials; the connection stands when the other side has taken it.
    pub(super) fn dial(&mut self, kind: Kind, from: Place, to: Place) -> StreamId {
        let lives = (self.life_of(from), self.life_of(to));
        let id = self.streams.open(kind, (from, lives.0), (to, lives.1));
        self.send(id, Side::Listener, Item::Hello);
        self.schedule.after(DIAL_TIMEOUT, Event::DialTimeout(id));
        id
    }

    /// Sends something to the other end of a connection.
    pub(super) fn send(&mut self, id: StreamId, to: Side, item: Item) {
        let now = self.now();
        let Some(stream) = self.streams.get_mut(id) else { return };
        let (from, place) = stream.way_to(to);
        let at = now.plus(self.network.delay(from, place));
        let at = stream.end_mut(to).put(at, item);
        self.schedule.at(at, Event::Arrive(id, to));
    }

    /// What has come to one side is taken, if it can be: behind a cut, and while its reader is paused, it waits.
    pub(super) fn arrive(&mut self, id: StreamId, side: Side) {
        let now = self.now();
        let Some(stream) = self.streams.get(id) else { return };
        let ((from, place), life) = (stream.way_to(side), stream.end(side).life);
        if !self.network.passes(from, place) || matches!(place, Place::Node(at) if self.is_paused(at, life)) {
            return;
        }
        if !self.has_room(id, side) {
            return self.schedule.after(ROOM, Event::Arrive(id, side));
        }
        let Some(item) = self.streams.get_mut(id).and_then(|stream| stream.end_mut(side).take(now)) else { return };
        if self.streams.get(id).is_some_and(|stream| stream.end(side).has_arrived(now)) {
            self.schedule.at(now, Event::Arrive(id, side));
        }
        self.say(|| format!("{id:?} to {side:?} at {place:?}: {}", show(&item)));
        let is_there =
            self.streams.get(id).is_some_and(|stream| stream.end(side).is_open) && self.life_of(place) == life;
        match item {
            Item::Hello => self.greet(id),
            Item::Closed => self.end(id, side),
            _ if !is_there => {}
            Item::Welcome => self.welcome(id),
            Item::Refused => self.refused(id),
            Item::Frame(bytes) => self.take(id, side, bytes),
            Item::Room => self.make_room(id),
            Item::Done => self.finish_history(id),
        }
    }

    fn is_paused(&self, at: usize, life: u64) -> bool {
        let node = &self.nodes[at];
        node.is_running && node.is_paused && node.life == life
    }

    /// Whether a side takes what has come: history waits for its subscriber, and a slow reader for itself.
    fn has_room(&self, id: StreamId, side: Side) -> bool {
        let Some(stream) = self.streams.get(id) else { return true };
        match (&stream.kind, side, stream.end(side).place) {
            (Kind::History { name, .. }, Side::Dialler, Place::Node(at)) => {
                let process = self.nodes[at].process.as_ref();
                process.and_then(|it| it.shard.history_backlog(*name)).is_none_or(|backlog| backlog < BACKLOG_MAX)
            }
            (Kind::Subscribe { reader, .. }, Side::Dialler, _) => self.readers[*reader].busy_until <= self.now(),
            _ => true,
        }
    }

    /// Somebody is dialled.
    fn greet(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(id) else { return };
        let (dialler, listener) = (stream.end(Side::Dialler).place, stream.end(Side::Listener).clone());
        let kind = stream.kind.clone();
        let Place::Node(at) = listener.place else { return };
        if !stream.end(Side::Dialler).is_open {
            self.streams.get_mut(id).unwrap().end_mut(Side::Listener).is_open = false;
            return self.streams.forget(id);
        }
        let life = self.nodes[at].life;
        let is_here = self.nodes[at].is_at_work() && listener.life == life;
        let is_meant = |member: &Member| self.nodes[at].member() == Some(*member);
        let is_meant = match &kind {
            Kind::Replicate { member, .. } | Kind::Forward { member } => is_meant(member),
            Kind::Relay { member, .. } | Kind::History { member, .. } => is_meant(member),
            Kind::Push { .. } | Kind::Subscribe { .. } => self.nodes[at].process.is_some(),
        };
        if !is_here || !is_meant {
            self.streams.get_mut(id).unwrap().end_mut(Side::Listener).is_open = false;
            return self.send(id, Side::Dialler, Item::Refused);
        }
        self.send(id, Side::Dialler, Item::Welcome);
        match kind {
            Kind::Replicate { inbound, .. } => {
                let Place::Node(from) = dialler else { return };
                let Some(leader) = self.nodes[from].member() else { return };
                self.nodes[at].process.as_mut().unwrap().inbound.insert(inbound, id);
                self.act(at, |shard, out, _| shard.handle_inbound_open(inbound, leader, out));
            }
            Kind::Forward { .. } => {}
            Kind::Push { .. } => drop(self.nodes[at].process.as_mut().unwrap().pushed.insert(id, Default::default())),
            Kind::Relay { .. } => {
                let opened = self.act(at, |shard, _, _| shard.open_relay()).unwrap();
                self.nodes[at].process.as_mut().unwrap().relays.insert(opened, id);
                if let Kind::Relay { relay, .. } = &mut self.streams.get_mut(id).unwrap().kind {
                    *relay = Some(opened);
                }
            }
            Kind::History { request, .. } => {
                let history = decode_history(deframed(request)).unwrap();
                let opened = self.act(at, |shard, _, _| shard.open_history(&history)).unwrap();
                self.serve(id, at, opened.ok());
            }
            Kind::Subscribe { open, .. } => {
                let open = Open::decode(open).unwrap();
                let opened = self.act(at, |shard, out, _| shard.open_subscription(&open, out)).unwrap();
                if let Err(refusal) = &opened {
                    let words = format!("{id:?} refused: {refusal:?}");
                    self.say(|| words);
                }
                self.serve(id, at, opened.ok());
                self.link_up(at);
            }
        }
    }

    /// Begins to serve a subscription, or ends the connection if it was refused.
    fn serve(&mut self, id: StreamId, at: usize, opened: Option<broky_delivery::SubscriptionId>) {
        let Some(opened) = opened else { return self.close(id, Side::Listener, false) };
        self.nodes[at].process.as_mut().unwrap().subscriptions.insert(opened, id);
        if let Kind::Subscribe { subscription, .. } | Kind::History { subscription, .. } =
            &mut self.streams.get_mut(id).unwrap().kind
        {
            *subscription = Some(opened);
        }
        self.schedule.after(Duration::ZERO, Event::Pump(id));
    }

    /// A connection stands, as its dialler learns.
    fn welcome(&mut self, id: StreamId) {
        let stream = self.streams.get_mut(id).unwrap();
        stream.is_welcome = true;
        let (kind, place) = (stream.kind.clone(), stream.end(Side::Dialler).place);
        match (kind, place) {
            (Kind::Replicate { member, session, .. }, Place::Node(at)) => {
                let process = self.nodes[at].process.as_mut().unwrap();
                process.sessions.insert(session, id);
                self.note_linked(at, Purpose::Replicate, member);
                self.act(at, |shard, out, now| shard.handle_session_open(now, session, member, out));
            }
            (Kind::Relay { member, upstream, .. }, Place::Node(at)) => {
                self.nodes[at].process.as_mut().unwrap().upstreams.insert(upstream, id);
                self.note_linked(at, Purpose::Relay, member);
                self.act(at, |shard, out, _| shard.handle_upstream_open(upstream, member, out));
            }
            (Kind::Forward { .. }, Place::Node(at)) => {
                let unsent = self.nodes[at].process.as_mut().unwrap().unsent.remove(&id).unwrap_or_default();
                unsent.into_iter().for_each(|frame| self.send(id, Side::Listener, Item::Frame(frame)));
            }
            (Kind::Push { producer }, _) => self.connected(producer, id),
            (Kind::History { .. } | Kind::Subscribe { .. }, _) => {}
            (_, Place::Client(_) | Place::Control) => {}
        }
    }

    fn note_linked(&mut self, at: usize, purpose: Purpose, member: Member) {
        let process = self.nodes[at].process.as_mut().unwrap();
        if let Some(link) = process.links.get_mut(&(purpose, member)) {
            link.backoff = BACKOFF_MIN;
        }
    }

    fn refused(&mut self, id: StreamId) {
        self.lose(id, true);
    }

    pub(super) fn give_up_dialling(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(id) else { return };
        let end = stream.end(Side::Dialler);
        if stream.is_welcome || !end.is_open || self.life_of(end.place) != end.life {
            return;
        }
        if let Place::Node(at) = end.place
            && self.is_paused(at, end.life)
        {
            return self.nodes[at].deferred.push(Event::DialTimeout(id));
        }
        self.lose(id, false);
        self.send(id, Side::Listener, Item::Closed);
    }

    /// The dialler's end of a connection is over before it stood, or after.
    fn lose(&mut self, id: StreamId, is_refused: bool) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        if !std::mem::replace(&mut stream.end_mut(Side::Dialler).is_open, false) {
            return;
        }
        let (kind, place, was_welcome) = (stream.kind.clone(), stream.end(Side::Dialler).place, stream.is_welcome);
        self.streams.forget(id);
        match (kind, place) {
            (Kind::Replicate { member, session, .. }, Place::Node(at)) => {
                let process = self.nodes[at].process.as_mut().unwrap();
                process.sessions.remove(&session);
                if was_welcome {
                    self.act(at, |shard, _, now| shard.handle_session_closed(now, session, false));
                } else {
                    self.act(at, |shard, _, _| shard.note_absent(member, is_refused));
                    self.report(at, member, is_refused);
                }
                self.link_again(at, Purpose::Replicate, member);
            }
            (Kind::Relay { member, upstream, .. }, Place::Node(at)) => {
                self.nodes[at].process.as_mut().unwrap().upstreams.remove(&upstream);
                if was_welcome {
                    self.act(at, |shard, out, _| shard.handle_upstream_closed(upstream, out));
                } else {
                    self.report(at, member, is_refused);
                }
                self.link_again(at, Purpose::Relay, member);
            }
            (Kind::Forward { member }, Place::Node(at)) => {
                let process = self.nodes[at].process.as_mut().unwrap();
                process.unsent.remove(&id);
                if process.forwards.get(&member) == Some(&id) {
                    process.forwards.remove(&member);
                    let unsent = if was_welcome { Vec::new() } else { process.router.unanswered_at(member) };
                    if !was_welcome {
                        self.report(at, member, is_refused);
                    }
                    self.route(at, |router, now, out| router.handle_link_down(now, member, &unsent, out));
                }
            }
            (Kind::History { name, .. }, Place::Node(at)) => self.end_history(at, name, false),
            (Kind::Push { producer }, _) => self.disconnected(producer, id),
            (Kind::Subscribe { reader, .. }, _) => self.unsubscribed(reader, id),
            (_, Place::Client(_) | Place::Control) => {}
        }
    }

    /// The listener's end of a connection is over.
    fn drop_served(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        if !std::mem::replace(&mut stream.end_mut(Side::Listener).is_open, false) {
            return;
        }
        let (kind, end) = (stream.kind.clone(), stream.end(Side::Listener).clone());
        self.streams.forget(id);
        let Place::Node(at) = end.place else { return };
        if self.nodes[at].life != end.life || self.nodes[at].process.is_none() {
            return;
        }
        let process = self.nodes[at].process.as_mut().unwrap();
        match kind {
            Kind::Replicate { inbound, .. } => {
                process.inbound.remove(&inbound);
                self.act(at, |shard, _, _| shard.handle_inbound_closed(inbound));
            }
            Kind::Forward { .. } => process.waiting.retain(|_, waiting| waiting.stream != id),
            Kind::Push { .. } => drop(process.pushed.remove(&id)),
            Kind::Relay { relay: Some(relay), .. } => {
                process.relays.remove(&relay);
                self.act(at, |shard, _, _| shard.close_relay(relay));
            }
            Kind::History { subscription: Some(subscription), .. }
            | Kind::Subscribe { subscription: Some(subscription), .. } => {
                process.subscriptions.remove(&subscription);
                self.act(at, |shard, out, _| shard.close_subscription(subscription, out));
                self.link_up(at);
            }
            Kind::Relay { .. } | Kind::History { .. } | Kind::Subscribe { .. } => {}
        }
    }

    /// The other side has closed it.
    fn end(&mut self, id: StreamId, side: Side) {
        match side {
            Side::Dialler => self.lose(id, false),
            Side::Listener => self.drop_served(id),
        }
    }

    /// Closes a connection from one side. A reset overtakes what is on its way.
    pub(super) fn close(&mut self, id: StreamId, side: Side, is_reset: bool) {
        let Some(stream) = self.streams.get_mut(id).filter(|stream| stream.end(side).is_open) else { return };
        if is_reset {
            stream.end_mut(side.other()).forget_frames();
        }
        self.send(id, side.other(), Item::Closed);
        self.end(id, side);
    }

    /// Everything is cut off from a party that has died. Its kernel tells the others.
    pub(super) fn hang_up(&mut self, place: Place) {
        for (id, side) in self.streams.at(place) {
            let is_reset = self.rng.chance(500);
            let stream = self.streams.get_mut(id).unwrap();
            if is_reset {
                stream.end_mut(side.other()).forget_frames();
            }
            stream.end_mut(side).is_open = false;
            self.send(id, side.other(), Item::Closed);
            self.streams.forget(id);
        }
    }

    /// Nothing has passed for a while; the one who waited gives the connection up, if that is still so.
    pub(super) fn starve(&mut self, id: StreamId, side: Side) {
        let Some(stream) = self.streams.get(id) else { return };
        let ((from, to), end) = (stream.way_to(side), stream.end(side).clone());
        let is_starving = !self.network.passes(from, to) || !self.network.passes(to, from);
        if !is_starving || !end.is_open || self.life_of(end.place) != end.life {
            return;
        }
        if let Place::Node(at) = end.place
            && self.is_paused(at, end.life)
        {
            return self.nodes[at].deferred.push(Event::Starve(id, side));
        }
        self.close(id, side, true);
    }

    /// The way between two parties was cut: whoever is connected over it will notice.
    pub(super) fn watch_starving(&mut self, from: Place, to: Place) {
        for id in self.streams.ids() {
            let Some(stream) = self.streams.get(id) else { continue };
            let (dialler, listener) = (stream.end(Side::Dialler).place, stream.end(Side::Listener).place);
            if [(dialler, listener), (listener, dialler)].contains(&(from, to)) {
                self.schedule.after(DIALLER_PATIENCE, Event::Starve(id, Side::Dialler));
                self.schedule.after(LISTENER_PATIENCE, Event::Starve(id, Side::Listener));
            }
        }
    }

    /// Something can pass again, or is looked at again: what has come meanwhile is taken.
    pub(super) fn catch_up(&mut self, is_concerned: impl Fn(Place, Place) -> bool) {
        for id in self.streams.ids() {
            for side in [Side::Dialler, Side::Listener] {
                let Some(stream) = self.streams.get(id) else { continue };
                let (from, to) = stream.way_to(side);
                if is_concerned(from, to) {
                    let wait = self.network.delay(from, to);
                    self.schedule.after(wait, Event::Arrive(id, side));
                }
            }
        }
    }

    /// History has come as a whole.
    fn finish_history(&mut self, id: StreamId) {
        let stream = self.streams.get_mut(id).unwrap();
        stream.end_mut(Side::Dialler).is_open = false;
        let (Kind::History { name, .. }, Place::Node(at)) = (stream.kind.clone(), stream.end(Side::Dialler).place)
        else {
            return;
        };
        self.streams.forget(id);
        self.checks.coverage.histories += 1;
        self.end_history(at, name, true);
    }

    fn end_history(&mut self, at: usize, name: HistoryId, is_whole: bool) {
        self.nodes[at].process.as_mut().unwrap().histories.remove(&name);
        self.act(at, |shard, out, _| shard.handle_history_end(name, is_whole, out));
    }

    /// Dials whom a node wants a link to and has none, and gives up the links that it wants no more.
    pub(super) fn link_up(&mut self, at: usize) {
        let Some(process) = &mut self.nodes[at].process else { return };
        let replicate = process.shard.wanted_sessions().iter().map(|member| (Purpose::Replicate, *member));
        let relay = process.shard.wanted_upstreams().into_iter().map(|member| (Purpose::Relay, member));
        let wanted: Vec<_> = replicate.chain(relay).collect();
        let unwanted: Vec<_> = process.links.keys().filter(|link| !wanted.contains(link)).copied().collect();
        for link in unwanted {
            let process = self.nodes[at].process.as_mut().unwrap();
            let stream = process.links.remove(&link).and_then(|link| link.stream);
            stream.into_iter().for_each(|id| self.close(id, Side::Dialler, false));
        }
        for link in wanted {
            let process = self.nodes[at].process.as_mut().unwrap();
            if let Entry::Vacant(place) = process.links.entry(link) {
                place.insert(Link { stream: None, backoff: BACKOFF_MIN });
                self.dial_link(at, link.0, link.1);
            }
        }
    }

    /// A link is to be made, if it is still wanted.
    pub(super) fn dial_link(&mut self, at: usize, purpose: Purpose, member: Member) {
        let to = self.node_of(member);
        let Some(process) = &mut self.nodes[at].process else { return };
        let (session, name) = (process.next(), process.next());
        if process.links.get(&(purpose, member)).is_none_or(|link| link.stream.is_some()) {
            return;
        }
        let Some(to) = to else { return self.link_again(at, purpose, member) };
        let kind = match purpose {
            // Names are given by each end for itself; one number serves both here.
            Purpose::Replicate => {
                let inbound = InboundId((at as u64) << 32 | name);
                Kind::Replicate { member, session: SessionId(session), inbound }
            }
            Purpose::Relay => Kind::Relay { member, upstream: UpstreamId(session), relay: None },
        };
        let id = self.dial(kind, Place::Node(at), Place::Node(to));
        let process = self.nodes[at].process.as_mut().unwrap();
        process.links.get_mut(&(purpose, member)).unwrap().stream = Some(id);
    }

    /// A link has ended; it is made again a little later.
    fn link_again(&mut self, at: usize, purpose: Purpose, member: Member) {
        let node = &mut self.nodes[at];
        let Some(link) = node.process.as_mut().and_then(|process| process.links.get_mut(&(purpose, member))) else {
            return;
        };
        link.stream = None;
        let wait = link.backoff;
        link.backoff = (link.backoff * 2).min(BACKOFF_MAX);
        self.timer(at, wait, Timer::Link(purpose, member));
    }

    /// Which node a process belongs to.
    pub(super) fn node_of(&self, member: Member) -> Option<usize> {
        let name = &self.metadata.map().node(member.node)?.name;
        self.nodes.iter().position(|node| node.name == *name)
    }
}

fn show(item: &Item) -> String {
    match item {
        Item::Frame(bytes) => format!("a frame of {} bytes", bytes.len()),
        other => format!("{other:?}"),
    }
}
