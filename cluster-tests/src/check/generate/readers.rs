//! Readers: of everything, of one key, slow ones, and the final one.

use broky_proto::id::{Lineage, Offset, VBucketId};
use broky_ring::lineage::lineage_base;
use rand::Rng as _;

use super::{CLUSTER, Generate, Process, World, role_name};
use crate::history::{
    Advance, Close, CloseReason, Confirmed, Cursor, Deliver, Event, Gap, GapReason, Heartbeat, HistoryError,
    ReaderRole, Record, SessionNumber, Start, Subscribe,
};

/// One reader's state.
#[derive(Debug)]
pub(super) struct Reader {
    name: String,
    process: Process,
    role: ReaderRole,
    /// The only key it wants.
    key: Option<u8>,
    session: SessionNumber,
    /// Where it is in each vbucket, once it reads.
    next: Vec<Offset>,
}

/// Every reader of a history, the final one last.
pub(super) fn of(options: &Generate) -> Vec<Reader> {
    let plain = (0..options.readers).map(|_| (ReaderRole::Plain, None));
    let filtered = (0..options.filtered).map(|number| (ReaderRole::Plain, Some(u8::try_from(number % 4).unwrap_or(0))));
    let slow = (0..options.slow).map(|_| (ReaderRole::Slow, None));
    let all = plain.chain(filtered).chain(slow).chain([(ReaderRole::Final, None)]);
    let first = 1 + options.producers as usize;
    let reader = |(number, (role, key)): (usize, (ReaderRole, Option<u8>))| Reader {
        name: format!("{}-{number}", role_name(role)),
        process: first + number,
        role,
        key,
        session: SessionNumber(0),
        next: Vec::new(),
    };
    all.enumerate().map(reader).collect()
}

impl<S: FnMut(Process, &Record<'_>) -> Result<(), HistoryError>> World<'_, S> {
    /// Lets each reader get on: usually in some vbuckets, seldom over a broken stream.
    pub(super) fn read(&mut self) -> Result<(), HistoryError> {
        for at in 0..self.readers.len().saturating_sub(1) {
            let mut reader = self.readers.remove(at);
            let done = self.get_on(&mut reader);
            self.readers.insert(at, reader);
            done?;
        }
        Ok(())
    }

    fn get_on(&mut self, reader: &mut Reader) -> Result<(), HistoryError> {
        if reader.session.0 == 0 {
            self.open(reader, Start::Earliest)?;
        } else if self.rng.random_range(0..200) == 0 {
            self.close(reader, CloseReason::Broken)?;
            let cursors = self.cursors(reader);
            self.open(reader, Start::Resume { cluster: CLUSTER.to_owned(), cursors })?;
        }
        for at in 0..self.logs.len() {
            if reader.role == ReaderRole::Slow && self.rng.random_range(0..4) > 0 {
                self.skip(reader, at)?;
            } else if self.rng.random_range(0..2) == 0 {
                self.catch_up(reader, at)?;
            }
        }
        let map_version = self.map_version();
        let (process, session) = (reader.process, reader.session);
        self.write(process, Event::Heartbeat(Heartbeat { reader: (&*reader.name).into(), session, map_version }))
    }

    /// After the faults: everybody comes to the end, and then the final reader reads it all.
    pub(super) fn finish_reading(&mut self) -> Result<(), HistoryError> {
        self.wait();
        for mut reader in std::mem::take(&mut self.readers) {
            if reader.session.0 == 0 {
                self.open(&mut reader, Start::Earliest)?;
            }
            for at in 0..self.logs.len() {
                self.catch_up(&mut reader, at)?;
            }
            self.close(&reader, CloseReason::Done)?;
        }
        Ok(())
    }

    fn open(&mut self, reader: &mut Reader, start: Start) -> Result<(), HistoryError> {
        reader.session = SessionNumber(reader.session.0 + 1);
        let (process, session) = (reader.process, reader.session);
        let is_anew = start == Start::Earliest;
        let patterns = vec![reader.key.map_or("*", super::key_of).to_owned()];
        let subscribe = Subscribe {
            reader: reader.name.clone(),
            session,
            node: None,
            patterns,
            key_partitions: Vec::new(),
            start,
            role: reader.role,
        };
        self.write(process, Event::Subscribe(subscribe))?;
        if is_anew {
            reader.next = self.logs.iter().map(|log| log.base).collect();
        }
        let confirmed = Confirmed {
            reader: reader.name.clone(),
            session,
            cluster: CLUSTER.to_owned(),
            map_version: Some(self.map_version()),
            cursors: self.cursors(reader),
        };
        self.write(process, Event::Confirmed(confirmed))
    }

    fn close(&mut self, reader: &Reader, reason: CloseReason) -> Result<(), HistoryError> {
        let close = Close { reader: reader.name.clone(), session: reader.session, reason };
        self.write(reader.process, Event::Close(close))
    }

    fn cursors(&self, reader: &Reader) -> Vec<Cursor> {
        let of_vbucket = self.logs.iter().zip(&reader.next).zip(0..);
        let cursor = |((log, next), vbucket): ((&super::Log, &Offset), u16)| Cursor {
            vbucket: VBucketId(vbucket),
            // The lineage that the reader last heard of.
            lineage: if *next < log.base { Lineage(log.lineage.0.saturating_sub(1)) } else { log.lineage },
            epoch: log.epoch,
            offset: *next,
        };
        of_vbucket.map(cursor).collect()
    }

    /// Gives a reader all that there is in a vbucket.
    fn catch_up(&mut self, reader: &mut Reader, at: usize) -> Result<(), HistoryError> {
        self.tell_loss(reader, at)?;
        let (Some(log), Some(next)) = (self.logs.get(at), reader.next.get(at).copied()) else { return Ok(()) };
        let (end, lineage, epoch) = (log.end(), log.lineage, log.epoch);
        let vbucket = VBucketId(u16::try_from(at).unwrap_or_default());
        let (process, session) = (reader.process, reader.session);
        let mut passed = next;
        for offset in (next.0..end.0).map(Offset) {
            let Some(stored) = self.logs.get(at).and_then(|log| log.at(offset)).copied() else { continue };
            if reader.key.is_some_and(|key| key != stored.key) {
                continue;
            }
            passed = offset.plus(1);
            let deliver = Deliver {
                reader: (&*reader.name).into(),
                session,
                vbucket,
                lineage,
                epoch: stored.epoch,
                offset,
                hw: Some(end),
                producer: Some(stored.producer),
                sequence: Some(stored.sequence),
                crc32: stored.crc32(),
                hash64: stored.hash64(),
            };
            self.write(process, Event::Deliver(deliver))?;
        }
        if passed < end {
            let reader = (&*reader.name).into();
            let advance = Advance { reader, session, vbucket, lineage, epoch, offset: end };
            self.write(process, Event::Advance(advance))?;
        }
        reader.next.iter_mut().skip(at).take(1).for_each(|next| *next = end);
        Ok(())
    }

    /// Tells a reader that it was too slow for what there is in a vbucket.
    fn skip(&mut self, reader: &mut Reader, at: usize) -> Result<(), HistoryError> {
        self.tell_loss(reader, at)?;
        let Some(to) = self.logs.get(at).map(super::Log::end) else { return Ok(()) };
        self.gap(reader, at, to, GapReason::Slow)
    }

    /// Tells a reader that the lineage it was in is lost.
    fn tell_loss(&mut self, reader: &mut Reader, at: usize) -> Result<(), HistoryError> {
        let Some(lineage) = self.logs.get(at).map(|log| log.lineage) else { return Ok(()) };
        self.gap(reader, at, lineage_base(lineage), GapReason::Lost)
    }

    fn gap(&mut self, reader: &mut Reader, at: usize, to: Offset, reason: GapReason) -> Result<(), HistoryError> {
        let (Some(next), Some(log)) = (reader.next.get_mut(at), self.logs.get(at)) else { return Ok(()) };
        if *next >= to {
            return Ok(());
        }
        let (from, lineage, process, session) = (*next, log.lineage, reader.process, reader.session);
        *next = to;
        let vbucket = VBucketId(u16::try_from(at).unwrap_or_default());
        let gap = Gap { reader: (&*reader.name).into(), session, vbucket, lineage, from, to, reason };
        self.write(process, Event::Gap(gap))
    }
}
