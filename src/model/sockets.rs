//! Sockets: what all families have in common.

use serde::{Deserialize, Serialize};

use super::datagram::DatagramSocket;
use super::files::Content;
use super::netlink::NetlinkSocket;
use super::packet::PacketSocket;
use super::tcp::TcpSocket;
use super::unix::{Link, UnixSocket};
use super::{Hex, Name, Pid};

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// SOCK_STREAM 1, SOCK_DGRAM 2, SOCK_RAW 3, SOCK_SEQPACKET 5.
    pub kind: i32,
    /// What is particular to its family.
    pub family: Family,
    /// What was shut down: receiving 1, sending 2.
    pub shutdown: u8,
    /// Messages that can be read, in order; a stream's are pieces that came with the same descriptors and credentials.
    pub queue: Vec<Message>,
    /// The bytes of all of them, one after the other.
    pub content: Option<Content>,
    /// Options that a new socket of this kind does not have, in the order they are to be set.
    pub options: Vec<SocketOption>,
}

impl Socket {
    /// Whether it is a UNIX socket with what a socketpair can't have ([`super::manifest::UNIX_SOCKETS`]).
    pub fn is_more_than_a_pair(&self) -> bool {
        let Family::Unix(unix) = &self.family else { return false };
        unix.bound.is_some()
            || unix.peer_name.is_some()
            || unix.listening.is_some()
            || matches!(unix.link, Link::Waiting(_) | Link::Outside)
            || self.queue.iter().any(|m| m.from.is_some() || !m.rights.is_empty())
    }

    /// Whether it is a UNIX socket that has sent something before it was accepted, or has one such waiting that is gone ([`super::manifest::EARLY_MESSAGES`]).
    pub fn is_early(&self) -> bool {
        let Family::Unix(unix) = &self.family else { return false };
        unix.early.is_some() || unix.listening.as_ref().is_some_and(|listening| !listening.gone.is_empty())
    }

    /// Whether it is a packet socket ([`super::manifest::PACKET_SOCKETS`]).
    pub fn is_packet(&self) -> bool {
        matches!(self.family, Family::Packet(_))
    }

    /// Whether it has urgent data, or a mark where some was ([`super::manifest::URGENT_DATA`]).
    pub fn has_urgent(&self) -> bool {
        match &self.family {
            Family::Tcp(tcp) => tcp.urgent.is_some(),
            Family::Unix(unix) => unix.urgent.is_some() || !unix.marks.is_empty(),
            Family::Datagram(_) | Family::Netlink(_) | Family::Packet(_) => false,
        }
    }
}

/// Address families.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// AF_UNIX.
    Unix(UnixSocket),
    /// AF_INET or AF_INET6, and TCP.
    Tcp(TcpSocket),
    /// AF_INET or AF_INET6, and datagrams or packets.
    Datagram(DatagramSocket),
    /// AF_NETLINK.
    Netlink(NetlinkSocket),
    /// AF_PACKET ([`super::manifest::PACKET_SOCKETS`]).
    Packet(PacketSocket),
}

/// A message that waits to be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its length in bytes.
    pub size: u64,
    /// Who sent it, if that is kept with it.
    pub credentials: Option<Credentials>,
    /// The name of the UNIX datagram socket it was sent from, if that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Name>,
    /// Descriptors that come with it (SCM_RIGHTS): indices into [`super::Checkpoint::files`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rights: Vec<u32>,
}

/// Whose a message or a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Credentials {
    /// The process.
    pub pid: Pid,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// An option of a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketOption {
    /// SOL_SOCKET or a protocol.
    pub level: i32,
    /// Its number.
    pub name: i32,
    /// Its value as getsockopt(2) gives it.
    pub value: Hex,
}
