//! UNIX sockets.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use crate::model::Pid;
use crate::model::sockets::{Family, Socket};
use crate::model::unix::{Link, UnixSocket};
use crate::net::diag::Unix;
use crate::net::queue::{self, Looking};
use crate::sys::socket;
use crate::tracer::Remote;

use super::fd::{SeenFd, Work};
use super::sockets::{Found, credentials, refuse, remote_option};
use super::{Error, Inside};

const SO_PEERCRED: i32 = 17;
const STREAM: u8 = 1;

/// Whether a socket is the tree's own: its other end is in the tree, or has been closed, or there is none. A standard
/// stream of the root (`streams`) counts only with its other end in the tree.
pub(super) fn belongs(inode: u64, all: &HashMap<u64, Unix>, tree: &HashSet<u64>, streams: &HashSet<u64>) -> bool {
    match all.get(&inode) {
        Some(Unix { peer: Some(peer), .. }) if tree.contains(peer) => true,
        Some(_) if streams.contains(&inode) => false,
        // 0 is also a connection that nobody has accepted yet.
        Some(Unix { peer: Some(0), .. }) => !all.values().any(|s| s.waiting.contains(&inode)),
        Some(Unix { peer, listening, .. }) => peer.is_none() && !listening,
        None => false,
    }
}

/// A UNIX socket of the tree; `None` if it was refused. `file_of`: indices of descriptions by inode.
pub(super) fn capture(
    work: &mut Work<'_>,
    s: &SeenFd,
    copy: &OwnedFd,
    found: &Found,
    inside: &Inside,
    file_of: &HashMap<u64, u32>,
) -> Result<Option<Socket>, Error> {
    let failed = |step| Error::of(s.host, step);
    let Some(seen) = found.unix.get(&s.meta.ino()) else { return Ok(None) };
    let peer = seen.peer.and_then(|p| found.unix.get(&p));
    if seen.name.is_some() || peer.is_some_and(|p| p.name.is_some()) {
        refuse(work, s, "sockets with a name are not supported", "");
        return Ok(None);
    }
    let mutual = peer.is_none_or(|p| p.peer == Some(s.meta.ino()));
    if !mutual {
        refuse(work, s, "it is connected to a socket without a name that is not connected to it", "");
        return Ok(None);
    }
    if queue::has_urgent(copy.as_fd()).map_err(failed("looking for urgent data"))? {
        refuse(work, s, "urgent data (MSG_OOB) waits in it", "save it when that has been read");
        return Ok(None);
    }
    let queue = if seen.kind == STREAM {
        queue::unix_stream(copy.as_fd()).map(Some)
    } else {
        queue::datagrams(copy.as_fd(), true)
    };
    let Some(queue) = queue.map_err(failed("looking into a socket"))? else {
        refuse(work, s, "an error waits in it, in front of its messages", "save it when that has been read");
        return Ok(None);
    };
    let link = match seen.peer {
        None => Link::None,
        Some(inode) => file_of.get(&inode).map_or(Link::Closed, |&file| Link::To(file)),
    };
    let ucred = socket::option(copy.as_fd(), libc::SOL_SOCKET, SO_PEERCRED, 12)
        .map_err(failed("asking for a socket's peer"))?;
    let family = UnixSocket { link, peer: parse(&ucred).and_then(|c| credentials(c, inside)), reset: queue.error };
    super::sockets::model(work, s, copy, queue, Family::Unix(family), seen.shutdown, inside)
}

fn parse(ucred: &[u8]) -> Option<[u32; 3]> {
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
    let mut looking = Looking::begin(copy.as_fd(), true).map_err(failed())?;
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
