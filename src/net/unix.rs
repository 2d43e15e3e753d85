//! Addresses of UNIX sockets.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use crate::model::Name;
use crate::sys::socket;

/// Bytes of `sun_path`.
pub const LONGEST: usize = 108;

/// The name in a `sockaddr` of AF_UNIX: a path, or NUL and an abstract name. `None` if it has none.
pub fn name(address: &[u8]) -> Option<Name> {
    let name = address.get(2..)?;
    match name.first()? {
        0 => Some(Name(name.to_vec())),
        _ => Some(Name(name.split(|&b| b == 0).next()?.to_vec())),
    }
}

/// The `sockaddr` of a name, as long as it has to be: an abstract name may end in NULs.
pub fn sockaddr(name: &Name) -> Vec<u8> {
    let mut out = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    out.extend(&name.0);
    if name.0.first() != Some(&0) {
        out.push(0);
    }
    out
}

/// For a person: an abstract name starts with `@`.
pub fn display(name: &Name) -> String {
    match name.0.split_first() {
        Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest).trim_end_matches('\0')),
        _ => name.display(),
    }
}

/// Whether somebody has the socket whose file is at `path`. A datagram socket of ours connects to it: one that listens
/// refuses that unnoticed, for its type (net/unix/af_unix.c, unix_find_bsd).
///
/// # Errors
/// What socket(2) says.
pub fn lives(path: &Path) -> io::Result<bool> {
    let probe = socket::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
    let connected = socket::connect(probe.as_fd(), &sockaddr(&Name::from(path)));
    Ok(!connected.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    #[test]
    fn names_and_addresses() {
        for text in ["/tmp/s", "relative", "\0abstract", "\0\0with\0zeros\0"] {
            assert_eq!(name(&sockaddr(&Name::from(text))), Some(Name::from(text)));
        }
        assert_eq!(name(&[1, 0]), None);
        assert_eq!((display(&Name::from("\0x")), display(&Name::from("/x"))), ("@x".into(), "/x".into()));
    }

    #[test]
    fn who_lives() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let stream = UnixListener::bind(&a).unwrap();
        let datagram = UnixDatagram::bind(&b).unwrap();
        stream.set_nonblocking(true).unwrap();
        assert!(lives(&a).unwrap() && lives(&b).unwrap());
        assert_eq!(stream.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop((stream, datagram));
        assert!(!lives(&a).unwrap() && !lives(&b).unwrap());
    }
}
