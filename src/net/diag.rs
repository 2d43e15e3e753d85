//! What the kernel tells of sockets over sock_diag(7): the kinship of UNIX sockets, which no file of /proc shows.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::model::Name;

/// `struct nlmsghdr` and `struct unix_diag_msg` (linux/netlink.h, linux/unix_diag.h).
const HEADER: usize = 16;
const UNIX_MESSAGE: usize = 16;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// UDIAG_SHOW_NAME, VFS, PEER, ICONS, RQLEN.
const SHOW: u32 = 0x1f;

/// A UNIX socket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unix {
    /// SOCK_STREAM 1, SOCK_DGRAM 2, SOCK_SEQPACKET 5.
    pub kind: u8,
    /// It listens.
    pub listening: bool,
    /// Its own name as in `sun_path`; an abstract one starts with NUL.
    pub name: Option<Name>,
    /// Inode and device of the file it is bound to.
    pub file: Option<(u32, u32)>,
    /// Inode of the socket it is connected to; 0 for one that is closed or not accepted yet.
    pub peer: Option<u64>,
    /// Of one that listens: inodes of those that wait to be accepted, oldest first; 0 for one that is closed.
    pub waiting: Vec<u64>,
    /// RCV_SHUTDOWN 1, SEND_SHUTDOWN 2.
    pub shutdown: u8,
    /// Bytes that can be read (of datagrams: of the first); of one that listens: connections waiting.
    pub readable: u32,
    /// Bytes sent and not yet read, with what the kernel needs for them; of one that listens: its backlog.
    pub sent: u32,
}

/// All UNIX sockets of our network namespace, by inode.
///
/// # Errors
/// `NotFound` where the kernel lacks `unix_diag`; else what socket(2), send(2) and recv(2) say.
pub fn unix() -> io::Result<HashMap<u64, Unix>> {
    let mut request = Vec::with_capacity(24);
    request.push(libc::AF_UNIX as u8);
    request.extend([0; 3]);
    for word in [u32::MAX, 0, SHOW, 0, 0] {
        request.extend(word.to_ne_bytes());
    }
    let mut out = HashMap::new();
    dump(&request, |payload| {
        // Those that nobody has accepted yet have none.
        if let Some((inode, socket)) = parse_unix(payload).filter(|(inode, _)| *inode != 0) {
            out.insert(inode, socket);
        }
    })?;
    Ok(out)
}

/// Sends a request for all that match, and hands the answers over.
pub(super) fn dump(request: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let family = SockProtocol::NetlinkSockDiag;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, family)?;
    let mut message = Vec::with_capacity(HEADER + request.len());
    message.extend(((HEADER + request.len()) as u32).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    // NLM_F_REQUEST | NLM_F_DUMP
    message.extend(0x301u16.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(request);
    send(netlink.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut buf = vec![0u8; 64 * 1024];
    loop {
        let len = recv(netlink.as_raw_fd(), &mut buf, MsgFlags::empty())?;
        let mut rest = buf.get(..len).unwrap_or_default();
        while let Some((kind, payload, after)) = next_message(rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let errno = number(payload, 0).map_or(libc::EIO, |e| (e as i32).saturating_neg());
                    return Err(io::Error::from_raw_os_error(errno));
                }
                _ => each(payload),
            }
            rest = after;
        }
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn next_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = number(bytes, 0)? as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let payload = bytes.get(HEADER..len)?;
    Some((kind, payload, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

pub(super) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The attributes of a message: number and value.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// One `unix_diag_msg` with its attributes.
fn parse_unix(payload: &[u8]) -> Option<(u64, Unix)> {
    const TCP_LISTEN: u8 = 10;
    let [_, kind, state, _] = *payload.first_chunk()?;
    let inode = u64::from(number(payload, 4)?);
    let mut out = Unix { kind, listening: state == TCP_LISTEN, ..Unix::default() };
    for (attribute, value) in attributes(payload.get(UNIX_MESSAGE..)?) {
        match attribute {
            0 => out.name = Some(Name(value.to_vec())),
            1 => out.file = number(value, 0).zip(number(value, 4)),
            2 => out.peer = number(value, 0).map(u64::from),
            3 => out.waiting = value.chunks_exact(4).filter_map(|c| number(c, 0)).map(u64::from).collect(),
            4 => (out.readable, out.sent) = number(value, 0).zip(number(value, 4))?,
            6 => out.shutdown = *value.first()?,
            _ => {}
        }
    }
    Some((inode, out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn inode(of: &impl AsRawFd) -> u64 {
        std::fs::metadata(format!("/proc/self/fd/{}", of.as_raw_fd())).unwrap().ino()
    }

    #[test]
    fn kinship() {
        let (a, b) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut &a, b"four").unwrap();
        b.shutdown(std::net::Shutdown::Write).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let client = UnixStream::connect(dir.path().join("s")).unwrap();
        let all = unix().unwrap();
        let (one, other) = (&all[&inode(&a)], &all[&inode(&b)]);
        assert_eq!((one.peer, one.shutdown, one.kind), (Some(inode(&b)), 1, 1));
        assert_eq!((other.peer, other.shutdown, other.readable), (Some(inode(&a)), 2, 4));
        assert!(one.sent > 4);
        let listens = &all[&inode(&listener)];
        assert!(listens.listening && listens.file.is_some() && listens.peer.is_none());
        assert_eq!((listens.waiting.clone(), listens.readable), (vec![inode(&client)], 1));
        assert!(listens.name.as_ref().unwrap().as_path().starts_with(dir.path()));
        assert_eq!(all[&inode(&client)].peer, Some(0));
        drop(b);
        assert_eq!(unix().unwrap()[&inode(&a)].peer, Some(0));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse_unix(&bytes);
            let _ = next_message(&bytes);
        }
    }
}
