//! TCP sockets. Both ends of a connection may be in the tree, or one; what is on its way is made to arrive, and looked at.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use crate::model::fd::{Descriptor, Kind, OpenFile};
use crate::model::process::Process;
use crate::model::sockets::{Family, Socket};
use crate::model::tcp::{Link, State, TcpSocket};
use crate::model::tree::Tree;
use crate::model::{Checkpoint, Hex, Pid};
use crate::net::inet::{self, Inet, state};
use crate::net::inflight;
use crate::net::queue::{self, Message, Queue};
use crate::sys::{fds, socket, tasks};
use crate::tracer::Held;

use super::fd::{SeenFd, Work};
use super::sockets::{Found, model, refuse};
use super::{Error, Inside};

/// Why a connection with data that nobody can look at yet is refused: a server takes such a one within moments.
pub(super) const EARLY: &str = "bytes have been sent over it before it was accepted";

const TCP_ULP: i32 = 31;
const RECEIVING: u8 = 1;
const SENDING: u8 = 2;

/// Levels and names of options particular to TCP, beside those that are for sockets that listen: of TCP, IPv4, IPv6.
const OPTIONS: [(i32, i32); 33] = [
    (6, 1),   // TCP_NODELAY
    (6, 3),   // TCP_CORK
    (6, 4),   // TCP_KEEPIDLE
    (6, 5),   // TCP_KEEPINTVL
    (6, 6),   // TCP_KEEPCNT
    (6, 7),   // TCP_SYNCNT
    (6, 8),   // TCP_LINGER2
    (6, 13),  // TCP_CONGESTION
    (6, 16),  // TCP_THIN_LINEAR_TIMEOUTS
    (6, 18),  // TCP_USER_TIMEOUT
    (6, 25),  // TCP_NOTSENT_LOWAT
    (6, 27),  // TCP_SAVE_SYN
    (6, 30),  // TCP_FASTOPEN_CONNECT
    (6, 36),  // TCP_INQ
    (0, 1),   // IP_TOS
    (0, 2),   // IP_TTL
    (0, 8),   // IP_PKTINFO
    (0, 10),  // IP_MTU_DISCOVER
    (0, 11),  // IP_RECVERR
    (0, 12),  // IP_RECVTTL
    (0, 13),  // IP_RECVTOS
    (0, 15),  // IP_FREEBIND
    (0, 19),  // IP_TRANSPARENT
    (0, 21),  // IP_MINTTL
    (0, 24),  // IP_BIND_ADDRESS_NO_PORT
    (41, 16), // IPV6_UNICAST_HOPS
    (41, 23), // IPV6_MTU_DISCOVER
    (41, 25), // IPV6_RECVERR
    (41, 26), // IPV6_V6ONLY
    (41, 49), // IPV6_RECVPKTINFO
    (41, 66), // IPV6_RECVTCLASS
    (41, 67), // IPV6_TCLASS
    (41, 73), // IPV6_MINHOPCOUNT
];
/// TCP_MAXSEG, TCP_DEFER_ACCEPT, TCP_FASTOPEN: of a connection they say something else than what was set.
const UNCONNECTED: [(i32, i32); 3] = [(6, 2), (6, 9), (6, 23)];

/// The options that say something of a socket in this state, beside those that all sockets have.
pub(super) fn options(state: &State) -> Vec<(i32, i32)> {
    let connected = matches!(state, State::Connected { .. } | State::Ended { .. });
    OPTIONS.iter().chain(UNCONNECTED.iter().filter(|_| !connected)).copied().collect()
}

/// Whether a socket is one of TCP.
pub(super) fn is(copy: BorrowedFd<'_>) -> bool {
    let number = |name| socket::number(copy, libc::SOL_SOCKET, name).ok();
    matches!(number(libc::SO_DOMAIN), Some(libc::AF_INET | libc::AF_INET6))
        && number(libc::SO_TYPE) == Some(libc::SOCK_STREAM)
        && number(libc::SO_PROTOCOL) == Some(libc::IPPROTO_TCP)
}

/// Whether a standard stream of the root leads to the tree.
pub(super) fn leads_to_tree(inode: u64, all: &[Inet], tree: impl Fn(u64) -> bool) -> bool {
    let Some(own) = all.iter().find(|t| t.inode == inode) else { return false };
    peer_of(own, all).is_some_and(|peer| tree(peer.inode))
}

fn peer_of<'a>(own: &Inet, all: &'a [Inet]) -> Option<&'a Inet> {
    all.iter().find(|t| (t.local, t.remote) == (own.remote, own.local) && t.state != state::LISTEN)
}

/// The connections of a host by their two addresses.
pub(super) fn by_ends(all: &[Inet]) -> HashMap<(std::net::SocketAddr, std::net::SocketAddr), Inet> {
    all.iter().filter(|t| t.state != state::LISTEN).map(|t| ((t.local, t.remote), *t)).collect()
}

/// A TCP socket of the tree; `None` if it was refused. `file_of`: indices of descriptions by inode.
pub(super) fn capture(
    work: &mut Work<'_>,
    s: &SeenFd,
    copy: &OwnedFd,
    found: &Found,
    inside: &Inside,
    file_of: &HashMap<u64, u32>,
) -> Result<Option<Socket>, Error> {
    let failed = |step| Error::of(s.host, step);
    let fd = copy.as_fd();
    if socket::option(fd, libc::IPPROTO_TCP, TCP_ULP, 16).is_ok_and(|name| name.iter().any(|&b| b != 0)) {
        refuse(work, s, "encryption by the kernel (TCP_ULP) is not supported", "");
        return Ok(None);
    }
    let domain =
        socket::number(fd, libc::SOL_SOCKET, libc::SO_DOMAIN).map_err(failed("asking for a socket's family"))?;
    let local = socket::name(fd).map_err(failed("asking for a socket's address"))?;
    let mut now = inflight::info(fd).map_err(failed("asking for a socket's state"))?;
    let mut queue = Queue::default();
    let mut shutdown = 0;
    let state = match now.state {
        state::LISTEN => {
            let own = found.tcp_by_inode(s.meta.ino());
            State::Listening { backlog: own.map_or(libc::SOMAXCONN as u32, |t| t.sent) }
        }
        state::SYN_SENT => match found.tcp_by_inode(s.meta.ino()) {
            Some(own) => State::Connecting { to: Hex(inet::sockaddr(domain, own.remote)) },
            None => State::Idle,
        },
        // One that was connected before is shut down on both sides.
        state::CLOSE if !is_deaf(fd).map_err(failed("polling a socket"))? => State::Idle,
        state::CLOSE => {
            if !look(work, s, fd, &mut queue)? {
                return Ok(None);
            }
            State::Ended { error: queue.error }
        }
        _ => {
            let end = other_end(s, found, file_of);
            if !settle(work, s, fd, found, end)? || !look(work, s, fd, &mut queue)? {
                return Ok(None);
            }
            now = inflight::info(fd).map_err(failed("asking for a socket's state"))?;
            shutdown = shut(fd, now.state).map_err(failed("polling a socket"))?;
            match socket::peer_name(fd) {
                Ok(peer) => State::Connected { peer: Hex(peer), link: end.into_model(file_of) },
                // It came to its end while we were waiting.
                Err(_) => State::Ended { error: queue.error },
            }
        }
    };
    let family = Family::Tcp(TcpSocket { domain, local: Hex(local), state });
    model(work, s, copy, queue, family, shutdown, inside)
}

/// Who has the other end, by inode.
#[derive(Debug, Clone, Copy)]
enum End {
    To(u64),
    Waiting(u64),
    Early,
    Closed,
    Outside,
}

impl End {
    fn into_model(self, file_of: &HashMap<u64, u32>) -> Link {
        let index = |inode: u64| file_of.get(&inode).copied();
        match self {
            End::To(inode) => index(inode).map_or(Link::Outside, Link::To),
            End::Waiting(inode) => index(inode).map_or(Link::Outside, Link::Waiting),
            End::Closed => Link::Closed,
            End::Outside | End::Early => Link::Outside,
        }
    }
}

fn other_end(s: &SeenFd, found: &Found, file_of: &HashMap<u64, u32>) -> End {
    let Some(own) = found.tcp_by_inode(s.meta.ino()) else { return End::Outside };
    let Some(peer) = found.ends.get(&(own.remote, own.local)) else {
        // Nobody on this host has it, or its last traces are gone.
        return if own.remote.ip() == own.local.ip() { End::Closed } else { End::Outside };
    };
    match (peer.inode, peer.state) {
        (0, state::ESTABLISHED | state::CLOSE_WAIT | state::SYN_RECV) => {
            let listens = |t: &&Inet| {
                t.state == state::LISTEN
                    && t.local.port() == peer.local.port()
                    && (t.local.ip() == peer.local.ip() || t.local.ip().is_unspecified())
                    && file_of.contains_key(&t.inode)
            };
            match found.tcp.iter().find(listens) {
                Some(_) if peer.readable > u32::from(peer.state == state::CLOSE_WAIT) || own.sent > 0 => End::Early,
                Some(listener) => End::Waiting(listener.inode),
                None => End::Outside,
            }
        }
        (0, _) => End::Closed,
        (inode, _) if file_of.contains_key(&inode) => End::To(inode),
        _ => End::Outside,
    }
}

/// Sees to it that all that was sent to a socket can be read there; `false` if it was refused.
fn settle(work: &mut Work<'_>, s: &SeenFd, fd: BorrowedFd<'_>, found: &Found, end: End) -> Result<bool, Error> {
    let failed = |step| Error::of(s.host, step);
    let settled = match end {
        End::To(inode) => {
            let Some(other) = found.holders.get(&inode).and_then(|&i| work.seen.get(i)) else { return Ok(true) };
            let from = other.copy(work.held)?;
            inflight::settle(from.as_fd(), fd)
        }
        End::Closed => inflight::settle_end(fd),
        End::Early => {
            refuse(work, s, EARLY, "save it when the server has taken the connection");
            return Ok(false);
        }
        End::Waiting(_) | End::Outside => Ok(true),
    };
    if !settled.map_err(failed("waiting for bytes on their way"))? {
        refuse(
            work,
            s,
            "more bytes are on their way to it than its buffer may hold",
            "raise the third number of net.ipv4.tcp_rmem, or save it when it has read more",
        );
        return Ok(false);
    }
    Ok(true)
}

/// Looks at what can be read; `false` if it was refused.
fn look(work: &mut Work<'_>, s: &SeenFd, fd: BorrowedFd<'_>, queue: &mut Queue) -> Result<bool, Error> {
    let failed = |step| Error::of(s.host, step);
    if queue::has_urgent(fd).map_err(failed("looking for urgent data"))? {
        refuse(work, s, "urgent data (MSG_OOB) waits in it", "save it when that has been read");
        return Ok(false);
    }
    queue.error = queue::has_error(fd).map_err(failed("polling a socket"))?;
    let total = fds::readable(fd).map_err(failed("looking into a socket"))?;
    if total == 0 {
        return Ok(true);
    }
    let mut bytes = vec![0; total];
    let got = socket::receive(fd, &mut bytes, libc::MSG_PEEK).map_err(failed("looking into a socket"))?;
    if got.len != total {
        return Err(failed("looking into a socket")(std::io::ErrorKind::UnexpectedEof.into()));
    }
    queue.messages.push(Message { bytes, ..Message::default() });
    Ok(true)
}

/// Whether nothing more will be received.
fn is_deaf(fd: BorrowedFd<'_>) -> std::io::Result<bool> {
    socket::events(fd, libc::POLLRDHUP).map(|e| e & libc::POLLRDHUP != 0)
}

/// What the program itself has shut down. That it receives nothing more is also so when the other end is gone, and then
/// nothing else can be told.
fn shut(fd: BorrowedFd<'_>, now: u8) -> std::io::Result<u8> {
    let sent_end = matches!(now, state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSING | state::LAST_ACK);
    let got_end = matches!(now, state::CLOSE_WAIT | state::LAST_ACK | state::CLOSING | state::CLOSE);
    let deaf = !got_end && is_deaf(fd)?;
    Ok(if sent_end { SENDING } else { 0 } | if deaf { RECEIVING } else { 0 })
}

/// For a tree that is about to be killed: connections of its own are to be reset rather than closed, so that their
/// addresses can be taken again at once (no TIME_WAIT). What can't be told so is closed as usual.
pub(super) fn reset_at_close(held: &Held, checkpoint: &Checkpoint) {
    // struct linger: on, no time.
    const LINGER: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];
    let of_the_tree = |file: u32| {
        let kind = checkpoint.files.get(file as usize).map(|f| &f.kind);
        matches!(kind, Some(Kind::Socket(Socket { family: Family::Tcp(TcpSocket { state: State::Connected { link, .. }, .. }), .. }))
            if *link != Link::Outside)
    };
    for process in &checkpoint.processes {
        let Some(host) = held.processes.iter().find(|p| p.pid == process.pid) else { continue };
        for fd in process.fds.iter().filter(|d| of_the_tree(d.file)) {
            if let Ok(copy) = tasks::pidfd_getfd(host.pidfd.as_fd(), fd.fd) {
                let _ = socket::set_option(copy.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &LINGER);
            }
        }
    }
}
/// Threads held in connect(2) whose connection has come about meanwhile: their call is over. Made again, it would find the
/// socket of a resume connected, and fail (EISCONN).
pub(super) fn end_connects(processes: &mut [Process], tree: &Tree, files: &[OpenFile]) {
    let connected = |d: &&Descriptor| {
        files.get(d.file as usize).is_some_and(|file| match &file.kind {
            Kind::Socket(Socket { family: Family::Tcp(tcp), .. }) => matches!(tcp.state, State::Connected { .. }),
            _ => false,
        })
    };
    let sockets_of = |fds: &[Descriptor]| fds.iter().filter(connected).map(|d| d.fd as u64).collect::<HashSet<u64>>();
    let sockets: HashMap<Pid, HashSet<u64>> = processes.iter().map(|p| (p.pid, sockets_of(&p.fds))).collect();
    for process in processes {
        let shares = tree.members.iter().find(|m| m.pid == process.pid).and_then(|m| m.shares.descriptors);
        let Some(of_process) = sockets.get(&shares.unwrap_or(process.pid)) else { continue };
        for thread in &mut process.threads {
            let of_thread = thread.table.as_ref().map(|table| sockets_of(&table.fds));
            let (own, regs) = (of_thread.as_ref().unwrap_or(of_process), &mut thread.regs);
            let interrupted = regs.orig_rax == libc::SYS_connect as u64 && (regs.rax as i64) < 0;
            if interrupted && own.contains(&(regs.rdi & u64::from(u32::MAX))) {
                (regs.rax, regs.orig_rax) = (0, u64::MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_that_has_come_about_is_over() {
        let mut sample = crate::image::sample();
        let peer = Hex(Vec::new());
        let tcp = |state| {
            let family = Family::Tcp(TcpSocket { domain: libc::AF_INET, local: Hex(Vec::new()), state });
            let socket = Socket { kind: 1, family, shutdown: 0, queue: vec![], content: None, options: vec![] };
            OpenFile { flags: 2, owner: None, kind: Kind::Socket(socket) }
        };
        let files =
            [tcp(State::Connected { peer: peer.clone(), link: Link::Closed }), tcp(State::Connecting { to: peer })];
        let process = &mut sample.processes[0];
        process.fds =
            vec![Descriptor { fd: 5, cloexec: false, file: 0 }, Descriptor { fd: 6, cloexec: false, file: 1 }];
        let mut after = |call: i64, rdi: u64| {
            let regs = &mut sample.processes[0].threads[0].regs;
            (regs.orig_rax, regs.rax, regs.rdi) = (call as u64, -512i64 as u64, rdi);
            end_connects(&mut sample.processes, &sample.tree, &files);
            let regs = &sample.processes[0].threads[0].regs;
            (regs.orig_rax as i64, regs.rax as i64)
        };
        assert_eq!(after(libc::SYS_connect, 5), (-1, 0));
        // Still under way, or another call: the kernel makes it again.
        assert_eq!(after(libc::SYS_connect, 6), (libc::SYS_connect, -512));
        assert_eq!(after(libc::SYS_read, 5), (libc::SYS_read, -512));
    }
}
