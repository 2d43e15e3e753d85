//! Internet sockets that deal in datagrams: UDP, UDP-Lite, ICMP ("ping") and raw ones.

use serde::{Deserialize, Serialize};

use super::Hex;

/// What is particular to such a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatagramSocket {
    /// AF_INET 2 or AF_INET6 10.
    pub domain: i32,
    /// UDP 17, UDP-Lite 136, ICMP 1, ICMPv6 58; of a raw socket any.
    pub protocol: i32,
    /// Its own address as getsockname(2) gives it; port 0 if it has none.
    pub local: Hex,
    /// As getpeername(2) gives it, if it is connected.
    pub peer: Option<Hex>,
    /// Where each datagram of its queue came from and went to.
    pub ways: Vec<Way>,
    /// ECONNREFUSED waits to be reported.
    pub refused: bool,
    /// Packets waited in it that are not kept (of ICMP and raw sockets).
    pub lost: bool,
    /// Multicast groups it is a member of.
    pub memberships: Vec<Membership>,
    /// The interfaces that memberships, addresses and options speak of.
    pub interfaces: Vec<Interface>,
}

/// The way a datagram has gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// The address of its sender, as `sockaddr`.
    pub from: Hex,
    /// Where it was sent to; empty where that is not known.
    pub to: Hex,
    /// Several in one (UDP_GRO), of this length each.
    pub segment: Option<u16>,
}

/// Membership in a multicast group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Index of the interface.
    pub interface: u32,
    /// The group: 4 or 16 bytes.
    pub group: Hex,
    /// Everything but what the sources send; else nothing but that.
    pub exclude: bool,
    /// Senders: 4 or 16 bytes each.
    pub sources: Vec<Hex>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The number it had.
    pub index: u32,
    /// The name by which it is found again.
    pub name: String,
}
