//! How one node greets another: the hello that begins every connection between nodes, and the answer to it.
//!
//! A peer connection carries HTTP/2, but before its preface both sides settle who they are: whoever dials sends a
//! [`Hello`] of [`HELLO_BYTES`], the listener answers with a [`Reply`] of [`REPLY_BYTES`]. So a node of another
//! cluster, a process that was replaced, or something that is no node at all is told apart before anything is parsed
//! that could do harm, and the listener knows which plane the connection is for without looking into HTTP/2.
//!
//! Fixed sizes: neither side ever reads a byte of what follows, and nothing is allocated on a stranger's word. All
//! numbers are big-endian. The last four bytes are the CRC-32 of those before; it guards against confusion, not against
//! malice.

use thiserror::Error;

use crate::id::{ClusterId, Incarnation, Member, NodeId};

/// The version of the peer protocol. Nodes speak with their own version only.
pub const PEER_VERSION: u16 = 1;

/// Length of an encoded [`Hello`].
pub const HELLO_BYTES: usize = 54;

/// Length of an encoded [`Reply`].
pub const REPLY_BYTES: usize = 20;

const HELLO_MAGIC: [u8; 4] = *b"BrkH";
const REPLY_MAGIC: [u8; 4] = *b"BrkR";

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Raft, forming, heartbeats, maps: served by the control thread.
    Control,
    /// Replication, forwarded pushes, relayed deliveries: served by a shard's thread.
    Data,
    /// To another process, which `to` names: the listener carries all that follows between the two.
    Detour,
}

/// What whoever dials says first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// What the connection is for.
    pub purpose: Purpose,
    /// The shard that dials; what the data plane makes of it is its own affair. Zero for others.
    pub shard: u16,
    /// The cluster the sender is in, when it is in one.
    pub cluster: Option<ClusterId>,
    /// Who dials, when it is registered.
    pub from: Option<Member>,
    /// Whom it wants, when not just anybody.
    pub to: Option<Member>,
}

/// The listener's answer. After any but [`Reply::Ok`] it closes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// HTTP/2 may begin.
    Ok,
    /// The listener is in another cluster. Do not dial again: one of the addresses is wrong.
    OtherCluster,
    /// Who dials was replaced by this incarnation of its node, and has to end.
    Replaced(Incarnation),
    /// Who dials was removed from the cluster, and has to end.
    Forgotten,
    /// The listener is not the process that was asked for: that one is gone.
    NotMe,
    /// The listener speaks this version of the peer protocol.
    Version(u16),
    /// The hello was none.
    Malformed,
    /// The listener has too many connections that have not said who they are. Dial again later.
    Busy,
}

/// Why bytes are no [`Hello`] or [`Reply`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum PeerError {
    /// Not as many bytes as there must be. Drop the connection.
    #[error("{0} bytes")]
    Length(usize),
    /// It does not begin as it must: no node is speaking. Drop the connection.
    #[error("not a broky node")]
    Magic,
    /// Bytes were changed on the way. Drop the connection.
    #[error("checksum mismatch")]
    Checksum,
    /// Another version of the protocol. Refuse it, and say which version is spoken here.
    #[error("version {0} of the peer protocol")]
    Version(u16),
    /// A code that does not exist. Drop the connection.
    #[error("unknown code {0}")]
    Code(u8),
}

impl Hello {
    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut out = Writer::new(HELLO_MAGIC);
        out.put(&[self.purpose.code(), 0]);
        out.put(&self.shard.to_be_bytes());
        out.put(&self.cluster.unwrap_or_default().0);
        for member in [self.from, self.to] {
            let member = member.unwrap_or(NOBODY);
            out.put(&member.node.0.to_be_bytes());
            out.put(&member.incarnation.0.to_be_bytes());
        }
        out.finish()
    }

    /// What the bytes say.
    ///
    /// # Errors
    /// See [`PeerError`]. A version that is not ours is told before the checksum is looked at: who speaks another one
    /// may lay out the rest differently.
    pub fn decode(bytes: &[u8]) -> Result<Self, PeerError> {
        let mut from = Reader::new(bytes, HELLO_BYTES, HELLO_MAGIC)?;
        let [purpose, _] = from.take();
        Ok(Self {
            purpose: Purpose::of(purpose)?,
            shard: u16::from_be_bytes(from.take()),
            cluster: Some(ClusterId(from.take())).filter(|cluster| *cluster != ClusterId::default()),
            from: from.member(),
            to: from.member(),
        })
    }
}

impl Reply {
    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> [u8; REPLY_BYTES] {
        let (code, detail) = match *self {
            Self::Ok => (0, 0),
            Self::OtherCluster => (1, 0),
            Self::Replaced(Incarnation(by)) => (2, by),
            Self::Forgotten => (3, 0),
            Self::NotMe => (4, 0),
            Self::Version(version) => (5, u64::from(version)),
            Self::Malformed => (6, 0),
            Self::Busy => (7, 0),
        };
        let mut out = Writer::new(REPLY_MAGIC);
        out.put(&[code, 0]);
        out.put(&detail.to_be_bytes());
        out.finish()
    }

    /// What the bytes say.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PeerError> {
        let mut from = Reader::new(bytes, REPLY_BYTES, REPLY_MAGIC)?;
        let [code, _] = from.take();
        let detail = u64::from_be_bytes(from.take());
        match code {
            0 => Ok(Self::Ok),
            1 => Ok(Self::OtherCluster),
            2 => Ok(Self::Replaced(Incarnation(detail))),
            3 => Ok(Self::Forgotten),
            4 => Ok(Self::NotMe),
            5 => Ok(Self::Version(u16::try_from(detail).unwrap_or(u16::MAX))),
            6 => Ok(Self::Malformed),
            7 => Ok(Self::Busy),
            code => Err(PeerError::Code(code)),
        }
    }
}

impl From<PeerError> for Reply {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Version(_) => Self::Version(PEER_VERSION),
            PeerError::Length(_) | PeerError::Magic | PeerError::Checksum | PeerError::Code(_) => Self::Malformed,
        }
    }
}

impl Purpose {
    fn code(self) -> u8 {
        match self {
            Self::Control => 1,
            Self::Data => 2,
            Self::Detour => 3,
        }
    }

    fn of(code: u8) -> Result<Self, PeerError> {
        match code {
            1 => Ok(Self::Control),
            2 => Ok(Self::Data),
            3 => Ok(Self::Detour),
            code => Err(PeerError::Code(code)),
        }
    }
}

/// Node ids begin at 1, incarnations are log indices and begin above 0.
const NOBODY: Member = Member { node: NodeId(0), incarnation: Incarnation(0) };

const CHECKSUM_BYTES: usize = 4;

struct Writer<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Writer<N> {
    fn new(magic: [u8; 4]) -> Self {
        let mut out = Self { bytes: [0; N], at: 0 };
        out.put(&magic);
        out.put(&PEER_VERSION.to_be_bytes());
        out
    }

    fn put(&mut self, part: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().skip(self.at).zip(part) {
            *place = *byte;
        }
        self.at += part.len();
    }

    fn finish(mut self) -> [u8; N] {
        assert!(self.at + CHECKSUM_BYTES == N, "the fields take {} of {N} bytes", self.at);
        let sum = crc32fast::hash(self.bytes.get(..self.at).unwrap_or_default());
        self.put(&sum.to_be_bytes());
        self.bytes
    }
}

struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], len: usize, magic: [u8; 4]) -> Result<Self, PeerError> {
        if bytes.len() != len {
            return Err(PeerError::Length(bytes.len()));
        }
        let (body, sum) = bytes.split_at(len - CHECKSUM_BYTES);
        let mut from = Self { left: body };
        if from.take() != magic {
            return Err(PeerError::Magic);
        }
        let version = u16::from_be_bytes(from.take());
        let is_intact = crc32fast::hash(body).to_be_bytes() == *sum;
        match (version == PEER_VERSION, is_intact) {
            (false, _) => Err(PeerError::Version(version)),
            (true, false) => Err(PeerError::Checksum),
            (true, true) => Ok(from),
        }
    }

    /// The next bytes. There are enough: the length was checked, and the fields add up to it.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, left) = self.left.split_first_chunk().unwrap_or((&[0; N], &[]));
        self.left = left;
        *taken
    }

    fn member(&mut self) -> Option<Member> {
        let node = NodeId(u32::from_be_bytes(self.take()));
        let incarnation = Incarnation(u64::from_be_bytes(self.take()));
        let member = Member { node, incarnation };
        (member != NOBODY).then_some(member)
    }
}
