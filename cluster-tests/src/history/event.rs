//! A record: a moment, an event's name, and the fields of that event.
//!
//! `t_ns` and `event` come first in a line. Then the rest can be read straight into the event's own type, in one pass
//! and without a copy of it as a map, which is what serde's internally tagged enums and flattened fields make; and
//! unknown fields are errors, which flattened ones cannot be.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::audit::{AckSent, Append, ChainHash, HwAdvance, IncarnationStart, Meta, RoleChange, Truncate};
use super::push::{PushFail, PushInvoke, PushOk, PushUnknown};
use super::read::{Advance, Close, Confirmed, Deliver, Gap, Heartbeat, Subscribe};
use super::run::{FileHead, Run};
use super::supervise::{Continue, End, Exit, Fault, Heal, Spawn, Stop};
use super::unit::Nanos;

/// One line of a history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Record<'a> {
    /// When.
    pub t_ns: Nanos,
    /// What.
    #[serde(flatten)]
    pub event: Event<'a>,
}

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident($body:ty),)*) => {
        /// What can happen in a run.
        #[derive(Clone, PartialEq, Eq, Debug, Serialize)]
        #[serde(tag = "event", rename_all = "snake_case")]
        pub enum Event<'a> {
            $($(#[$doc])* $name($body),)*
        }

        #[derive(Clone, Copy, Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum EventName {
            $($name,)*
        }

        impl<'a> Event<'a> {
            fn deserialize_fields<'de: 'a, D: Deserializer<'de>>(
                name: EventName,
                fields: D,
            ) -> Result<Self, D::Error> {
                match name {
                    $(EventName::$name => Deserialize::deserialize(fields).map(Self::$name),)*
                }
            }
        }
    };
}

events! {
    /// What the run is.
    Run(Run),
    /// Which run the file belongs to.
    File(FileHead),
    /// A push begins.
    PushInvoke(PushInvoke<'a>),
    /// A push is committed.
    PushOk(PushOk<'a>),
    /// A push was refused.
    PushFail(PushFail<'a>),
    /// Nobody knows of a push.
    PushUnknown(PushUnknown<'a>),
    /// A session begins.
    Subscribe(Subscribe),
    /// A session stands.
    Confirmed(Confirmed),
    /// A message came.
    Deliver(Deliver<'a>),
    /// A position moved without a message.
    Advance(Advance<'a>),
    /// A reader is told what it will not get.
    Gap(Gap<'a>),
    /// A node shows a reader that it lives.
    Heartbeat(Heartbeat<'a>),
    /// A session ends.
    Close(Close),
    /// A process was registered.
    IncarnationStart(IncarnationStart),
    /// The control log changed a vbucket.
    Meta(Meta),
    /// A replica took messages.
    Append(Append),
    /// A replica learnt what is committed.
    HwAdvance(HwAdvance),
    /// A replica took messages back.
    Truncate(Truncate),
    /// A leader acknowledged.
    AckSent(AckSent),
    /// A replica took a role.
    RoleChange(RoleChange),
    /// What a replica's log hashes to.
    ChainHash(ChainHash),
    /// A process was started.
    Spawn(Spawn),
    /// A process is gone.
    Exit(Exit),
    /// A process was paused.
    Stop(Stop),
    /// A process goes on.
    Continue(Continue),
    /// The nemesis did something.
    Fault(Fault),
    /// Everything is whole again.
    Heal(Heal),
    /// The run is over.
    End(End),
}

impl<'de: 'a, 'a> Deserialize<'de> for Record<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

struct Fields<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for Fields<'a> {
    type Value = Record<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record that begins with t_ns and event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record<'a>, A::Error> {
        expect_key(&mut map, "t_ns")?;
        let t_ns = map.next_value()?;
        expect_key(&mut map, "event")?;
        let name = map.next_value()?;
        let event = Event::deserialize_fields(name, MapAccessDeserializer::new(map))?;
        Ok(Record { t_ns, event })
    }
}

fn expect_key<'de, A: MapAccess<'de>>(map: &mut A, expected: &str) -> Result<(), A::Error> {
    match map.next_key::<&str>()? {
        Some(key) if key == expected => Ok(()),
        Some(key) => Err(A::Error::custom(format_args!("field {key:?} where {expected:?} has to be"))),
        None => Err(A::Error::custom(format_args!("field {expected:?} is missing"))),
    }
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
