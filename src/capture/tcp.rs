//! TCP sockets. Both ends of a connection may be in the tree, or one; what is on its way is made to arrive, and looked at.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use crate::model::fd::{Descriptor, Kind, OpenFile, Owner};
use crate::model::process::Process;
use crate::model::sockets::{Family, Message, Socket, SocketOption};
use crate::model::tcp::{Link, State, TcpSocket};
use crate::model::tree::Tree;
use crate::model::{Checkpoint, Hex, Pid};
use crate::net::inet::{self, Inet, state};
use crate::net::inflight;
use crate::net::options::{self, Made, SO_PEEK_OFF};
use crate::net::queue::Queue;
use crate::net::stream::{self, Stream};
use crate::proc::many;
use crate::sys::{socket, tasks};
use crate::tracer::Held;

use super::early;
use super::fd::{OWNER, SeenFd, Work, owner};
use super::sockets::{EBPF, FEW, Found, model, refuse};
use super::unix::LOST;
use super::{Error, Inside};

/// Why a connection with data that nobody can look at yet is refused: a server takes such a one within moments.
pub(super) const EARLY: &str = "bytes have been sent over it before it was accepted";

/// Why a connection is refused with more on its way than can be looked at: whoever reads from it makes that less.
pub(super) const TOO_MUCH: &str = "more bytes are on their way to it than its buffer may hold";

const LATER: &str = "save it when the server has taken the connection";
/// Why a socket with urgent data is refused where nobody can look beyond that.
const URGENT: &str = "urgent data (MSG_OOB) waits in it, and this kernel is older than Linux 6.9";

const TCP_ULP: i32 = 31;
const RECEIVING: u8 = 1;
const SENDING: u8 = 2;

/// Options particular to TCP, beside those of IPv4 and IPv6 (include/uapi/linux/tcp.h).
const OPTIONS: [i32; 23] = [
    1,  // TCP_NODELAY
    2,  // TCP_MAXSEG
    3,  // TCP_CORK
    4,  // TCP_KEEPIDLE
    5,  // TCP_KEEPINTVL
    6,  // TCP_KEEPCNT
    7,  // TCP_SYNCNT
    8,  // TCP_LINGER2
    9,  // TCP_DEFER_ACCEPT
    10, // TCP_WINDOW_CLAMP
    13, // TCP_CONGESTION
    16, // TCP_THIN_LINEAR_TIMEOUTS
    18, // TCP_USER_TIMEOUT
    23, // TCP_FASTOPEN
    25, // TCP_NOTSENT_LOWAT
    27, // TCP_SAVE_SYN
    30, // TCP_FASTOPEN_CONNECT
    34, // TCP_FASTOPEN_NO_COOKIE
    36, // TCP_INQ
    37, // TCP_TX_DELAY
    44, // TCP_RTO_MAX_MS
    45, // TCP_RTO_MIN_US
    46, // TCP_DELACK_MAX_US
];
/// Options that say something else of a connection than what was set: TCP_MAXSEG, TCP_DEFER_ACCEPT, TCP_WINDOW_CLAMP,
/// TCP_FASTOPEN, SO_INCOMING_CPU.
const OF_CONNECTIONS: [(i32, i32); 5] = [(6, 2), (6, 9), (6, 10), (6, 23), (libc::SOL_SOCKET, 49)];

/// Options that a connection takes over from its first packet, and nobody can set: IP_MULTICAST_TTL, IPV6_MULTICAST_IF,
/// IPV6_MULTICAST_HOPS (net/ipv4/tcp_ipv4.c, net/ipv6/tcp_ipv6.c, tcp_v6_syn_recv_sock).
const TAKEN_OVER: [(i32, i32); 3] = [(0, 33), (41, 17), (41, 18)];

/// Levels and names of the options that say something of a socket, beside those that all sockets have.
pub(super) fn options_of() -> Vec<(i32, i32)> {
    let internet = options::internet().filter(|option| !TAKEN_OVER.contains(option));
    OPTIONS.iter().map(|&name| (libc::IPPROTO_TCP, name)).chain(internet).collect()
}

/// Whether a socket is one of TCP.
pub(super) fn is(made: Made) -> bool {
    made.is_internet() && made.kind == libc::SOCK_STREAM && made.protocol == libc::IPPROTO_TCP
}

/// What one of this family was made as.
pub(super) fn made(family: i32) -> Made {
    Made { domain: family, kind: libc::SOCK_STREAM, protocol: libc::IPPROTO_TCP }
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
    let mut ends = HashMap::with_capacity(all.len());
    ends.extend(all.iter().filter(|t| t.state != state::LISTEN).map(|t| ((t.local, t.remote), *t)));
    ends
}

/// What a TCP socket says of itself.
#[derive(Debug)]
pub(super) struct Reading {
    made: Made,
    state: u8,
    local: Vec<u8>,
    peer: Option<Vec<u8>>,
    /// Whether nothing more will be received.
    deaf: bool,
    error: bool,
    waiting: Option<Stream>,
    options: Vec<SocketOption>,
    end: End,
    pub owner: Option<Owner>,
}

/// Sees to it that all that was sent to the TCP sockets among `all` can be read there, then looks at each; by inode.
/// Refused ones are missing. `file_of`: indices of descriptions by inode.
pub(super) fn read(
    work: &mut Work<'_>,
    all: &[(usize, &SeenFd)],
    found: &Found,
    inside: &Inside,
    file_of: &HashMap<u64, u32>,
) -> Result<HashMap<u64, Reading>, Error> {
    let mut ends = Vec::new();
    let early = if work.queues { early::find(work, found, file_of)? } else { HashMap::new() };
    for &(_, s) in all {
        let Some(&made) = found.made.get(&s.meta.ino()).filter(|made| is(**made)) else { continue };
        let listener = found.tcp_by_inode(s.meta.ino()).filter(|t| t.state == state::LISTEN);
        if listener.is_some_and(|listener| early::has_lost(found, listener)) {
            refuse(work, s, LOST, LATER);
            continue;
        }
        let mut end = other_end(s, found, file_of);
        if let End::Early(listener) = end {
            let reason = match early.get(&s.meta.ino()) {
                Some(Ok(())) => None,
                Some(Err(why)) => Some(early::reason(why)),
                None => Some(EARLY.to_owned()),
            };
            if let Some(reason) = reason {
                refuse(work, s, &reason, LATER);
                continue;
            }
            end = End::Waiting(listener);
        }
        ends.push((s, made, end));
    }
    // The two directions of a connection change different options of its ends.
    let came = many::each(&ends, FEW, |&(s, _, end)| settle(work, s, found, end))?;
    let mut settled = Vec::new();
    for ((s, made, end), came) in ends.into_iter().zip(came) {
        match came {
            Settled::Already => settled.push((s, made, end, true)),
            Settled::Now => settled.push((s, made, end, false)),
            Settled::TooMuch => refuse(
                work,
                s,
                TOO_MUCH,
                "raise the third number of net.ipv4.tcp_rmem, or save it when it has read more",
            ),
        }
    }
    // What each socket says is read only now: to settle one changes options of its peer for the moment.
    let readings = many::each(&settled, FEW, |&(s, made, end, as_told)| {
        look(work, s, inside, (made, end), found.tcp_by_inode(s.meta.ino()), as_told)
    })?;
    let mut out = HashMap::new();
    for ((s, ..), reading) in settled.iter().zip(readings) {
        match reading {
            Ok(reading) => {
                out.insert(s.meta.ino(), reading);
            }
            Err(Unable { reason, hint }) => refuse(work, s, reason, hint),
        }
    }
    Ok(out)
}

/// Why a socket can't be saved, and what to do.
struct Unable {
    reason: &'static str,
    hint: &'static str,
}

/// `own`: what sock_diag(7) has told of it; as many bytes wait still, if that is `as_told`.
fn look(
    work: &Work<'_>,
    s: &SeenFd,
    inside: &Inside,
    (made, end): (Made, End),
    own: Option<&Inet>,
    as_told: bool,
) -> Result<Result<Reading, Unable>, Error> {
    let failed = |step| Error::of(s.host, step);
    let copy = s.copy(work.held)?;
    let fd = copy.as_fd();
    if socket::option(fd, libc::IPPROTO_TCP, TCP_ULP, 16).is_ok_and(|name| name.iter().any(|&b| b != 0)) {
        return Ok(Err(Unable { reason: "encryption by the kernel (TCP_ULP) is not supported", hint: "" }));
    }
    let state = inflight::info(fd).map_err(failed("asking for a socket's state"))?.state;
    let events = socket::events(fd, libc::POLLPRI | libc::POLLRDHUP).map_err(failed("polling a socket"))?;
    let deaf = events & libc::POLLRDHUP != 0;
    let quiet = matches!(state, state::LISTEN | state::SYN_SENT) || state == state::CLOSE && !deaf;
    let connected = !quiet;
    if connected && matches!(end, End::Asked) {
        return Ok(Err(Unable { reason: EARLY, hint: LATER }));
    }
    let without = if connected { &OF_CONNECTIONS[..] } else { &[] };
    let options = work
        .fresh
        .compare(fd, made, without, |level, name| own?.option(level, name))
        .map_err(failed("asking for a socket's options"))?;
    let Some(options) = options else { return Ok(Err(Unable { reason: EBPF, hint: "" })) };
    let mut waiting = None;
    if connected {
        let peeks = options.iter().any(|o| (o.level, o.name) == (libc::SOL_SOCKET, SO_PEEK_OFF));
        // The end of the stream is counted there.
        let told = own.filter(|_| as_told).map(|own| u64::from(own.readable).saturating_sub(deaf.into()));
        let known = stream::Known { urgent: events & libc::POLLPRI != 0, waiting: told, peeks };
        waiting = match stream::look(fd, known, |len| work.contents.reserve.take(len)) {
            Ok(stream) if stream.bytes.is_empty() => None,
            Ok(stream) => Some(stream),
            Err(e) if e.kind() == std::io::ErrorKind::Unsupported => {
                return Ok(Err(Unable { reason: URGENT, hint: "save it when that has been read" }));
            }
            Err(e) => return Err(failed("looking into a socket")(e)),
        };
    }
    Ok(Ok(Reading {
        made,
        state,
        local: socket::name(fd).map_err(failed("asking for a socket's address"))?,
        peer: if connected { socket::peer_name(fd).ok() } else { None },
        deaf,
        error: events & libc::POLLERR != 0,
        waiting,
        options,
        end,
        owner: owner(&copy, inside).map_err(failed(OWNER))?,
    }))
}

/// A TCP socket of the tree.
pub(super) fn capture(
    work: &mut Work<'_>,
    s: &SeenFd,
    reading: Reading,
    found: &Found,
    inside: &Inside,
    file_of: &HashMap<u64, u32>,
) -> Option<Socket> {
    let Reading { made, state: now, local, peer, deaf, error, waiting, options, end, .. } = reading;
    let own = found.tcp_by_inode(s.meta.ino());
    let mut shutdown = 0;
    let state = match now {
        state::LISTEN => State::Listening { backlog: own.map_or(libc::SOMAXCONN as u32, |t| t.sent) },
        state::SYN_SENT => match own {
            Some(own) => State::Connecting { to: Hex(inet::sockaddr(made.domain, own.remote)) },
            None => State::Idle,
        },
        // One that was connected before is shut down on both sides.
        state::CLOSE if !deaf => State::Idle,
        state::CLOSE => State::Ended { error },
        _ => match peer {
            Some(peer) => {
                shutdown = shut(now, deaf);
                State::Connected { peer: Hex(peer), link: end.into_model(file_of) }
            }
            // It came to its end while we were waiting.
            None => State::Ended { error },
        },
    };
    let urgent = waiting.as_ref().and_then(|waiting| waiting.urgent);
    let family = Family::Tcp(TcpSocket { domain: made.domain, local: Hex(local), state, urgent, early: None });
    let mut socket = model(work, made, options, Queue::default(), family, shutdown, inside);
    if let Some(Stream { bytes, .. }) = waiting {
        let size = bytes.len() as u64;
        socket.queue.push(Message { size, credentials: None, from: None, rights: Vec::new() });
        socket.content = Some(work.contents.bytes(bytes));
    }
    Some(socket)
}

/// Who has the other end, by inode.
#[derive(Debug, Clone, Copy)]
enum End {
    /// It waited for an answer when sock_diag(7) was asked.
    Asked,
    To(u64),
    Waiting(u64),
    /// Something has been sent before it was accepted.
    Early(u64),
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
            End::Outside | End::Early(_) | End::Asked => Link::Outside,
        }
    }
}

fn other_end(s: &SeenFd, found: &Found, file_of: &HashMap<u64, u32>) -> End {
    let Some(own) = found.tcp_by_inode(s.meta.ino()) else { return End::Outside };
    if own.state == state::SYN_SENT {
        return End::Asked;
    }
    let Some(peer) = found.ends.get(&(own.remote, own.local)) else {
        // Nobody on this host has it, or its last traces are gone.
        return if own.remote.ip() == own.local.ip() { End::Closed } else { End::Outside };
    };
    match (peer.inode, peer.state) {
        (0, state::ESTABLISHED | state::CLOSE_WAIT | state::SYN_RECV) => {
            let listens = |t: &&Inet| early::waits_for(peer, t) && file_of.contains_key(&t.inode);
            match found.tcp.iter().find(listens) {
                Some(listener) if early::has_bytes(peer, own) => End::Early(listener.inode),
                Some(listener) => End::Waiting(listener.inode),
                None => End::Outside,
            }
        }
        (0, _) => End::Closed,
        (inode, _) if file_of.contains_key(&inode) => End::To(inode),
        _ => End::Outside,
    }
}

/// What came of seeing to it that all that was sent to a socket can be read there.
enum Settled {
    Already,
    Now,
    TooMuch,
}

fn settle(work: &Work<'_>, s: &SeenFd, found: &Found, end: End) -> Result<Settled, Error> {
    let failed = Error::of(s.host, "waiting for bytes on their way");
    // What sock_diag(7) has shown was so when everybody stood still.
    let under_way = match end {
        End::To(inode) => found.tcp_by_inode(inode).is_some_and(|peer| peer.sent > 0),
        End::Closed => true,
        End::Early(_) | End::Waiting(_) | End::Outside | End::Asked => false,
    };
    if !under_way {
        return Ok(Settled::Already);
    }
    let copy = s.copy(work.held)?;
    let settled = match end {
        End::To(inode) => {
            let Some(other) = found.holders.get(&inode).and_then(|&i| work.seen.get(i)) else {
                return Ok(Settled::Already);
            };
            inflight::settle(other.copy(work.held)?.as_fd(), copy.as_fd())
        }
        _ => inflight::settle_end(copy.as_fd()),
    };
    Ok(if settled.map_err(failed)? { Settled::Now } else { Settled::TooMuch })
}

/// What the program itself has shut down. That it receives nothing more is also so when the other end is gone, and then
/// nothing else can be told.
fn shut(now: u8, deaf: bool) -> u8 {
    let sent_end = matches!(now, state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSING | state::LAST_ACK);
    let got_end = matches!(now, state::CLOSE_WAIT | state::LAST_ACK | state::CLOSING | state::CLOSE);
    (u8::from(sent_end) * SENDING) | (u8::from(deaf && !got_end) * RECEIVING)
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
            let family = Family::Tcp(TcpSocket {
                domain: libc::AF_INET,
                local: Hex(Vec::new()),
                state,
                urgent: None,
                early: None,
            });
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
