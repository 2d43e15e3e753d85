//! Netlink sockets.

use std::os::fd::{AsFd, OwnedFd};

use crate::model::netlink::NetlinkSocket;
use crate::model::sockets::{Family, Socket};
use crate::net::options::Made;
use crate::net::queue::{self, Queue};
use crate::sys::socket;

use super::fd::{SeenFd, Work};
use super::sockets::{model, options, refuse};
use super::{Error, Inside};

/// Why a socket with messages in it is refused: nobody but the kernel could put them back.
pub(super) const UNREAD: &str = "messages of the kernel wait in it that the program has not read yet";

const SOL_NETLINK: i32 = 270;
const NETLINK_LIST_MEMBERSHIPS: i32 = 9;

/// Levels and names of options particular to netlink.
pub(super) const OPTIONS: [(i32, i32); 7] = [
    (SOL_NETLINK, 3),  // NETLINK_PKTINFO
    (SOL_NETLINK, 4),  // NETLINK_BROADCAST_ERROR
    (SOL_NETLINK, 5),  // NETLINK_NO_ENOBUFS
    (SOL_NETLINK, 8),  // NETLINK_LISTEN_ALL_NSID
    (SOL_NETLINK, 10), // NETLINK_CAP_ACK
    (SOL_NETLINK, 11), // NETLINK_EXT_ACK
    (SOL_NETLINK, 12), // NETLINK_GET_STRICT_CHK
];

/// Whether a socket is one of netlink.
pub(super) fn is(made: Made) -> bool {
    made.domain == libc::AF_NETLINK
}

/// One of the tree; `None` if it was refused.
pub(super) fn capture(
    work: &mut Work<'_>,
    s: &SeenFd,
    copy: &OwnedFd,
    made: Made,
    inside: &Inside,
) -> Result<Option<Socket>, Error> {
    let failed = |step| Error::of(s.host, step);
    let fd = copy.as_fd();
    // Memory is taken also by what a message queue is to send to it one day (mq_notify).
    let unread = socket::events(fd, libc::POLLIN).map_err(failed("polling a socket"))? & libc::POLLIN != 0;
    if unread || queue::has_error(fd).map_err(failed("polling a socket"))? {
        refuse(work, s, UNREAD, "save it when it has read them");
        return Ok(None);
    }
    // `struct sockaddr_nl`: family, padding, port, groups.
    let word =
        |name: &[u8], at: usize| name.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_ne_bytes(*b));
    let name = socket::name(fd).map_err(failed("asking for a socket's address"))?;
    let peer = socket::peer_name(fd).map_err(failed("asking for a socket's peer"))?;
    let members = socket::option(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, 1024)
        .map_err(failed("asking for a socket's groups"))?;
    let bit = |group: &u32| members.get(*group as usize / 8).is_some_and(|byte| byte >> (group % 8) & 1 != 0);
    let family = NetlinkSocket {
        protocol: made.protocol,
        port: word(&name, 4),
        peer: word(&peer, 4),
        peer_groups: word(&peer, 8),
        groups: (0..members.len() as u32 * 8).filter(bit).map(|bit| bit + 1).collect(),
    };
    let Some(options) = options(work, s, copy, made)? else { return Ok(None) };
    Ok(Some(model(work, made, options, Queue::default(), Family::Netlink(family), 0, inside)))
}
