//! Sockets: which belong to the tree, and what is in them. Nothing is taken out: everything is peeked at.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use crate::model::Pid;
use crate::model::fd::{Kind, OpenFile};
use crate::model::sockets::{Credentials, Family, Message, Socket};
use crate::net::inet::{self, Inet};
use crate::net::multicast::{self, Groups};
use crate::net::queue::Queue;
use crate::net::{diag, inflight, options};
use crate::sys::socket;
use crate::tracer::{Held, Remote};

use super::fd::{Group, SeenFd, TableOf, Work};
use super::flight::{self, Waiting};
use super::{Error, Inside, datagram, netlink, tcp, unix};

/// What was found out about the tree's sockets, by inode.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// All UNIX sockets there are.
    pub unix: HashMap<u64, diag::Unix>,
    /// All TCP sockets there are.
    pub tcp: Vec<Inet>,
    /// Their connections by both addresses.
    pub ends: HashMap<(SocketAddr, SocketAddr), Inet>,
    /// Where in the list of TCP sockets those of the tree are.
    tcp_of: HashMap<u64, usize>,
    /// What was shut down of UDP sockets, where sock_diag(7) tells.
    pub shutdown: HashMap<u64, u8>,
    /// Multicast groups, if there is a socket that may be in one.
    pub groups: Groups,
    /// A descriptor of each socket of the tree, as an index into the list of those seen.
    pub holders: HashMap<u64, usize>,
    /// Those that are saved as sockets, not as streams that lead outside.
    pub ours: HashSet<u64>,
    /// What waits in the UNIX sockets among them.
    pub waiting: HashMap<u64, Waiting>,
}

impl Found {
    /// A TCP socket of the tree.
    pub fn tcp_by_inode(&self, inode: u64) -> Option<&Inet> {
        self.tcp_of.get(&inode).and_then(|&at| self.tcp.get(at))
    }
}

/// A socket whose credentials only the program itself can ask for: it sees other pids than we do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    /// Index of the socket among the descriptions.
    file: u32,
    /// The table that has it.
    table: TableOf,
    fd: i32,
}

pub(super) fn is_socket(s: &SeenFd) -> bool {
    s.file_type() == libc::S_IFSOCK
}

/// Finds out which sockets of the tree lead to members of it. `root` is the root's index among the held processes. What is
/// on its way through a socket is added to `seen`.
pub(super) fn find(held: &Held, seen: &mut Vec<SeenFd>, root: usize) -> Result<Found, Error> {
    let inodes: HashSet<u64> = seen.iter().filter(|s| is_socket(s)).map(|s| s.meta.ino()).collect();
    if inodes.is_empty() {
        return Ok(Found::default());
    }
    let unix = match diag::unix() {
        // A kernel without it (CONFIG_UNIX_DIAG): then sockets lead outside, for all we know.
        Err(e) if e.kind() == io::ErrorKind::NotFound => HashMap::new(),
        other => other.map_err(Error::io("asking the kernel for", "UNIX sockets"))?,
    };
    let streams: HashSet<u64> = seen
        .iter()
        .filter(|s| s.process == root && (0..=2).contains(&s.fd) && is_socket(s))
        .map(|s| s.meta.ino())
        .collect();
    let waiting = flight::look(held, seen, &unix, |i, tree| unix::belongs(i, &unix, tree, &streams))?;
    let inodes: HashSet<u64> = seen.iter().filter(|s| is_socket(s)).map(|s| s.meta.ino()).collect();
    let mut ours: HashSet<u64> =
        inodes.iter().copied().filter(|i| unix::belongs(*i, &unix, &inodes, &streams)).collect();
    let mut found = Found { unix, waiting, ..Found::default() };
    let mut protocols = HashSet::new();
    for (index, s) in seen.iter().enumerate().filter(|(_, s)| is_socket(s) && !found.unix.contains_key(&s.meta.ino())) {
        let inode = s.meta.ino();
        if found.holders.contains_key(&inode) {
            continue;
        }
        let copy = s.copy(held)?;
        if let Some(protocol) = datagram::is(copy.as_fd()) {
            if protocols.insert(protocol) {
                let failed = Error::io("asking the kernel for", "UDP sockets");
                found.shutdown.extend(datagram::shutdowns(protocol).map_err(failed)?);
                found.groups = multicast::groups(s.host);
            }
            found.holders.insert(inode, index);
            if !streams.contains(&inode) {
                ours.insert(inode);
            }
            continue;
        }
        if netlink::is(copy.as_fd()) {
            found.holders.insert(inode, index);
            if !streams.contains(&inode) {
                ours.insert(inode);
            }
            continue;
        }
        if !tcp::is(copy.as_fd()) {
            continue;
        }
        if found.tcp.is_empty() {
            found.tcp = match inet::all(libc::IPPROTO_TCP) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
                other => other.map_err(Error::io("asking the kernel for", "TCP sockets"))?,
            };
        }
        found.holders.insert(inode, index);
        if !streams.contains(&inode) || tcp::leads_to_tree(inode, &found.tcp, |i| inodes.contains(&i)) {
            ours.insert(inode);
        }
    }
    if !protocols.is_empty() {
        inflight::drain_backlog();
    }
    found.ends = tcp::by_ends(&found.tcp);
    let places = found.tcp.iter().enumerate().filter(|(_, t)| inodes.contains(&t.inode));
    found.tcp_of = places.map(|(at, t)| (t.inode, at)).collect();
    found.ours = ours;
    Ok(found)
}

/// What each socket of the tree is, by its first holder, and whose credentials are still to be asked for; refused ones
/// are missing. `file_of`: the index of each holder's description.
pub(super) fn capture(
    work: &mut Work<'_>,
    groups: &[Group],
    found: &mut Found,
    inside: &Inside,
    file_of: &HashMap<usize, u32>,
) -> Result<(HashMap<usize, Kind>, Vec<Ask>), Error> {
    let seen = work.seen;
    let file_of_inode: HashMap<u64, u32> = seen
        .iter()
        .enumerate()
        .filter(|(_, s)| is_socket(s))
        .filter_map(|(index, s)| Some((s.meta.ino(), *file_of.get(&index)?)))
        .collect();
    let (mut out, mut asks) = (HashMap::new(), Vec::new());
    for group in groups {
        let Some((&first, s)) = group.holders.first().and_then(|i| Some((i, seen.get(*i)?))) else { continue };
        if !is_socket(s) || !found.ours.contains(&s.meta.ino()) {
            continue;
        }
        let copy = s.copy(work.held)?;
        let socket = if found.unix.contains_key(&s.meta.ino()) {
            let waiting = found.waiting.remove(&s.meta.ino());
            let indices = unix::Indices { by_inode: &file_of_inode, by_place: file_of };
            unix::capture(work, s, &copy, waiting, found, inside, &indices)?
        } else if datagram::is(copy.as_fd()).is_some() {
            datagram::capture(work, s, &copy, found, inside)?
        } else if netlink::is(copy.as_fd()) {
            netlink::capture(work, s, &copy, inside)?
        } else {
            tcp::capture(work, s, &copy, found, inside, &file_of_inode)?
        };
        let Some(socket) = socket else { continue };
        if let Some(&file) = file_of.get(&first).filter(|_| s.own.is_none() && unix::has_credentials(&socket)) {
            asks.push(Ask { file, table: s.table(), fd: s.fd });
        }
        out.insert(first, Kind::Socket(socket));
    }
    Ok((out, asks))
}

/// The model of a socket, with what all families have in common.
pub(super) fn model(
    work: &mut Work<'_>,
    s: &SeenFd,
    copy: &OwnedFd,
    queue: Queue,
    family: Family,
    shutdown: u8,
    inside: &Inside,
) -> Result<Option<Socket>, Error> {
    let failed = |step| Error::of(s.host, step);
    let number = |name| socket::number(copy.as_fd(), libc::SOL_SOCKET, name);
    let (domain, kind) = number(libc::SO_DOMAIN)
        .and_then(|d| Ok((d, number(libc::SO_TYPE)?)))
        .map_err(failed("asking for a socket's type"))?;
    let particular = match &family {
        Family::Unix(_) => Vec::new(),
        Family::Tcp(tcp) => tcp::options(&tcp.state),
        Family::Datagram(_) if kind == libc::SOCK_RAW => [&datagram::OPTIONS[..], &datagram::RAW].concat(),
        Family::Datagram(_) => datagram::OPTIONS.to_vec(),
        Family::Netlink(_) => netlink::OPTIONS.to_vec(),
    };
    let protocol = if domain == libc::AF_UNIX { 0 } else { number(libc::SO_PROTOCOL).unwrap_or(0) };
    let fresh = match work.fresh.entry([domain, kind, protocol]) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => {
            let fresh =
                options::Fresh::new(domain, kind, protocol).map_err(failed("making a socket to compare with"))?;
            entry.insert(fresh)
        }
    };
    let options = match options::read(copy.as_fd(), fresh, &particular) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            refuse(work, s, "a socket with an eBPF program attached is not supported", "");
            return Ok(None);
        }
        other => other.map_err(failed("asking for a socket's options"))?,
    };
    let messages = queue
        .messages
        .iter()
        .map(|m| Message {
            size: m.bytes.len() as u64,
            credentials: m.credentials.and_then(|c| credentials(c, inside)),
            from: None,
            rights: Vec::new(),
        })
        .collect();
    let bytes = queue.messages.into_iter().map(|m| m.bytes).reduce(|mut all, more| {
        all.extend_from_slice(&more);
        all
    });
    let bytes = bytes.unwrap_or_default();
    let content = (!bytes.is_empty()).then(|| work.contents.bytes(bytes));
    Ok(Some(Socket { kind, family, shutdown, queue: messages, content, options }))
}

/// Why a socket that is not ours to save is refused.
pub(super) fn unsupported(copy: &OwnedFd) -> &'static str {
    match socket::number(copy.as_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN) {
        Ok(libc::AF_PACKET) => "packet sockets see what others receive: not supported",
        Ok(libc::AF_UNIX | libc::AF_INET | libc::AF_INET6) | Err(_) => {
            "sockets that lead outside the tree are not supported"
        }
        Ok(_) => "sockets of this family are not supported",
    }
}

pub(super) fn refuse(work: &mut Work<'_>, s: &SeenFd, reason: &str, hint: &str) {
    let what = crate::net::describe(s.host, s.meta.ino());
    work.refusals.add(s.pid, s.object(&what), reason, hint);
}

/// `struct ucred` with a pid as the program sees it; `None` if nobody has left his name.
pub(super) fn credentials([host, uid, gid]: [u32; 3], inside: &Inside) -> Option<Credentials> {
    let host = host as i32;
    (host != 0).then(|| Credentials { pid: inside.process(host).unwrap_or(Pid(host)), uid, gid })
}

/// Asks the program for credentials, if it lives in another pid namespace than we: pids of the dead can't be
/// translated from outside.
pub(super) fn ask(held: &mut Held, asks: &[Ask], files: &mut [OpenFile]) -> Result<(), Error> {
    for ask in asks {
        let (process, thread) = ask.table;
        let Some(process) = held.processes.get_mut(process).filter(|p| p.pid.0 != p.host) else { continue };
        let Some(Kind::Socket(socket)) = files.get_mut(ask.file as usize).map(|f| &mut f.kind) else { continue };
        let copy = process.descriptor(thread, ask.fd).map_err(Error::of(process.host, "copying a descriptor"))?;
        let mut remote = process.remote(thread.unwrap_or(0))?;
        unix::ask(&mut remote, &copy, ask.fd, socket)?;
    }
    Ok(())
}

/// getsockopt(2) in the program.
pub(super) fn remote_option(remote: &mut Remote<'_>, fd: i32, name: i32, value: &mut [u8]) -> Result<(), Error> {
    let scratch = remote.scratch();
    remote.write(scratch, &(value.len() as u64).to_ne_bytes())?;
    let args = [fd as u64, libc::SOL_SOCKET as u64, name as u64, scratch.0 + 64, scratch.0, 0];
    remote.call("getsockopt", libc::SYS_getsockopt, args)?;
    let from = crate::model::Addr(scratch.0 + 64);
    remote.read(from, value)?;
    Ok(())
}
