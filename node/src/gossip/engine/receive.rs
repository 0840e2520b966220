//! Taking datagrams.

use std::net::SocketAddr;
use std::time::Instant;

use broky_proto::id::Member;

use super::alarms::Alarm;
use super::book::Source;
use super::members::Standing;
use super::{Engine, Outbox};
use crate::gossip::envelope::{Envelope, Kind};
use crate::gossip::rumour::board::leads_over;
use crate::gossip::rumour::{Chunk, Rumour};
use crate::gossip::stats::Dropped;
use crate::gossip::swim::SwimError;
use crate::gossip::wire::Reader;

impl Engine {
    /// Takes a datagram that came from an address. Whatever it is, it does no harm.
    pub(in crate::gossip) fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        out: &mut Outbox,
    ) {
        self.stats.received.add(1);
        if let Err(reason) = self.take_datagram(now, from, datagram, out) {
            self.stats.drop_one(reason);
        }
        self.settle(now, out);
    }

    fn take_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let (envelope, body) = Envelope::open(datagram, self.cluster)?;
        let sender = envelope.sender;
        if sender == self.me.member {
            return Err(Dropped::Own);
        }
        let standing = self.standing(sender, envelope.map_version);
        match standing {
            Standing::Current | Standing::Early => {
                let address = self.book.address(sender).unwrap_or(from);
                self.suggest_map(now, envelope.map_version, sender, address);
            }
            Standing::Stale | Standing::Unknown => {}
        }
        let refusal = match standing {
            // Another process of this node, by a map that still shows this one: it can only be out of order.
            Standing::Current if sender.node == self.me.member.node => Dropped::Own,
            Standing::Current => return self.take_body(now, from, &envelope, body, out),
            Standing::Early => return Err(Dropped::Early),
            Standing::Stale => Dropped::Stale,
            Standing::Unknown => Dropped::Unknown,
        };
        // Never in answer to a notice, or two that do not know one another would answer for ever.
        if envelope.kind != Kind::Notice && envelope.map_version < self.map.version() && self.notices.spend(now) {
            self.send(from, Kind::Notice, &[], out);
        }
        Err(refusal)
    }

    fn take_body(
        &mut self,
        now: Instant,
        from: SocketAddr,
        envelope: &Envelope,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let sender = envelope.sender;
        self.swim.handle_sign_of_life(now, sender, &mut self.packets);
        match envelope.kind {
            Kind::Swim => self.take_packet(now, from, sender, body)?,
            Kind::Rumours => {
                let mut reader = Reader::new(body);
                while !reader.is_done() {
                    let item = reader.item().map_err(|_| Dropped::Malformed)?;
                    self.take_rumour(now, item)?;
                }
            }
            Kind::Ask => {
                let mut reader = Reader::new(body);
                let about = reader.member().map_err(|_| Dropped::Malformed)?;
                reader.finish().map_err(|_| Dropped::Malformed)?;
                self.answer(now, sender, about, out);
            }
            Kind::Hello | Kind::Notice if !body.is_empty() => return Err(Dropped::Malformed),
            Kind::Hello | Kind::Notice => self.learn(now, sender, from, Source::Hearsay),
        }
        let is_greeting_due = self.peers.heard(now, sender) || envelope.kind == Kind::Hello;
        if is_greeting_due && self.answers.spend(now) {
            self.greet(sender, out);
        }
        Ok(())
    }

    fn take_packet(&mut self, now: Instant, from: SocketAddr, sender: Member, body: &[u8]) -> Result<(), Dropped> {
        let map = self.map.clone();
        let received = self
            .swim
            .handle_packet(now, sender, body, |member| map.is_current(member), &mut self.packets)
            .map_err(|error| match error {
            SwimError::Malformed(_) => Dropped::Malformed,
            SwimError::Refused(error) => {
                tracing::debug!(%error, node = %sender, "a gossip packet is out of place");
                Dropped::Malformed
            }
        })?;
        self.stats.foreign.add(received.foreign);
        // Who does not know its own IP address sends from it all the same.
        let its = received.address;
        let address = if its.ip().is_unspecified() { SocketAddr::new(from.ip(), its.port()) } else { its };
        self.learn(now, sender, address, Source::Itself);
        for other in received.others {
            self.learn(now, other.member, other.address, Source::Hearsay);
        }
        for rumour in received.rumours {
            self.take_rumour(now, rumour)?;
        }
        Ok(())
    }

    fn take_rumour(&mut self, now: Instant, item: &[u8]) -> Result<(), Dropped> {
        let rumour = Rumour::decode(item, self.vbuckets).map_err(|_| Dropped::Malformed)?;
        let member = rumour.member();
        if !self.map.is_current(member) {
            self.stats.foreign.add(1);
            return Ok(());
        }
        if let Rumour::Head(head) = &rumour
            && let Some(address) = self.book.address(member)
        {
            self.suggest_map(now, head.map_version, member, address);
        }
        if !self.board.accept(now, rumour.clone()) {
            return Ok(());
        }
        self.stats.rumours.add(1);
        self.swim.spread(item);
        match rumour {
            Rumour::Head(_) => {}
            Rumour::Chunk(chunk) => self.compare(&chunk),
        }
        self.heads_changed = true;
        self.alarms.set_earlier(Alarm::Round, now + super::ROUND_DELAY);
        Ok(())
    }

    /// Whether somebody leads in a newer epoch what this node leads.
    fn compare(&mut self, chunk: &Chunk) {
        for (vbucket, epoch, member) in leads_over(chunk, &self.leads) {
            self.events.leader_elsewhere(vbucket, epoch, member);
            self.stats.leaders_elsewhere.add(1);
        }
    }
}
