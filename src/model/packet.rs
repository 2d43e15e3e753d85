//! Packet sockets, which see what goes through an interface.

use serde::{Deserialize, Serialize};

use super::Hex;

/// What is particular to a packet socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketSocket {
    /// The protocol it takes packets of (ETH_P_ALL 3, …); 0: none.
    pub protocol: u16,
    /// The interface it is bound to, by name; `None`: all of them.
    pub interface: Option<String>,
    /// What it has asked of interfaces.
    pub memberships: Vec<PacketMembership>,
    /// The group of sockets among which packets are shared out, as PACKET_FANOUT gives it.
    pub fanout: Option<u32>,
    /// Packets waited in it, which are not kept.
    pub lost: bool,
}

/// PACKET_ADD_MEMBERSHIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketMembership {
    /// The interface, by name.
    pub interface: String,
    /// PACKET_MR_MULTICAST 0, PROMISC 1, ALLMULTI 2, UNICAST 3.
    pub kind: u16,
    /// The address that is meant; empty where none is.
    pub address: Hex,
    /// How often it was asked for, 1 or more.
    pub count: u32,
}
