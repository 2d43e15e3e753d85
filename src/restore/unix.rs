//! UNIX sockets.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::model::sockets::{Credentials, Family, Socket};
use crate::model::unix::{Link, UnixSocket};

use super::Error;
use super::sockets::{Which, Work, all};
use super::stub::Puppet;

/// Whom SO_PEERCRED is to show.
pub fn maker(socket: &Socket) -> Option<Credentials> {
    let Family::Unix(unix) = &socket.family else { return None };
    unix.peer
}

/// Makes all UNIX sockets, connected as they were; the peers of those whose peer was closed, too.
pub fn make(work: &mut Work<'_>) -> Result<(), Error> {
    for (index, socket) in all(work.checkpoint) {
        let Family::Unix(unix) = &socket.family else { continue };
        let other = match unix.link {
            Link::None => {
                let mut batch = work.helper(None)?.batch();
                batch.call("socket", libc::SYS_socket, &[libc::AF_UNIX as u64, socket.kind as u64, 0]);
                let fd = work.helper(None)?.run(batch)?.last().copied().unwrap_or(0);
                work.settle(Which::File(index), fd as i32)?;
                continue;
            }
            Link::To(other) if other < index => continue,
            Link::To(other) => Which::File(other),
            Link::Closed => Which::PeerOf(index),
        };
        let [one, two] = pair(work.helper(maker(socket))?, socket.kind)?;
        work.settle(Which::File(index), one)?;
        work.settle(other, two)?;
    }
    Ok(())
}

/// socketpair(2).
fn pair(puppet: &mut Puppet, kind: i32) -> Result<[i32; 2], Error> {
    let mut batch = puppet.batch();
    let at = batch.data(&[0; 8]);
    batch.call("socketpair", libc::SYS_socketpair, &[libc::AF_UNIX as u64, kind as u64, 0, at.0]);
    puppet.run(batch)?;
    let mut fds = [0; 8];
    puppet.read(at, &mut fds)?;
    let [a, b, c, d, e, f, g, h] = fds;
    Ok([i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h])])
}

/// Puts back what waited to be read, and closes the peer that was closed.
pub fn fill(work: &mut Work<'_>, index: u32, socket: &Socket, unix: &UnixSocket) -> Result<(), Error> {
    let from = match unix.link {
        Link::None => return Ok(()),
        Link::To(other) => Which::File(other),
        Link::Closed => Which::PeerOf(index),
    };
    if !socket.queue.is_empty() {
        work.refill(socket, from, Which::File(index))?;
    }
    if unix.link == Link::Closed {
        if unix.reset {
            let sent = crate::sys::socket::send(work.copy(Which::File(index))?, b"x", None, &[]);
            sent.map_err(|e| Error::step("filling a socket", 0, e))?;
        }
        work.close(from)?;
    }
    Ok(())
}

/// shutdown(2) of the sides in `mask`: receiving 1, sending 2.
pub fn shut(fd: BorrowedFd<'_>, mask: u8) -> io::Result<()> {
    use nix::sys::socket::{Shutdown, shutdown};
    let how = match mask & 3 {
        0 => return Ok(()),
        1 => Shutdown::Read,
        2 => Shutdown::Write,
        _ => Shutdown::Both,
    };
    match shutdown(fd.as_raw_fd(), how) {
        // A stream that was never connected can't be shut down, and its peer, which was closed, has done it.
        Err(nix::Error::ENOTCONN) => Ok(()),
        other => other.map_err(io::Error::from),
    }
}
