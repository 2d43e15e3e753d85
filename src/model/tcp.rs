//! TCP sockets.

use serde::{Deserialize, Serialize};

use super::Hex;
use super::files::Content;

/// What is particular to a TCP socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpSocket {
    /// AF_INET 2 or AF_INET6 10.
    pub domain: i32,
    /// Its own address as getsockname(2) gives it; port 0 if it has none.
    pub local: Hex,
    /// How far it has come.
    pub state: State,
    /// Which of the bytes that wait to be read is urgent (MSG_OOB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urgent: Option<Urgent>,
    /// What it has sent before anybody has accepted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early: Option<Early>,
}

/// So many bytes may have been sent over a connection before it was accepted.
pub const MOST_EARLY: u64 = 64 * 1024;

/// What was sent over a connection that waits to be accepted ([`Link::Waiting`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Early {
    /// How many connections wait in front of it.
    pub place: u32,
    /// The bytes, [`MOST_EARLY`] at most.
    pub content: Option<Content>,
    /// How many of them are in front of the one that is urgent (MSG_OOB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urgent: Option<u64>,
}

/// An urgent byte among those that wait to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Urgent {
    /// How many are in front of it.
    pub at: u64,
    /// It has been read as such, and only tells where it was (SIOCATMARK).
    pub read: bool,
}

/// How far a TCP socket has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It neither listens nor was ever connected.
    Idle,
    /// It listens.
    Listening {
        /// As it was given to listen(2).
        backlog: u32,
    },
    /// It waits for an answer from this address.
    Connecting {
        /// As it was given to connect(2).
        to: Hex,
    },
    /// It is connected; what it has sent or received last may have been the end (FIN).
    Connected {
        /// As getpeername(2) gives it.
        peer: Hex,
        /// Who has the other end.
        link: Link,
    },
    /// It was connected; nothing comes or goes any more.
    Ended {
        /// An error (ECONNRESET, as a rule) waits to be reported.
        error: bool,
    },
}

/// Who has the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// The socket at this index of [`super::Checkpoint::files`].
    To(u32),
    /// Nobody yet: it waits to be accepted by the listening socket at this index.
    Waiting(u32),
    /// Nobody any more: it was closed, and has sent its end.
    Closed,
    /// Somebody who is not in the image.
    Outside,
}
