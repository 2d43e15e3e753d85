//! UNIX sockets.

use serde::{Deserialize, Serialize};

use super::sockets::Credentials;

/// What is particular to a UNIX socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixSocket {
    /// What it is connected to.
    pub link: Link,
    /// Who made the other end, as SO_PEERCRED says; `None` where it says nothing.
    pub peer: Option<Credentials>,
    /// ECONNRESET waits to be reported: the peer was closed with unread data.
    pub reset: bool,
}

/// What a socket is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// Nothing.
    None,
    /// The socket at this index of [`super::Checkpoint::files`].
    To(u32),
    /// One that has been closed.
    Closed,
}
