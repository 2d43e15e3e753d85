//! Netlink sockets.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::model::netlink::NetlinkSocket;
use crate::model::sockets::{Family, Socket};
use crate::model::{Checkpoint, Refusal};
use crate::net::options;
use crate::sys::socket;

use super::{Error, sockets};

const SOL_NETLINK: i32 = 270;
const NETLINK_ADD_MEMBERSHIP: i32 = 1;

fn all(checkpoint: &Checkpoint) -> impl Iterator<Item = (u32, &Socket, &NetlinkSocket)> {
    sockets::all(checkpoint).filter_map(|(index, socket)| match &socket.family {
        Family::Netlink(netlink) => Some((index, socket, netlink)),
        _ => None,
    })
}

/// `struct sockaddr_nl`.
fn address(port: u32, groups: u32) -> Vec<u8> {
    [(libc::AF_NETLINK as u32).to_ne_bytes(), port.to_ne_bytes(), groups.to_ne_bytes()].concat()
}

fn open(socket: &Socket, netlink: &NetlinkSocket) -> io::Result<OwnedFd> {
    let fd = socket::socket(libc::AF_NETLINK, socket.kind, netlink.protocol)?;
    options::set_early(fd.as_fd(), &socket.options)?;
    if netlink.port != 0 {
        socket::bind(fd.as_fd(), &address(netlink.port, 0))?;
    }
    for group in &netlink.groups {
        socket::set_option(fd.as_fd(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group.to_ne_bytes())?;
    }
    if (netlink.peer, netlink.peer_groups) != (0, 0) {
        socket::connect(fd.as_fd(), &address(netlink.peer, netlink.peer_groups))?;
    }
    options::set_late(fd.as_fd(), &socket.options)?;
    Ok(fd)
}

/// Makes all of them, by their index among the image's descriptions.
pub fn make(checkpoint: &Checkpoint) -> Result<HashMap<u32, OwnedFd>, Error> {
    let make = |(index, socket, netlink): (u32, &Socket, &NetlinkSocket)| {
        let fd = open(socket, netlink).and_then(|fd| sockets::with_flags(checkpoint, index, fd));
        Ok((index, fd.map_err(|e| Error::step("making a netlink socket", 0, e))?))
    };
    all(checkpoint).map(make).collect()
}

/// What this host will not give: each socket is tried.
pub fn conflicts(checkpoint: &Checkpoint, conflicts: &mut Vec<Refusal>) {
    for (index, socket, netlink) in all(checkpoint) {
        let Err(error) = open(socket, netlink) else { continue };
        let (reason, hint) = match error.kind() {
            io::ErrorKind::AddrInUse => {
                let port = netlink.port;
                (format!("the netlink address {port} is taken"), "end the program that uses it (/proc/net/netlink)")
            }
            io::ErrorKind::PermissionDenied => {
                (format!("protocol {} or one of its groups needs privilege", netlink.protocol), "resume as root")
            }
            _ => (format!("it can't be made: {error}"), "resume it under the kernel it was saved under, or as root"),
        };
        let (pid, object) = sockets::object(checkpoint, index, "netlink socket");
        conflicts.push(Refusal { pid, object, reason, hint: hint.to_owned() });
    }
}
