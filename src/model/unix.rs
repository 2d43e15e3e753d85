//! UNIX sockets.

use serde::{Deserialize, Serialize};

use super::Name;
use super::files::Content;
use super::sockets::{Credentials, Message};

/// What is particular to a UNIX socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixSocket {
    /// What it is connected to.
    pub link: Link,
    /// Who made the other end, as SO_PEERCRED says (of one that listens: who called listen(2)); `None` where it says
    /// nothing.
    pub peer: Option<Credentials>,
    /// ECONNRESET waits to be reported: the peer was closed with unread data.
    pub reset: bool,
    /// Its own name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
    /// The name of the other end, where that is not in the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_name: Option<Name>,
    /// Set for one that listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listening: Option<Listening>,
    /// How many of a stream's bytes that wait to be read are in front of the urgent one (MSG_OOB), which is a message of
    /// its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urgent: Option<u64>,
    /// How many are in front of each place where an urgent one has been read out of band, and a message begins: reads
    /// end there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<u64>,
    /// What it has sent while its connection waits to be accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early: Option<Early>,
}

/// What was sent over a connection that waits to be accepted ([`Link::Waiting`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Early {
    /// The messages, in order, with nothing but their sizes; a stream's are pieces.
    pub messages: Vec<Message>,
    /// The bytes of all of them, one after the other.
    pub content: Option<Content>,
    /// How many of a stream's are in front of the urgent one (MSG_OOB), which is a message of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urgent: Option<u64>,
}

/// What a socket is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// Nothing.
    None,
    /// The socket at this index of [`super::Checkpoint::files`]. A datagram socket need not be connected back.
    To(u32),
    /// Nobody yet: it waits to be accepted by the listening socket at this index.
    Waiting(u32),
    /// One that has been closed.
    Closed,
    /// One of somebody who is not in the image.
    Outside,
}

/// A name that a socket has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// As in `sun_path`: a path, as it was given to bind(2), or NUL and an abstract name.
    pub name: Name,
    /// The file that others find it by; `None` for abstract names, for files that are gone, and for sockets that have
    /// the name of the one that accepted them.
    pub file: Option<SocketFile>,
}

impl Bound {
    /// Whether the name is no path.
    pub fn is_abstract(&self) -> bool {
        self.name.0.first() == Some(&0)
    }

    /// Of a path that leads through a descriptor of whoever gave it (`/proc/self/fd/7/NAME`): that, and what is behind it.
    pub fn by_descriptor(&self) -> Option<(i32, &[u8])> {
        let rest = self.name.0.strip_prefix(b"/proc/self/fd/")?;
        let (fd, name) = rest.split_at(rest.iter().position(|&b| b == b'/')?);
        Some((std::str::from_utf8(fd).ok()?.parse().ok()?, name.get(1..)?))
    }

    /// What the path of its file ends in.
    pub fn tail(&self) -> &[u8] {
        self.by_descriptor().map_or(&self.name.0, |(_, name)| name)
    }
}

/// The file of a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFile {
    /// Its absolute path; it ends in [`Bound::tail`].
    pub path: Name,
    /// Permission bits.
    pub mode: u32,
    /// Device and inode, to know it again.
    pub device: u64,
    /// See there.
    pub inode: u64,
    /// Its absolute path, if it was given another name in its directory since: then [`SocketFile::path`] is where it was made.
    #[serde(default)]
    pub renamed: Option<Name>,
}

impl SocketFile {
    /// Where others find it.
    pub fn place(&self) -> &Name {
        self.renamed.as_ref().unwrap_or(&self.path)
    }
}

/// What one that listens has besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// As it was given to listen(2).
    pub backlog: u32,
    /// The connections that wait to be accepted, oldest first: indices of their other ends among
    /// [`super::Checkpoint::files`], `None` for one that is not in the image.
    pub waiting: Vec<Option<u32>>,
    /// What is known of those whose other end is closed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<Gone>,
}

/// A connection that waits to be accepted, whose other end is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Its place among [`Listening::waiting`], where there is `None`.
    pub place: u32,
    /// Who had made it.
    pub peer: Option<Credentials>,
    /// The name of the other end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// What was sent over it.
    pub early: Early,
}
