//! Netlink sockets, by which a program talks with the kernel.

use serde::{Deserialize, Serialize};

/// What is particular to a netlink socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetlinkSocket {
    /// NETLINK_ROUTE 0, NETLINK_SOCK_DIAG 4, NETLINK_KOBJECT_UEVENT 15, …
    pub protocol: i32,
    /// Its own address (`nl_pid`); 0 if it has none.
    pub port: u32,
    /// The address it is connected to; 0: the kernel's.
    pub peer: u32,
    /// The multicast group it is connected to, as a mask; 0: none.
    pub peer_groups: u32,
    /// Numbers of the multicast groups it is a member of.
    pub groups: Vec<u32>,
}
