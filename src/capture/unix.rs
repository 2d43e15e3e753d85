//! UNIX sockets.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use crate::model::fd::{Kind, OpenFile, Owner};
use crate::model::sockets::{Family, Socket, SocketOption};
use crate::model::unix::{Bound, Link, Listening, SocketFile, UnixSocket};
use crate::model::{Name, Pid};
use crate::net;
use crate::net::diag::Unix;
use crate::net::options::Made;
use crate::net::queue::{Looking, Of};
use crate::proc::many;
use crate::sys::socket;
use crate::tracer::{HeldProcess, Remote};

use super::fd::{OWNER, SeenFd, Work, owner};
use super::flight::Waiting;
use super::refusals::CLOSE;
use super::sockets::{EBPF, FEW, Found, credentials, model, refuse, remote_option};
use super::{Error, Inside, unaccepted};

pub(super) const SO_PEERCRED: i32 = 17;
const PROC: &[u8] = b"/proc/";

/// Why a connection with data that nobody can look at yet is refused: a server takes such a one within moments.
pub(super) const EARLY: &str = "bytes have been sent over a connection before it was accepted";
/// The same of one whose other end is gone, which would tell what it has sent.
pub(super) const LOST: &str = "a connection that waits to be accepted has lost its other end";

/// Whether a socket is the tree's own. A standard stream of the root (`streams`) counts only with its other end in the
/// tree.
pub(super) fn belongs(inode: u64, all: &HashMap<u64, Unix>, tree: &HashSet<u64>, streams: &HashSet<u64>) -> bool {
    match all.get(&inode) {
        Some(Unix { peer: Some(peer), .. }) if tree.contains(peer) => true,
        Some(_) => !streams.contains(&inode),
        None => false,
    }
}

/// Where descriptions are in the list of the image.
pub(super) struct Indices<'a> {
    /// Of sockets, by inode.
    pub by_inode: &'a HashMap<u64, u32>,
    /// By the place of a descriptor in the list of those seen.
    pub by_place: &'a HashMap<usize, u32>,
}

/// What a UNIX socket says of itself.
#[derive(Debug)]
pub(super) struct Reading {
    ucred: Vec<u8>,
    pub address: Vec<u8>,
    peer_address: Option<Vec<u8>>,
    /// Missing if there is a program of eBPF.
    pub options: Option<Vec<SocketOption>>,
    pub owner: Option<Owner>,
}

/// Asks the UNIX sockets among `all`; by inode.
pub(super) fn read(
    work: &Work<'_>,
    all: &[(usize, &SeenFd)],
    unix: &HashMap<u64, Unix>,
    inside: &Inside,
) -> Result<HashMap<u64, Reading>, Error> {
    let list: Vec<_> = all.iter().filter_map(|(_, s)| Some((*s, unix.get(&s.meta.ino())?))).collect();
    let readings = many::each(&list, FEW, |(s, seen)| {
        let failed = |step| Error::of(s.host, step);
        let copy = s.copy(work.held)?;
        let fd = copy.as_fd();
        let reading = Reading {
            ucred: socket::option(fd, libc::SOL_SOCKET, SO_PEERCRED, 12)
                .map_err(failed("asking for a socket's peer"))?,
            address: socket::name(fd).map_err(failed("asking for a socket's name"))?,
            peer_address: socket::peer_name(fd).ok(),
            options: work
                .fresh
                .compare(fd, made(seen), &[], |_, _| None)
                .map_err(failed("asking for a socket's options"))?,
            owner: owner(&copy, inside).map_err(failed(OWNER))?,
        };
        Ok::<_, Error>((s.meta.ino(), reading))
    })?;
    Ok(readings.into_iter().collect())
}

fn made(seen: &Unix) -> Made {
    Made { domain: libc::AF_UNIX, kind: seen.kind.into(), protocol: 0 }
}

/// A UNIX socket of the tree, in which something waits; `None` if it was refused. Last comes whether what was sent before
/// it was accepted can be had, or what was sent to it over connections whose other end is gone.
pub(super) fn capture(
    work: &mut Work<'_>,
    s: &SeenFd,
    (reading, waiting, early): (Reading, Option<Waiting>, Option<Result<(), &'static str>>),
    found: &Found,
    inside: &Inside,
    indices: &Indices<'_>,
) -> Option<Socket> {
    let seen = found.unix.get(&s.meta.ino())?;
    let Some(options) = reading.options else {
        refuse(work, s, EBPF, CLOSE);
        return None;
    };
    let (queue, rights) = match waiting {
        Some(Waiting::Messages(queue, rights)) => (queue, rights),
        other => {
            let (reason, hint) = match other {
                Some(Waiting::Urgent) => (
                    "urgent data (MSG_OOB) waits in it, behind one of several messages with descriptors, and can't be told from others",
                    "save it when that has been read",
                ),
                Some(Waiting::TooMany) => (
                    "more descriptors are on their way to it than we may have",
                    "raise the hard limit of open files (ulimit -Hn)",
                ),
                _ => ("an error waits in it, in front of its messages", "save it when that has been read"),
            };
            refuse(work, s, reason, hint);
            return None;
        }
    };
    let link = link(s.meta.ino(), seen, found, indices);
    if matches!(link, Link::Waiting(_)) && seen.sent > 0 {
        let reason = match early {
            Some(Ok(())) => None,
            Some(Err(why)) => Some(unaccepted::reason(why)),
            None => Some(EARLY.to_owned()),
        };
        if let Some(reason) = reason {
            refuse(work, s, &reason, "save it when the server has taken the connection");
            return None;
        }
    }
    let mut listening = None;
    if seen.listening {
        let of_outside = |inode: &u64| !indices.by_inode.contains_key(inode);
        for inode in seen.waiting.iter().filter(|i| of_outside(i)) {
            let reason = match (found.unix.get(inode), early) {
                (None, Some(Ok(()))) => continue,
                (None, Some(Err(why))) => format!("{LOST}, and what it has sent can't be looked at: {why}"),
                (None, None) => LOST.to_owned(),
                (Some(client), _) if client.sent > 0 => EARLY.to_owned(),
                (Some(_), _) => continue,
            };
            refuse(work, s, &reason, "save it when the server has taken the connection");
            return None;
        }
        let waiting = seen.waiting.iter().map(|inode| indices.by_inode.get(inode).copied()).collect();
        listening = Some(Listening { backlog: seen.sent, waiting, gone: Vec::new() });
    }
    let peer_name = match link {
        Link::Closed | Link::Outside => reading.peer_address.as_ref().and_then(|a| net::unix::name(a)),
        _ => None,
    };
    let family = UnixSocket {
        link,
        peer: parse(&reading.ucred).and_then(|c| credentials(c, inside)),
        reset: queue.error,
        bound: bound_name(work, &reading.address, seen, found),
        peer_name,
        listening,
        urgent: queue.urgent.at.map(|at| at as u64),
        marks: queue.urgent.read.iter().map(|at| *at as u64).collect(),
        early: None,
    };
    // Streams and packets come from the peer; of datagrams anybody may have sent each.
    let datagrams = seen.kind == libc::SOCK_DGRAM as u8;
    let senders: Vec<_> =
        queue.messages.iter().map(|m| datagrams.then(|| net::unix::name(&m.from)).flatten()).collect();
    let mut socket = model(work, made(seen), options, queue, Family::Unix(family), seen.shutdown, inside);
    for ((message, from), places) in socket.queue.iter_mut().zip(senders).zip(rights) {
        message.from = from;
        message.rights = places.iter().filter_map(|place| indices.by_place.get(place).copied()).collect();
    }
    Some(socket)
}

fn link(inode: u64, seen: &Unix, found: &Found, indices: &Indices<'_>) -> Link {
    match seen.peer {
        None => Link::None,
        Some(0) => match found.unix.iter().find(|(_, s)| s.waiting.contains(&inode)) {
            Some((listener, _)) => indices.by_inode.get(listener).map_or(Link::Outside, |&file| Link::Waiting(file)),
            None => Link::Closed,
        },
        Some(peer) => indices.by_inode.get(&peer).map_or(Link::Outside, |&file| Link::To(file)),
    }
}

/// The name a socket says it has.
pub(super) fn bound_name(work: &Work<'_>, address: &[u8], seen: &Unix, found: &Found) -> Option<Bound> {
    net::unix::name(address).map(|name| bound(work, name, seen, found))
}

/// A name, and the file others find the socket by. One that was accepted has name and file of the one that listens.
fn bound(work: &Work<'_>, name: Name, seen: &Unix, found: &Found) -> Bound {
    let found_by = seen.kind == libc::SOCK_DGRAM as u8 || seen.peer.is_none();
    let mut bound = Bound { name, file: None };
    bound.file = seen.file.filter(|_| found_by).and_then(|(inode, _)| {
        let candidates = candidates(work, &bound);
        let look = |path: &[u8]| work.view.lstat(path).filter(|m| m.mode() & libc::S_IFMT == libc::S_IFSOCK);
        let is_it = |meta: &Metadata| meta.ino() as u32 == inode;
        // On a union of file systems the numbers differ; then it is not another's.
        let nobodys =
            |meta: &Metadata| !found.unix.values().any(|s| s.file.is_some_and(|(inode, _)| inode == meta.ino() as u32));
        let made = |path: &Vec<u8>, meta: Metadata, renamed| SocketFile {
            path: Name(path.clone()),
            mode: meta.mode() & 0o7777,
            device: meta.dev(),
            inode: meta.ino(),
            renamed,
        };
        // A server makes its socket beside the old one, and then gives it that one's name (HAProxy does).
        let renamed = |path: &Vec<u8>| {
            let dir = path.get(..=path.iter().rposition(|&b| b == b'/')?)?;
            work.view.entries(dir).filter(|(_, entry, _)| *entry as u32 == inode).find_map(|(entry, ..)| {
                let now = [dir, &entry].concat();
                let meta = look(&now).filter(is_it)?;
                Some(made(path, meta, Some(Name(now))))
            })
        };
        let named = |fits: &dyn Fn(&Metadata) -> bool| {
            candidates.iter().find_map(|path| Some(made(path, look(path).filter(fits)?, None)))
        };
        named(&is_it).or_else(|| candidates.iter().find_map(renamed)).or_else(|| named(&nobodys))
    });
    bound
}

/// Where the file of a socket may be: a name is absolute, or was given in a directory that some process is in or has open.
/// What else is in /proc is not what it was to whoever gave the name.
fn candidates(work: &Work<'_>, bound: &Bound) -> Vec<Vec<u8>> {
    let name = &bound.name.0;
    let place = match (name.first(), bound.by_descriptor()) {
        (_, Some((fd, _))) => format!("fd/{fd}"),
        (Some(b'/'), _) if name.starts_with(PROC) => return Vec::new(),
        (Some(b'/'), _) => return vec![name.clone()],
        (Some(0) | None, _) => return Vec::new(),
        _ => "cwd".to_owned(),
    };
    let of = |p: &HeldProcess| crate::proc::link(&format!("{}/{place}", p.live())).ok();
    let mut all: Vec<_> = work.held.processes.iter().filter_map(of).collect();
    all.dedup();
    all.into_iter().map(|dir| [dir.as_slice(), b"/", bound.tail()].concat()).collect()
}

/// Sockets that nobody finds after a resume, since the directory that their names lead to is not known. `holder`: a process
/// that has the file of an index, and its descriptor.
pub(super) fn unfound(files: &[OpenFile], holder: impl Fn(u32) -> Option<(Pid, i32)>) -> Vec<String> {
    let mut out = Vec::new();
    for (file, index) in files.iter().zip(0u32..) {
        let Kind::Socket(Socket { kind, family: Family::Unix(unix), .. }) = &file.kind else { continue };
        let found_by = *kind == libc::SOCK_DGRAM || matches!(unix.link, Link::None | Link::Waiting(_));
        let Some(Bound { name, file: None }) = unix.bound.as_ref().filter(|_| found_by) else { continue };
        if let Some((pid, fd)) = holder(index).filter(|_| name.0.starts_with(PROC)) {
            let name = net::unix::display(name);
            out.push(format!(
                "pid {pid} fd {fd} (UNIX socket): {name} is not found; after a resume nobody can reach it"
            ));
        }
    }
    out
}

pub(super) fn parse(ucred: &[u8]) -> Option<[u32; 3]> {
    let word = |at: usize| Some(u32::from_ne_bytes(ucred.get(at..at + 4)?.try_into().ok()?));
    Some([word(0)?, word(4)?, word(8)?])
}

/// Whether there are pids in what is known of a socket.
pub(super) fn has_credentials(socket: &Socket) -> bool {
    let Family::Unix(unix) = &socket.family else { return false };
    unix.peer.is_some() || socket.queue.iter().any(|m| m.credentials.is_some())
}

/// Has the program say who made the peer and who sent what waits to be read.
pub(super) fn ask(remote: &mut Remote<'_>, copy: &OwnedFd, fd: i32, socket: &mut Socket) -> Result<(), Error> {
    let Family::Unix(unix) = &mut socket.family else { return Ok(()) };
    if let Some(peer) = &mut unix.peer {
        let mut ucred = [0; 12];
        remote_option(remote, fd, SO_PEERCRED, &mut ucred)?;
        peer.pid = Pid(parse(&ucred).map_or(0, |c| c[0] as i32));
    }
    if socket.queue.iter().all(|m| m.credentials.is_none()) {
        return Ok(());
    }
    let failed = || Error::io("looking into", "a socket");
    let of = if socket.kind == libc::SOCK_STREAM { Of::UnixStream } else { Of::Unix };
    let mut looking = Looking::begin(copy.as_fd(), of).map_err(failed())?;
    let mut at = 0;
    for message in &mut socket.queue {
        if let Some(credentials) = &mut message.credentials {
            looking.at(at).map_err(failed())?;
            if let Some(pid) = remote_sender(remote, fd)? {
                credentials.pid = pid;
            }
        }
        at += message.size as usize;
    }
    Ok(())
}

/// recvmsg(2) in the program, which only looks. There is room for credentials alone: descriptors would be installed.
fn remote_sender(remote: &mut Remote<'_>, fd: i32) -> Result<Option<Pid>, Error> {
    const CONTROL: u64 = 32;
    let scratch = remote.scratch().0;
    let (part, control, byte) = (scratch + 64, scratch + 128, scratch + 192);
    let message = [0, 0, part, 1, control, CONTROL, 0];
    // msghdr is 56 bytes; the iovec follows at 64.
    let bytes: Vec<u8> = message.into_iter().chain([0, byte, 1]).flat_map(u64::to_ne_bytes).collect();
    remote.write(remote.scratch(), &bytes)?;
    remote.write(crate::model::Addr(control), &[0; CONTROL as usize])?;
    let flags = (libc::MSG_PEEK | libc::MSG_DONTWAIT) as u64;
    if remote.try_call(libc::SYS_recvmsg, [fd as u64, scratch, flags, 0, 0, 0])?.is_err() {
        return Ok(None);
    }
    let mut got = [0; CONTROL as usize];
    remote.read(crate::model::Addr(control), &mut got)?;
    let word = |at: usize| got.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    let credentials = (word(8), word(12)) == (Some(libc::SOL_SOCKET), Some(libc::SCM_CREDENTIALS));
    Ok(word(16).filter(|_| credentials).map(Pid))
}
