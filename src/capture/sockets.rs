//! Sockets: which belong to the tree, and what is in them. Nothing is taken out: everything is peeked at.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::Pid;
use crate::model::fd::{Kind, OpenFile, Owner};
use crate::model::sockets::{Credentials, Family, Message, Socket, SocketOption};
use crate::net::inet::{self, Inet};
use crate::net::multicast::{self, Groups};
use crate::net::options::{Fresh, Made};
use crate::net::queue::Queue;
use crate::net::{diag, inflight, options};
use crate::proc::many;
use crate::sys::socket;
use crate::tracer::{Held, Remote};

use super::fd::{Group, SeenFd, TableOf, Work};
use super::flight::{self, Waiting};
use super::refusals::CLOSE;
use super::{Error, Inside, datagram, netlink, packet, tcp, unaccepted, unix};

/// Why a socket is refused whose options can't all be seen.
pub(super) const EBPF: &str = "a socket with an eBPF program attached is not supported";
/// So many sockets are worth a thread.
pub(super) const FEW: usize = 32;

/// Something of each of many sockets.
type ByInode<T> = HashMap<u64, T>;

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
    /// A descriptor of each internet or netlink socket of the tree, as an index into the list of those seen.
    pub holders: HashMap<u64, usize>,
    /// What these were made as.
    pub made: HashMap<u64, Made>,
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
    let All { unix, tcp, others: mut kinds } = all(held, seen)?;
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
    for (index, s) in seen.iter().enumerate().filter(|(_, s)| is_socket(s) && !found.unix.contains_key(&s.meta.ino())) {
        found.holders.entry(s.meta.ino()).or_insert(index);
    }
    let known =
        |made: &Made| tcp::is(*made) || datagram::is(*made).is_some() || netlink::is(*made) || packet::is(*made);
    let mut news = found.holders.clone();
    news.retain(|inode, _| !kinds.contains_key(inode));
    kinds.extend(made(held, seen, &news)?);
    kinds.retain(|_, made| known(made));
    found.made = kinds;
    found.holders.retain(|inode, _| found.made.contains_key(inode));
    if found.made.values().any(|&made| tcp::is(made)) {
        found.tcp = tcp.map_or_else(all_tcp, Ok)?;
    }
    let mut protocols = HashSet::new();
    for (&inode, &made) in &found.made {
        if let Some(protocol) = datagram::is(made).filter(|protocol| protocols.insert(*protocol)) {
            let failed = Error::io("asking the kernel for", "UDP sockets");
            found.shutdown.extend(datagram::shutdowns(protocol).map_err(failed)?);
            let holder = found.holders.get(&inode).and_then(|&index| seen.get(index));
            found.groups = holder.map_or_else(Groups::default, |s| multicast::groups(s.host));
        }
        let leads_to_tree = || tcp::is(made) && tcp::leads_to_tree(inode, &found.tcp, |i| inodes.contains(&i));
        if !streams.contains(&inode) || leads_to_tree() {
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

/// Sockets of which the kernel has lists.
#[derive(Debug, Default)]
struct All {
    /// All UNIX sockets there are.
    unix: ByInode<diag::Unix>,
    /// All TCP sockets there are, if they have been asked for already.
    tcp: Option<Vec<Inet>>,
    /// What those of the tree that are no UNIX sockets were made as.
    others: ByInode<Made>,
}

fn all_tcp() -> Result<Vec<Inet>, Error> {
    match inet::all(libc::IPPROTO_TCP) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(Error::io("asking the kernel for", "TCP sockets")),
    }
}

/// All UNIX sockets there are, those of `seen` among them, and what the others are. While others come and go the kernel's
/// list may lack one that was there all the time: it goes on behind so many of a hash bucket (net/unix/diag.c,
/// `unix_diag_dump`).
fn all(held: &Held, seen: &[SeenFd]) -> Result<All, Error> {
    const TRIES: usize = 10;
    let mut all = All::default();
    let mut unsure: HashMap<u64, usize> = HashMap::new();
    for (index, s) in seen.iter().enumerate().filter(|(_, s)| is_socket(s)) {
        unsure.entry(s.meta.ino()).or_insert(index);
    }
    for _ in 0..TRIES {
        all.unix = match diag::unix() {
            // A kernel without it (CONFIG_UNIX_DIAG): then sockets lead outside, for all we know.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(all),
            other => other.map_err(Error::io("asking the kernel for", "UNIX sockets"))?,
        };
        unsure.retain(|inode, _| !all.unix.contains_key(inode));
        // Of many it pays to see first which of them are TCP sockets.
        if unsure.len() > FEW && all.tcp.is_none() {
            let tcp = all_tcp()?;
            let there = tcp.iter().filter(|t| unsure.remove(&t.inode).is_some());
            all.others.extend(there.map(|t| (t.inode, tcp::made(t.family))));
            all.tcp = Some(tcp);
        }
        let mut made = made(held, seen, &unsure)?;
        unsure.retain(|inode, _| made.get(inode).is_some_and(|made| made.domain == libc::AF_UNIX));
        made.retain(|inode, _| !unsure.contains_key(inode));
        all.others.extend(made);
        if unsure.is_empty() {
            break;
        }
    }
    Ok(all)
}

/// What the sockets among `holders` were made as, by inode; those that do not say are missing.
fn made(held: &Held, seen: &[SeenFd], holders: &HashMap<u64, usize>) -> Result<HashMap<u64, Made>, Error> {
    let holders: Vec<_> = holders.iter().filter_map(|(&inode, &index)| Some((inode, seen.get(index)?))).collect();
    let made = many::each(&holders, FEW, |(inode, s)| {
        let copy = s.copy(held)?;
        Ok::<_, Error>(Made::of(copy.as_fd()).ok().map(|made| (*inode, made)))
    })?;
    Ok(made.into_iter().flatten().collect())
}

/// Sockets of the tree; refused ones are missing.
#[derive(Debug, Default)]
pub(super) struct Captured {
    /// What each is, by its first holder.
    pub kinds: HashMap<usize, Kind>,
    /// Who gets signals of some, likewise.
    pub owners: HashMap<usize, Option<Owner>>,
    /// Whose credentials are still to be asked for.
    pub asks: Vec<Ask>,
}

/// Looks at each socket of the tree. `file_of`: the index of each holder's description.
pub(super) fn capture(
    work: &mut Work<'_>,
    groups: &[Group],
    found: &mut Found,
    inside: &Inside,
    file_of: &HashMap<usize, u32>,
) -> Result<Captured, Error> {
    let seen = work.seen;
    let file_of_inode: HashMap<u64, u32> = seen
        .iter()
        .enumerate()
        .filter(|(_, s)| is_socket(s))
        .filter_map(|(index, s)| Some((s.meta.ino(), *file_of.get(&index)?)))
        .collect();
    let all: Vec<(usize, &SeenFd)> = groups
        .iter()
        .filter_map(|group| Some((*group.holders.first()?, seen.get(*group.holders.first()?)?)))
        .filter(|(_, s)| is_socket(s) && found.ours.contains(&s.meta.ino()))
        .collect();
    let mut out = Captured { kinds: HashMap::with_capacity(all.len()), ..Captured::default() };
    let mut of_tcp = tcp::read(work, &all, found, inside, &file_of_inode)?;
    let mut of_unix = unix::read(work, &all, &found.unix, inside)?;
    let indices = unix::Indices { by_inode: &file_of_inode, by_place: file_of };
    let early = if work.queues { unaccepted::find(work, found, &of_unix, &indices)? } else { HashMap::new() };
    for (first, s) in all {
        let made = found.made.get(&s.meta.ino()).copied();
        let socket = if let Some(reading) = of_unix.remove(&s.meta.ino()) {
            out.owners.insert(first, reading.owner);
            let waiting = found.waiting.remove(&s.meta.ino());
            let early = early.get(&s.meta.ino()).copied();
            unix::capture(work, s, (reading, waiting, early), found, inside, &indices)
        } else if let Some(made) = made.filter(|made| datagram::is(*made).is_some()) {
            datagram::capture(work, s, &s.copy(work.held)?, made, found, inside)?
        } else if let Some(made) = made.filter(|made| netlink::is(*made)) {
            netlink::capture(work, s, &s.copy(work.held)?, made, inside)?
        } else if let Some(made) = made.filter(|made| packet::is(*made)) {
            packet::capture(work, s, &s.copy(work.held)?, made, inside)?
        } else if let Some(reading) = of_tcp.remove(&s.meta.ino()) {
            out.owners.insert(first, reading.owner);
            tcp::capture(work, s, reading, found, inside, &file_of_inode)
        } else {
            None
        };
        let Some(socket) = socket else { continue };
        if let Some(&file) = file_of.get(&first).filter(|_| s.own.is_none() && unix::has_credentials(&socket)) {
            out.asks.push(Ask { file, table: s.table(), fd: s.fd });
        }
        out.kinds.insert(first, Kind::Socket(socket));
    }
    Ok(out)
}

/// New sockets to compare others with, one of each kind.
#[derive(Debug, Default)]
pub(super) struct FreshOnes(Mutex<HashMap<Made, Arc<Fresh>>>);

impl FreshOnes {
    fn of(&self, made: Made) -> io::Result<Arc<Fresh>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fresh) = all.get(&made) {
            return Ok(Arc::clone(fresh));
        }
        let particular = if netlink::is(made) {
            netlink::OPTIONS.to_vec()
        } else if packet::is(made) {
            packet::OPTIONS.to_vec()
        } else if tcp::is(made) {
            tcp::options_of()
        } else if made.is_internet() {
            datagram::options_of(made)
        } else {
            Vec::new()
        };
        let fresh = Arc::new(Fresh::new(made, &particular)?);
        all.insert(made, Arc::clone(&fresh));
        Ok(fresh)
    }

    /// The options that a socket has and a new one has not, but for those of `without`; `None` if they can't be seen
    /// because of a program of eBPF.
    pub fn compare(
        &self,
        copy: BorrowedFd<'_>,
        made: Made,
        without: &[(i32, i32)],
        told: impl Fn(i32, i32) -> Option<i32>,
    ) -> io::Result<Option<Vec<SocketOption>>> {
        match options::read(copy, &*self.of(made)?, without, told) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            other => other.map(Some),
        }
    }
}

/// The options of a socket; `None` if it was refused.
pub(super) fn options(
    work: &mut Work<'_>,
    s: &SeenFd,
    copy: &OwnedFd,
    made: Made,
) -> Result<Option<Vec<SocketOption>>, Error> {
    let options = work.fresh.compare(copy.as_fd(), made, &[], |_, _| None);
    let options = options.map_err(Error::of(s.host, "asking for a socket's options"))?;
    if options.is_none() {
        refuse(work, s, EBPF, CLOSE);
    }
    Ok(options)
}

/// The model of a socket, with what all families have in common.
pub(super) fn model(
    work: &mut Work<'_>,
    made: Made,
    options: Vec<SocketOption>,
    queue: Queue,
    family: Family,
    shutdown: u8,
    inside: &Inside,
) -> Socket {
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
    Socket { kind: made.kind, family, shutdown, queue: messages, content, options }
}

/// Why a socket that is not ours to save is refused.
pub(super) fn unsupported(copy: &OwnedFd) -> &'static str {
    match socket::number(copy.as_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN) {
        Ok(libc::AF_UNIX | libc::AF_INET | libc::AF_INET6) | Err(_) => {
            "sockets that lead outside the tree are not supported"
        }
        Ok(_) => "sockets of this family are not supported",
    }
}

/// Refuses a socket. `hint` may be empty: what helps with any socket is to have it closed.
pub(super) fn refuse(work: &mut Work<'_>, s: &SeenFd, reason: &str, hint: &str) {
    let hint = if hint.is_empty() { CLOSE } else { hint };
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
