//! Histories: what the processes of one run did and saw, a record per line, in JSON that a person can read.
//!
//! Each process writes one file: every client process, every node that is audited, the supervisor, the nemesis. All of
//! them read one clock (`CLOCK_MONOTONIC`, or the simulator's), so that records of different files can be compared. The
//! first record of a file says which run it belongs to, so that files left over from another run are noticed: one is
//! the [`Run`] header, the others begin with a [`FileHead`].
//!
//! A line begins with `t_ns` and `event`, in this order, and goes on with the fields of that event; a field nobody
//! knows is an error, because a checker that skips what it does not understand passes what it should not.
//!
//! Two rules make records of one reader comparable without trusting the clock: a session is recorded by one process, in
//! the order in which things happened to it; and a reader that goes on elsewhere does so as the next session of its
//! own.
//!
//! The shape is Jepsen's: operations have an invocation and one of three outcomes, and what readers saw is written down
//! as it is, not as it should be. [`crate::check`] judges.

mod audit;
mod error;
mod event;
mod push;
mod read;
mod reader;
mod run;
mod supervise;
mod unit;
mod writer;

pub use self::audit::{AckSent, Append, ChainHash, HwAdvance, IncarnationStart, Meta, Role, RoleChange, Truncate};
pub use self::error::HistoryError;
pub use self::event::{Event, Record};
pub use self::push::{Position, PushFail, PushInvoke, PushOk, PushUnknown};
pub use self::read::{
    Advance, Close, CloseReason, Confirmed, Cursor, Deliver, Gap, GapReason, Heartbeat, ReaderRole, Start, Subscribe,
};
pub use self::reader::{HistoryReader, Line};
pub use self::run::{Expectations, FileHead, Run};
pub use self::supervise::{Continue, End, Exit, Fault, FaultOutcome, FaultPhase, Heal, Spawn, Stop};
pub use self::unit::{Hash64, HexBytes, Nanos, Pid, SessionNumber};
pub use self::writer::{HistoryWriter, encode};
