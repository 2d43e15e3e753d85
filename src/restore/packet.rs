//! Packet sockets.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::net::if_::if_nametoindex;

use crate::model::packet::PacketSocket;
use crate::model::sockets::{Family, Socket};
use crate::model::{Checkpoint, Refusal};
use crate::net::options;
use crate::sys::socket;

use super::{Error, sockets};

const SOL_PACKET: i32 = 263;
const PACKET_ADD_MEMBERSHIP: i32 = 1;
const PACKET_FANOUT: i32 = 18;

fn all(checkpoint: &Checkpoint) -> impl Iterator<Item = (u32, &Socket, &PacketSocket)> {
    sockets::all(checkpoint).filter_map(|(index, socket)| match &socket.family {
        Family::Packet(packet) => Some((index, socket, packet)),
        _ => None,
    })
}

fn index_of(name: &str) -> io::Result<i32> {
    let index = if_nametoindex(name)
        .map_err(|e| io::Error::new(io::ErrorKind::AddrNotAvailable, format!("there is no interface {name}: {e}")))?;
    i32::try_from(index).map_err(io::Error::other)
}

fn open(socket: &Socket, packet: &PacketSocket) -> io::Result<OwnedFd> {
    // Nothing comes in before it is bound.
    let fd = socket::socket(libc::AF_PACKET, socket.kind, 0)?;
    options::set_early(fd.as_fd(), &socket.options)?;
    options::set_late(fd.as_fd(), &socket.options)?;
    for wanted in &packet.memberships {
        // `struct packet_mreq`: interface, type, length of the address, room for eight bytes of it and more.
        let mut request = index_of(&wanted.interface)?.to_ne_bytes().to_vec();
        request.extend(wanted.kind.to_ne_bytes());
        request.extend((wanted.address.0.len() as u16).to_ne_bytes());
        request.extend(&wanted.address.0);
        request.resize(request.len().max(16), 0);
        for _ in 0..wanted.count {
            socket::set_option(fd.as_fd(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request)?;
        }
    }
    let index = packet.interface.as_deref().map_or(Ok(0), index_of)?;
    if packet.protocol != 0 || index != 0 {
        // `struct sockaddr_ll`.
        let mut address = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
        address.extend(packet.protocol.to_be_bytes());
        address.extend(index.to_ne_bytes());
        address.resize(20, 0);
        socket::bind(fd.as_fd(), &address)?;
    }
    if let Some(fanout) = packet.fanout {
        socket::set_option(fd.as_fd(), SOL_PACKET, PACKET_FANOUT, &fanout.to_ne_bytes())?;
    }
    Ok(fd)
}

/// Makes all of them, by their index among the image's descriptions.
pub fn make(checkpoint: &Checkpoint) -> Result<HashMap<u32, OwnedFd>, Error> {
    let make = |(index, socket, packet): (u32, &Socket, &PacketSocket)| {
        let fd = open(socket, packet).and_then(|fd| sockets::with_flags(checkpoint, index, fd));
        Ok((index, fd.map_err(|e| Error::step("making a packet socket", 0, e))?))
    };
    all(checkpoint).map(make).collect()
}

/// What this host will not give: each socket is tried.
pub fn conflicts(checkpoint: &Checkpoint, conflicts: &mut Vec<Refusal>) {
    for (index, socket, packet) in all(checkpoint) {
        let Err(error) = open(socket, packet) else { continue };
        let (reason, hint) = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                ("it needs privilege".to_owned(), "resume as root, or with --net private")
            }
            io::ErrorKind::AddrNotAvailable => (error.to_string(), "give the host an interface of that name"),
            _ => (format!("it can't be made: {error}"), "see packet(7)"),
        };
        let (pid, object) = sockets::object(checkpoint, index, "packet socket");
        conflicts.push(Refusal { pid, object, reason, hint: hint.to_owned() });
    }
}

/// What is not brought back.
pub fn notes(checkpoint: &Checkpoint) -> impl Iterator<Item = String> {
    all(checkpoint).filter(|(_, _, packet)| packet.lost).map(|(index, _, _)| {
        let (pid, object) = sockets::object(checkpoint, index, "packet socket");
        format!("pid {pid} {object}: the packets that waited in it are gone")
    })
}
