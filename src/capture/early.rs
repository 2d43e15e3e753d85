//! Bytes that were sent over TCP connections nobody has accepted yet. There is no way to look at them but to accept
//! those connections and have their clients connect again ([`backlog`]), so this is done only where waiting for the
//! server was in vain, and where everybody who waits in a queue is in the tree.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use crate::model::fd::{Kind, OpenFile};
use crate::model::sockets::{Family, Socket};
use crate::model::tcp::{Early, MOST_EARLY};
use crate::net::inet::{self, Inet, state};
use crate::sys::backlog::{self, IP_LOCAL_PORT_RANGE};
use crate::sys::socket;

use super::contents::Contents;
use super::fd::{SeenFd, Work};
use super::sockets::Found;
use super::{Error, tcp};

const TCP_CORK: i32 = 3;
const TCP_DEFER_ACCEPT: i32 = 9;
const TCP_FASTOPEN_CONNECT: i32 = 30;
/// Connections of one queue.
const MOST_CONNECTIONS: usize = 1024;

/// A queue that is to be looked into.
#[derive(Debug)]
pub(super) struct Seen {
    listener: OwnedFd,
    /// Whose connections wait in it: descriptions, and whether they have shut down sending.
    clients: Vec<(u32, OwnedFd, bool)>,
    /// Bytes that all of them have sent.
    bytes: usize,
}

/// Whether a connection that nobody has accepted is in the queue of a listening socket, as far as addresses tell.
pub(super) fn waits_for(waiting: &Inet, listener: &Inet) -> bool {
    let (own, its) = (waiting.local, listener.local);
    listener.state == state::LISTEN && its.port() == own.port() && (its.ip() == own.ip() || its.ip().is_unspecified())
}

/// Whether some that wait to be accepted by a listening socket have lost their other end. One that was reset is not shown
/// any more, but counted; who is at another address may be alive on another host.
pub(super) fn has_lost(found: &Found, listener: &Inet) -> bool {
    if listener.readable == 0 {
        return false;
    }
    let complete =
        |t: &&Inet| t.inode == 0 && matches!(t.state, state::ESTABLISHED | state::CLOSE_WAIT) && waits_for(t, listener);
    let gone = |t: &Inet| {
        let here = t.local.ip().is_loopback() || t.local.ip() == t.remote.ip();
        here && found.ends.get(&(t.remote, t.local)).is_none_or(|client| client.inode == 0)
    };
    let waiting: Vec<&Inet> = found.tcp.iter().filter(complete).collect();
    listener.readable as usize > waiting.len() || waiting.into_iter().any(gone)
}

/// Whether anything has been sent over a connection that waits, as its two ends are.
pub(super) fn has_bytes(waiting: &Inet, client: &Inet) -> bool {
    waiting.readable > u32::from(waiting.state == state::CLOSE_WAIT) || client.sent > 0
}

/// What is to be said of clients that have sent something too early, by inode: nothing, or why their bytes can't be
/// had. The queues that are to be looked into are noted.
pub(super) fn find(
    work: &mut Work<'_>,
    found: &Found,
    file_of: &HashMap<u64, u32>,
) -> Result<HashMap<u64, Result<(), &'static str>>, Error> {
    let mut out = HashMap::new();
    let listeners = found.tcp.iter().filter(|t| t.state == state::LISTEN && file_of.contains_key(&t.inode));
    for listener in listeners {
        let of_queue = |t: &&Inet| {
            t.inode == 0
                && matches!(t.state, state::ESTABLISHED | state::CLOSE_WAIT | state::SYN_RECV)
                && waits_for(t, listener)
        };
        let pairs: Vec<(&Inet, Option<&Inet>)> =
            found.tcp.iter().filter(of_queue).map(|t| (t, found.ends.get(&(t.remote, t.local)))).collect();
        let early = |(waiting, client): &(&Inet, Option<&Inet>)| client.is_some_and(|c| has_bytes(waiting, c));
        if !pairs.iter().any(early) {
            continue;
        }
        let queue = queue(work, found, file_of, listener, &pairs)?;
        let clients = pairs.iter().filter(|pair| early(pair)).filter_map(|(_, client)| Some(client.as_ref()?.inode));
        out.extend(clients.map(|inode| (inode, queue.as_ref().map(drop).map_err(|why| *why))));
        work.contents.queues.extend(queue.ok());
    }
    Ok(out)
}

/// A queue with its clients, or why it can't be looked into.
fn queue(
    work: &Work<'_>,
    found: &Found,
    file_of: &HashMap<u64, u32>,
    listener: &Inet,
    pairs: &[(&Inet, Option<&Inet>)],
) -> Result<Result<Seen, &'static str>, Error> {
    let holder = |inode: u64| found.holders.get(&inode).and_then(|&index| work.seen.get(index));
    let Some(server) = holder(listener.inode) else { return Ok(Err("nobody has the listening socket")) };
    let others = found.tcp.iter().filter(|t| pairs.iter().any(|(waiting, _)| waits_for(waiting, t))).count();
    let complete = pairs.iter().filter(|(waiting, _)| waiting.state != state::SYN_RECV).count();
    if complete != pairs.len() || complete != listener.readable as usize {
        return Ok(Err("there are connections in the same queue that are not complete, or over"));
    }
    if others > 1 {
        return Ok(Err("more than one socket listens there"));
    }
    if pairs.len() > MOST_CONNECTIONS {
        return Ok(Err("too many connections wait in the same queue"));
    }
    let listening = server.copy(work.held)?;
    let option = |fd: &OwnedFd, name| socket::number(fd.as_fd(), libc::IPPROTO_TCP, name).unwrap_or(0) != 0;
    let ports = inet::ephemeral();
    let deferred = option(&listening, TCP_DEFER_ACCEPT);
    let mut seen = Seen { listener: listening, clients: Vec::new(), bytes: 0 };
    for (waiting, client) in pairs {
        let client = client.filter(|c| matches!(c.state, state::ESTABLISHED | state::FIN_WAIT1 | state::FIN_WAIT2));
        let there = client.and_then(|c| Some((c, *file_of.get(&c.inode)?, holder(c.inode)?)));
        let Some((client, file, s)) = there else { return Ok(Err("not all who wait with it are in the tree")) };
        let copy = s.copy(work.held)?;
        if [server, s].iter().any(|s: &&SeenFd| s.info.flags & libc::O_ASYNC as u32 != 0) {
            return Ok(Err("signals are sent for it, or for one that waits with it (O_ASYNC)"));
        }
        if option(&copy, TCP_CORK) || option(&copy, TCP_FASTOPEN_CONNECT) {
            return Ok(Err("TCP_CORK or TCP_FASTOPEN_CONNECT is set, or of one that waits with it"));
        }
        if !ports.contains(&client.local.port()) {
            return Ok(Err("a port of its own choice is not among those of net.ipv4.ip_local_port_range"));
        }
        let bytes = u64::from(waiting.readable) + u64::from(client.sent);
        if bytes > MOST_EARLY {
            return Ok(Err("they are more than 64 KiB"));
        }
        if deferred && !has_bytes(waiting, client) {
            return Ok(Err("one without bytes waits with it, and TCP_DEFER_ACCEPT is set"));
        }
        if socket::number(copy.as_fd(), libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE).is_err() {
            return Ok(Err("this kernel is older than Linux 6.3"));
        }
        seen.bytes += bytes as usize;
        seen.clients.push((file, copy, client.state != state::ESTABLISHED));
    }
    Ok(Ok(seen))
}

/// Looks into the queues. Nothing else may be done with their sockets meanwhile.
pub(super) fn take(contents: &mut Contents, files: &mut [OpenFile]) -> Result<(), Error> {
    for Seen { listener, clients, bytes } in std::mem::take(&mut contents.queues) {
        let waiting: Vec<backlog::Waiting<'_>> =
            clients.iter().map(|(_, fd, shut)| backlog::Waiting { fd: fd.as_fd(), shut: *shut }).collect();
        // Room for one byte more than there are.
        let taken = backlog::look(listener.as_fd(), &waiting, bytes + 1)
            .map_err(Error::io("looking at", "what was sent over TCP connections that wait to be accepted"))?;
        for ((file, ..), taken) in clients.iter().zip(taken) {
            let content = (!taken.bytes.is_empty()).then(|| contents.bytes(taken.bytes));
            if let Some(Kind::Socket(Socket { family: Family::Tcp(tcp), .. })) =
                files.get_mut(*file as usize).map(|f| &mut f.kind)
            {
                tcp.early = Some(Early { place: taken.place, content, urgent: taken.urgent.map(u64::from) });
            }
        }
    }
    Ok(())
}

/// Why a connection is refused whose bytes can't be had.
pub(super) fn reason(why: &str) -> String {
    format!("{}, and can't be looked at: {why}", tcp::EARLY)
}
