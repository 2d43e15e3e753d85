//! Bytes that were sent over UNIX connections nobody has accepted yet. There is no way to look at them but to accept those
//! connections, and a UNIX socket connects only once: each client gets a new socket in place of its own, which connects
//! as that had and sends the same. So this is done only where waiting for the server was in vain, and where all that is
//! to be seen of a client's socket can be had for another.
//!
//! Until a connection is accepted the kernel notes the sender of whatever is sent over it (net/unix/af_unix.c,
//! unix_maybe_add_creds): so the clients' processes send it themselves.

use std::collections::HashMap;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use crate::model::fd::{Kind, OpenFile};
use crate::model::sockets::{Credentials, Family, Message, Socket, SocketOption};
use crate::model::unix::{Early, Gone, SocketFile, UnixSocket};
use crate::model::{Addr, Name, Pid};
use crate::net::queue::{self, Of, Queue};
use crate::net::{options, unix};
use crate::proc::fdinfo::{Detail, Watch};
use crate::sys::{fds, socket};
use crate::tracer::{Held, Remote};

use super::contents::Contents;
use super::fd::{SeenFd, TableOf, Work};
use super::sockets::{Found, credentials, remote_option};
use super::unix::{EARLY, Indices, Reading, SO_PEERCRED, parse};
use super::{Error, Inside};

/// Connections of one queue.
const MOST_CONNECTIONS: usize = 1024;
/// SO_PASSCRED, SO_PASSPIDFD: the server is told who has sent something.
const TOLD: [i32; 2] = [16, 76];

/// A queue that is to be looked into.
#[derive(Debug)]
pub(super) struct Seen {
    listener: OwnedFd,
    /// Where its clients find it.
    address: Vec<u8>,
    /// Device and inode of its file; `None` for an abstract name.
    file: Option<(u64, u64)>,
    kind: i32,
    /// Its place among the descriptions.
    listening: u32,
    /// Oldest connection first.
    clients: Vec<Client>,
}

/// A socket whose connection waits, and what another needs to be like it.
#[derive(Debug)]
struct Client {
    /// `None` for one that is closed: then its server's process connects in its stead.
    file: Option<u32>,
    inode: u64,
    /// Then also the server's number of the listening socket.
    door: i32,
    table: TableOf,
    host: i32,
    /// As it sees itself.
    pid: Pid,
    /// Its numbers, and which are closed by exec.
    numbers: Vec<(i32, bool)>,
    flags: u32,
    /// An abstract name, as `sockaddr`: one is given to whoever wants to know who has sent something.
    name: Option<Vec<u8>>,
    options: Vec<SocketOption>,
    shutdown: u8,
    /// Numbers of epolls that watch it.
    watches: Vec<(i32, Watch)>,
}

/// What is known of all sockets.
#[derive(Clone, Copy)]
struct Known<'a> {
    found: &'a Found,
    readings: &'a HashMap<u64, Reading>,
    indices: &'a Indices<'a>,
}

/// What is to be said of clients that have sent something too early, by inode: nothing, or why their bytes can't be had.
/// The queues that are to be looked into are noted.
pub(super) fn find(
    work: &mut Work<'_>,
    found: &Found,
    readings: &HashMap<u64, Reading>,
    indices: &Indices<'_>,
) -> Result<HashMap<u64, Result<(), &'static str>>, Error> {
    let mut out = HashMap::new();
    let listeners = found.unix.iter().filter(|(inode, s)| s.listening && indices.by_inode.contains_key(inode));
    for (inode, listener) in listeners {
        let early = |inode: &u64| found.unix.get(inode).is_some_and(|client| client.sent > 0);
        let gone = listener.waiting.iter().any(|inode| !found.unix.contains_key(inode));
        let mut early: Vec<u64> = listener.waiting.iter().copied().filter(early).collect();
        early.extend(gone.then_some(*inode));
        if early.is_empty() {
            continue;
        }
        let queue = queue_of(work, Known { found, readings, indices }, *inode)?;
        out.extend(early.into_iter().map(|inode| (inode, queue.as_ref().map(drop).map_err(|why| *why))));
        work.contents.unaccepted.extend(queue.ok());
    }
    Ok(out)
}

/// A queue with its clients, or why it can't be looked into.
fn queue_of(work: &Work<'_>, known: Known<'_>, inode: u64) -> Result<Result<Seen, &'static str>, Error> {
    let Known { found, readings, indices } = known;
    let Some((seen, reading)) = found.unix.get(&inode).zip(readings.get(&inode)) else {
        return Ok(Err("nobody has the listening socket"));
    };
    let Some(server) = work.seen.iter().find(|s| s.meta.ino() == inode) else {
        return Ok(Err("nobody has the listening socket"));
    };
    if seen.waiting.len() > MOST_CONNECTIONS {
        return Ok(Err("too many connections wait in the same queue"));
    }
    if has(reading, &TOLD) && seen.waiting.iter().any(|inode| !found.unix.contains_key(inode)) {
        return Ok(Err("the server wants to know who has sent them (SO_PASSCRED), and somebody who has is gone"));
    }
    // Those of all connections in its queue (net/unix/af_unix.c, unix_count_nr_fds).
    if server.info.detail != Detail::UnixSocket(0) {
        return Ok(Err("descriptors may be on their way with them"));
    }
    let is = |file: &SocketFile| seen.file.is_some_and(|(inode, _)| inode == file.inode as u32);
    let named = super::unix::bound_name(work, &reading.address, seen, found);
    let (address, file) = match named {
        Some(bound) if bound.is_abstract() => (unix::sockaddr(&bound.name), None),
        Some(bound) => match bound.file {
            Some(file) if file.place().0.len() < unix::LONGEST && is(&file) => {
                (unix::sockaddr(file.place()), Some((file.device, file.inode)))
            }
            _ => return Ok(Err("their server's socket is not found under a name of less than 108 bytes")),
        },
        None => return Ok(Err("their server's socket has no name")),
    };
    let Some(&listening) = indices.by_inode.get(&inode) else { return Ok(Err("nobody has the listening socket")) };
    let listener = server.copy(work.held)?;
    let mut clients = Vec::with_capacity(seen.waiting.len());
    for inode in &seen.waiting {
        let client = match found.unix.contains_key(inode) {
            true => client(work, known, *inode),
            false => stand_in(work, server),
        };
        match client {
            Ok(client) => clients.push(client),
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(Seen { listener, address, file, kind: seen.kind.into(), listening, clients }))
}

fn has(reading: &Reading, names: &[i32]) -> bool {
    let options = reading.options.as_deref().unwrap_or_default();
    options.iter().any(|option| option.level == libc::SOL_SOCKET && names.contains(&option.name))
}

fn client(work: &Work<'_>, known: Known<'_>, inode: u64) -> Result<Client, &'static str> {
    let Known { found, readings, indices } = known;
    let there = indices.by_inode.get(&inode).zip(found.unix.get(&inode)).zip(readings.get(&inode));
    let Some(((&file, seen), reading)) = there else { return Err("not all who wait with it are in the tree") };
    let holders: Vec<&SeenFd> = work.seen.iter().filter(|s| s.meta.ino() == inode).collect();
    let Some(first) = holders.first() else { return Err("not all who wait with it are in the tree") };
    if holders.iter().any(|s| s.own.is_some() || s.table() != first.table()) {
        return Err("several processes have it, or one that waits with it");
    }
    if reading.owner.is_some() || first.info.flags & libc::O_ASYNC as u32 != 0 {
        return Err("signals are sent for it, or for one that waits with it");
    }
    let name = unix::name(&reading.address);
    if name.as_ref().is_some_and(|name| name.0.first() != Some(&0)) {
        return Err("it has a file of its own, or one that waits with it");
    }
    let Some(options) = reading.options.clone() else { return Err("it is filtered, or one that waits with it") };
    if is_filtered(work, first) {
        return Err("its process is under a seccomp filter");
    }
    let rings = |s: &SeenFd| matches!(&s.info.detail, Detail::IoUring(ring) if ring.files > 0);
    if work.seen.iter().any(rings) {
        return Err("it may be registered with an io_uring");
    }
    let numbers: Vec<(i32, bool)> =
        holders.iter().map(|s| (s.fd, s.info.flags & libc::O_CLOEXEC as u32 != 0)).collect();
    let watches = watches(work, indices, inode, first, &numbers)?;
    let flags = first.flags();
    Ok(Client {
        file: Some(file),
        inode,
        door: -1,
        table: first.table(),
        host: first.host,
        pid: first.pid,
        numbers,
        flags,
        name: name.map(|name| unix::sockaddr(&name)),
        options,
        shutdown: seen.shutdown,
        watches,
    })
}

fn is_filtered(work: &Work<'_>, s: &SeenFd) -> bool {
    let (process, thread) = s.table();
    let task = work.held.processes.get(process).and_then(|p| p.threads.get(thread.unwrap_or(0)));
    task.is_none_or(|t| t.status.seccomp != 0)
}

/// Who connects in place of a client that is gone.
fn stand_in(work: &Work<'_>, server: &SeenFd) -> Result<Client, &'static str> {
    if server.own.is_some() {
        return Err("nobody has the listening socket");
    }
    if is_filtered(work, server) {
        return Err("the process of its server is under a seccomp filter");
    }
    let (numbers, options, watches) = (Vec::new(), Vec::new(), Vec::new());
    let (table, host, pid) = (server.table(), server.host, server.pid);
    let (inode, flags, name, shutdown) = (0, 0, None, 0);
    Ok(Client {
        file: None,
        inode,
        door: server.fd,
        table,
        host,
        pid,
        numbers,
        flags,
        name,
        options,
        shutdown,
        watches,
    })
}

/// The epolls that watch a client's socket, each once, by a number in its own table.
fn watches(
    work: &Work<'_>,
    indices: &Indices<'_>,
    inode: u64,
    client: &SeenFd,
    numbers: &[(i32, bool)],
) -> Result<Vec<(i32, Watch)>, &'static str> {
    let mut all: HashMap<u32, (Option<i32>, Vec<Watch>)> = HashMap::new();
    for (index, s) in work.seen.iter().enumerate() {
        let Detail::Epoll(watches) = &s.info.detail else { continue };
        let of_it: Vec<Watch> = watches.iter().filter(|watch| watch.ino == inode).cloned().collect();
        if of_it.is_empty() {
            continue;
        }
        let Some(&file) = indices.by_place.get(&index) else { return Err("an epoll of somebody else watches it") };
        let entry = all.entry(file).or_insert((None, of_it));
        if s.own.is_none() && s.table() == client.table() {
            entry.0 = Some(s.fd);
        }
    }
    let mut out = Vec::new();
    for (epoll, watches) in all.into_values() {
        let Some(epoll) = epoll else {
            return Err("an epoll of another process watches it, or one that waits with it");
        };
        for watch in watches {
            if !numbers.iter().any(|(number, _)| *number == watch.fd) {
                return Err("an epoll watches it under a number that it no longer has");
            }
            out.push((epoll, watch));
        }
    }
    Ok(out)
}

/// Looks into the queues. Nothing else may be done with their sockets meanwhile.
pub(super) fn take(
    held: &mut Held,
    contents: &mut Contents,
    files: &mut [OpenFile],
    inside: &Inside,
) -> Result<(), Error> {
    for seen in std::mem::take(&mut contents.unaccepted) {
        let mut made = Vec::with_capacity(seen.clients.len());
        for client in &seen.clients {
            match make(held, &seen, client) {
                Ok(new) => made.push(new),
                Err(e) => {
                    seen.clients.iter().zip(&made).try_for_each(|(client, new)| close(held, client, new.number))?;
                    return Err(e);
                }
            }
        }
        // From here on the connections are in nobody's queue.
        let mut failure = None;
        for (place, (client, new)) in (0u32..).zip(seen.clients.iter().zip(&made)) {
            let (queue, lost) = match again(held, &seen, client, new, inside) {
                Ok(told) => told,
                Err(e) => {
                    failure = failure.or(Some(e));
                    continue;
                }
            };
            // Of one who is gone it is told who he was; for the others, they have sent it again.
            let sender = if client.file.is_some() { Some(client.pid) } else { lost.peer.map(|peer| peer.pid) };
            let early = model(contents, queue, sender);
            match (client.file, unix_of(files, client.file.unwrap_or(seen.listening))) {
                (Some(_), Some(unix)) => unix.early = Some(early).filter(|early| !early.messages.is_empty()),
                (None, Some(UnixSocket { listening: Some(listening), .. })) => {
                    listening.gone.push(Gone { place, peer: lost.peer, name: lost.name, early });
                }
                _ => {}
            }
        }
        if let Some(e) = failure {
            return Err(e);
        }
    }
    Ok(())
}

/// What an accepted connection tells of a client that is gone.
#[derive(Debug, Default)]
struct Lost {
    /// Who had made it.
    peer: Option<Credentials>,
    name: Option<Name>,
}

/// A socket that is to take the place of a client's.
#[derive(Debug)]
struct New {
    number: i32,
    copy: OwnedFd,
}

fn remote<'a>(held: &'a mut Held, client: &Client) -> Result<Remote<'a>, Error> {
    let process = held.processes.get_mut(client.table.0).ok_or(Error::Vanished { pid: client.host })?;
    Ok(process.remote(client.table.1.unwrap_or(0))?)
}

fn close(held: &mut Held, client: &Client, number: i32) -> Result<(), Error> {
    remote(held, client)?.call("close", libc::SYS_close, [number as u64, 0, 0, 0, 0, 0])?;
    Ok(())
}

/// Makes the new socket, and sees that the server can be reached: no more than that can fail.
fn make(held: &mut Held, seen: &Seen, client: &Client) -> Result<New, Error> {
    let failed = |e| Error::of(client.host, "making a socket like the one that waits to be accepted")(e);
    let mut remote = remote(held, client)?;
    let kind = seen.kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let number = remote.call("socket", libc::SYS_socket, [libc::AF_UNIX as u64, kind as u64, 0, 0, 0, 0])? as i32;
    let reached = seen.file.map_or(Ok(true), |file| reaches(&mut remote, &seen.address, file));
    drop(remote);
    let copy = || {
        let process = held.processes.get(client.table.0).ok_or(io::ErrorKind::NotFound)?;
        let copy = process.descriptor(client.table.1, number)?;
        options::set_early(copy.as_fd(), &client.options)?;
        options::widen(copy.as_fd())?;
        Ok(copy)
    };
    let made = match (reached, copy()) {
        (Ok(true), Ok(copy)) => return Ok(New { number, copy }),
        (Ok(false), _) => Err(failed(io::Error::other("it does not reach its server by name"))),
        (Err(e), _) => Err(e),
        (_, Err(e)) => Err(failed(e)),
    };
    close(held, client, number)?;
    made
}

/// Whether a process finds the server's file under its name, and may connect to it.
fn reaches(remote: &mut Remote<'_>, address: &[u8], file: (u64, u64)) -> Result<bool, Error> {
    let (path, out) = (remote.scratch(), remote.scratch().0 + 256);
    // Behind the family.
    remote.write(path, address.get(2..).unwrap_or_default())?;
    remote.write(Addr(path.0 + address.len() as u64), &[0])?;
    let here = libc::AT_FDCWD as u64;
    if remote.try_call(libc::SYS_newfstatat, [here, path.0, out, 0, 0, 0])?.is_err() {
        return Ok(false);
    }
    let mut stat = [0; 16];
    remote.read(Addr(out), &mut stat)?;
    let word = |at: usize| stat.get(at..at + size_of::<u64>()).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes);
    // st_dev and st_ino come first.
    if (word(0), word(8)) != (Some(file.0), Some(file.1)) {
        return Ok(false);
    }
    let as_it_is = [here, path.0, libc::W_OK as u64, libc::AT_EACCESS as u64, 0, 0];
    Ok(remote.try_call(libc::SYS_faccessat2, as_it_is)?.is_ok())
}

/// Accepts the oldest connection, looks at what was sent over it, and has the new socket take its place.
///
/// Of one whose client is gone also tells what is known of that.
fn again(held: &mut Held, seen: &Seen, client: &Client, new: &New, inside: &Inside) -> Result<(Queue, Lost), Error> {
    let failed = |step| Error::of(client.host, step);
    let accepting = "accepting a connection in place of its server";
    socket::events(seen.listener.as_fd(), libc::POLLIN)
        .and_then(|events| if events == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) })
        .map_err(failed(accepting))?;
    let (accepted, lost) = match client.file {
        Some(_) => (socket::accept(seen.listener.as_fd()).map_err(failed(accepting))?, Lost::default()),
        None => accept_as(held, client, inside)?,
    };
    let queue = if seen.kind == libc::SOCK_STREAM {
        queue::unix_stream(accepted.as_fd()).map(Some)
    } else {
        queue::datagrams(accepted.as_fd(), Of::Unix)
    };
    let mut remote = remote(held, client)?;
    // Abstract names are free again; a path would be a new file.
    if let Some(name) = lost.name.as_ref().filter(|name| name.0.first() == Some(&0)) {
        let _ = bind(&mut remote, new, &unix::sockaddr(name))?;
    }
    remote.write(remote.scratch(), &seen.address)?;
    let to = [new.number as u64, remote.scratch().0, seen.address.len() as u64, 0, 0, 0];
    if let Err(e) = remote.call("connect", libc::SYS_connect, to) {
        drop(remote);
        close(held, client, new.number)?;
        return Err(e.into());
    }
    drop(remote);
    let queue = queue.and_then(|queue| queue.ok_or(io::ErrorKind::InvalidData.into()));
    let queue = put_in_place(held, seen, client, new, queue)?
        .map_err(failed("sending again what was sent over a connection that waits to be accepted"))?;
    Ok((queue, lost))
}

fn bind(remote: &mut Remote<'_>, new: &New, name: &[u8]) -> Result<io::Result<u64>, Error> {
    remote.write(remote.scratch(), name)?;
    let args = [new.number as u64, remote.scratch().0, name.len() as u64, 0, 0, 0];
    Ok(remote.try_call(libc::SYS_bind, args)?)
}

/// Gives the new socket, connected, all that its client's had, and sends what that had sent. Whatever fails, it is in that
/// one's place.
fn put_in_place(
    held: &mut Held,
    seen: &Seen,
    client: &Client,
    new: &New,
    queue: io::Result<Queue>,
) -> Result<io::Result<Queue>, Error> {
    let mut remote = remote(held, client)?;
    for &(number, cloexec) in &client.numbers {
        let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
        remote.call("dup3", libc::SYS_dup3, [new.number as u64, number as u64, flags as u64, 0, 0, 0])?;
    }
    drop(remote);
    let moved = held.replace_socket(client.inode, new.copy.as_fd());
    let mut remote = self::remote(held, client)?;
    // It is free now that the old socket is no more.
    let named = client.name.as_ref().map_or(Ok(Ok(0)), |name| bind(&mut remote, new, name))?;
    let sent = match queue {
        Ok(queue) => send(&mut remote, new, seen.kind, &queue)?.map(|()| queue),
        Err(e) => Err(e),
    };
    remote.call("close", libc::SYS_close, [new.number as u64, 0, 0, 0, 0, 0])?;
    for (epoll, watch) in &client.watches {
        let event = [&watch.events.to_ne_bytes()[..], &watch.data.to_ne_bytes()].concat();
        remote.write(remote.scratch(), &event)?;
        let add = [*epoll as u64, libc::EPOLL_CTL_ADD as u64, watch.fd as u64, remote.scratch().0, 0, 0];
        remote.call("epoll_ctl", libc::SYS_epoll_ctl, add)?;
    }
    drop(remote);
    let fd = new.copy.as_fd();
    Ok(moved.and(named).and(sent).and_then(|queue| {
        options::reset_send_buffer(fd, fresh_buffer()?)?;
        options::set_late(fd, &client.options)?;
        socket::shut(fd, client.shutdown)?;
        fds::fcntl(fd, libc::F_SETFL, client.flags.into())?;
        Ok(queue)
    }))
}

/// Has a server accept a connection, and say who has made it and under which name: a pid that is no more can't be translated from outside.
fn accept_as(held: &mut Held, client: &Client, inside: &Inside) -> Result<(OwnedFd, Lost), Error> {
    let mut remote = remote(held, client)?;
    let args = [client.door as u64, 0, 0, libc::SOCK_CLOEXEC as u64, 0, 0];
    let number = remote.call("accept4", libc::SYS_accept4, args)? as i32;
    let mut ucred = [0; 12];
    let told = remote_option(&mut remote, number, SO_PEERCRED, &mut ucred);
    drop(remote);
    let process = held.processes.get(client.table.0).ok_or(Error::Vanished { pid: client.host })?;
    let copy = process.descriptor(client.table.1, number);
    close(held, client, number)?;
    told?;
    let copy = copy.map_err(Error::of(client.host, "copying a descriptor"))?;
    let pid = parse(&ucred).map(|[pid, ..]| Pid(pid as i32)).filter(|pid| pid.0 != 0);
    // Users and groups are those that we see.
    let ucred = socket::option(copy.as_fd(), libc::SOL_SOCKET, SO_PEERCRED, 12).unwrap_or_default();
    let peer = parse(&ucred).and_then(|ids| credentials(ids, inside));
    let peer = peer.map(|peer| Credentials { pid: pid.unwrap_or(peer.pid), ..peer });
    let name = socket::peer_name(copy.as_fd()).ok().and_then(|address| unix::name(&address));
    Ok((copy, Lost { peer, name }))
}

/// The size of a send buffer that nobody has chosen.
fn fresh_buffer() -> io::Result<(i32, Option<i32>)> {
    options::send_buffer(socket::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?.as_fd())
}

/// Has the process of a new socket send what its client has sent, from memory that it has for as long as that takes.
fn send(remote: &mut Remote<'_>, new: &New, kind: i32, queue: &Queue) -> Result<io::Result<()>, Error> {
    let most = queue.messages.iter().map(|message| message.bytes.len()).max().unwrap_or(0).max(1) as u64;
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let room = match remote.try_call(libc::SYS_mmap, [0, most, prot as u64, flags as u64, u64::MAX, 0])? {
        Ok(room) => room,
        Err(e) => return Ok(Err(e)),
    };
    let sent = send_from(remote, room, new, kind, queue);
    remote.call("munmap", libc::SYS_munmap, [room, most, 0, 0, 0, 0])?;
    sent
}

fn send_from(remote: &mut Remote<'_>, room: u64, new: &New, kind: i32, queue: &Queue) -> Result<io::Result<()>, Error> {
    let mut at = 0;
    for message in &queue.messages {
        let size = message.bytes.len();
        remote.write(Addr(room), &message.bytes)?;
        let urgent = kind == libc::SOCK_STREAM && size == 1 && queue.urgent.at == Some(at);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | if urgent { libc::MSG_OOB } else { 0 };
        let mut done = 0;
        loop {
            let left = (size - done) as u64;
            let args = [new.number as u64, room + done as u64, left, flags as u64, 0, 0];
            match remote.try_call(libc::SYS_sendto, args)? {
                Ok(sent) => done += sent as usize,
                Err(e) => return Ok(Err(e)),
            }
            if done >= size {
                break;
            }
        }
        at += size;
    }
    Ok(Ok(()))
}

/// What a client has sent, and who it was, as the program sees him.
fn model(contents: &mut Contents, queue: Queue, sender: Option<Pid>) -> Early {
    let of = |message: &queue::Message| {
        let credentials = message.credentials.zip(sender).map(|([_, uid, gid], pid)| Credentials { pid, uid, gid });
        Message { size: message.bytes.len() as u64, credentials, from: None, rights: Vec::new() }
    };
    let messages = queue.messages.iter().map(of).collect();
    let bytes: Vec<u8> = queue.messages.into_iter().flat_map(|message| message.bytes).collect();
    let content = (!bytes.is_empty()).then(|| contents.bytes(bytes));
    Early { messages, content, urgent: queue.urgent.at.map(|at| at as u64) }
}

fn unix_of(files: &mut [OpenFile], file: u32) -> Option<&mut UnixSocket> {
    match files.get_mut(file as usize).map(|f| &mut f.kind) {
        Some(Kind::Socket(Socket { family: Family::Unix(unix), .. })) => Some(unix),
        _ => None,
    }
}

/// Why a connection is refused whose bytes can't be had.
pub(super) fn reason(why: &str) -> String {
    format!("{EARLY}, and can't be looked at: {why}")
}
