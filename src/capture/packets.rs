//! How the content of a pipe is cut into packets (O_DIRECT, pipe(2)). Nothing tells but reading: one read takes one
//! packet and what comes before it as a stream. tee(2) copies the cuts too, so a copy is read, again and again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;

use crate::model::pipes::Piece;
use crate::sys::fds;

/// The content of `copy`, a pipe of ours that is emptied on the way, and its pieces; no pieces if none is a packet.
pub(super) fn read(copy: &OwnedFd, capacity: u64) -> io::Result<(Vec<u8>, Vec<Piece>)> {
    let mut bytes = Vec::with_capacity(fds::readable(copy.as_fd())?);
    let mut pieces: Vec<Piece> = Vec::new();
    loop {
        let left = fds::readable(copy.as_fd())?;
        if left == 0 {
            break;
        }
        let packet = starts_with_packet(copy.as_fd())?;
        let len = if packet { left } else { stream(copy, left, capacity)? };
        let got = take(copy.as_fd(), len, &mut bytes)?;
        match pieces.last_mut().filter(|last| !last.packet && !packet) {
            Some(last) => last.len += got as u32,
            None => pieces.push(Piece { len: got as u32, packet }),
        }
    }
    if pieces.iter().all(|p| !p.packet) {
        pieces.clear();
    }
    Ok((bytes, pieces))
}

/// One read of at most `len` bytes; how many came.
fn take(from: BorrowedFd<'_>, len: usize, to: &mut Vec<u8>) -> io::Result<usize> {
    let at = to.len();
    to.resize(at + len, 0);
    let got = nix::unistd::read(from, to.get_mut(at..).unwrap_or_default())?;
    to.truncate(at + got);
    if got == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(got) }
}

/// Whether the first byte of a pipe belongs to a packet: a read of it alone and of a byte behind it stops at its end then.
fn starts_with_packet(pipe: BorrowedFd<'_>) -> io::Result<bool> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    if fds::tee(pipe, write.as_fd(), 1)? != 1 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    nix::unistd::write(&write, b"x")?;
    Ok(nix::unistd::read(read.as_fd(), &mut [0; 2])? == 1)
}

/// How many bytes of a stream a pipe starts with, which does not start with a packet. `left`: bytes in it.
fn stream(pipe: &OwnedFd, left: usize, capacity: u64) -> io::Result<usize> {
    // A read of all of them stops after the first packet.
    let (_, end) = peek(pipe, left, capacity)?;
    // Its last byte is in a packet or not; so is any before it that cannot be read up to without losing the rest.
    let whole = |len: usize| peek(pipe, len, capacity).map(|(copy, got)| (got == len).then_some(copy));
    if let Some(rest) = whole(end - 1)? {
        let cut = end < left || starts_with_packet(rest.as_fd())?;
        return Ok(if cut { end - 1 } else { end });
    }
    let (mut stream, mut beyond) = (1, end - 1);
    while beyond - stream > 1 {
        let middle = stream + (beyond - stream) / 2;
        match whole(middle)? {
            Some(_) => stream = middle,
            None => beyond = middle,
        }
    }
    Ok(stream)
}

/// Reads `len` bytes of a fresh copy: the copy, and how many bytes are gone from it.
fn peek(pipe: &OwnedFd, len: usize, capacity: u64) -> io::Result<(OwnedFd, usize)> {
    let read = copy(pipe.as_fd(), capacity)?;
    let before = fds::readable(read.as_fd())?;
    if len > 0 {
        take(read.as_fd(), len, &mut Vec::new())?;
    }
    let gone = before - fds::readable(read.as_fd())?;
    Ok((read, gone))
}

/// A pipe of ours with all that is in `pipe`; `QuotaExceeded` if that is more than the user may hold in a pipe.
pub(super) fn copy(pipe: BorrowedFd<'_>, capacity: u64) -> io::Result<OwnedFd> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    // Refused beyond what an ordinary user may have: then the copy comes out short, if it does.
    let _ = fds::fcntl(write.as_fd(), libc::F_SETPIPE_SZ, capacity as i64);
    let len = fds::readable(pipe)?;
    match fds::tee(pipe, write.as_fd(), len) {
        Ok(copied) if copied == len => Ok(read),
        Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
        _ => Err(io::ErrorKind::QuotaExceeded.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    /// Writes pieces and reads them back from a copy.
    fn round(pieces: &[(usize, bool)]) -> (Vec<Piece>, bool) {
        let (read_end, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        fds::fcntl(write.as_fd(), libc::F_SETPIPE_SZ, 1 << 20).unwrap();
        let mut sent = Vec::new();
        for &(len, packet) in pieces {
            // By way of another pipe: a packet is lost among the bytes of a stream if it fits behind them in their page.
            let flags = if packet { OFlag::O_DIRECT | OFlag::O_CLOEXEC } else { OFlag::O_CLOEXEC };
            let (from, into) = nix::unistd::pipe2(flags).unwrap();
            fds::fcntl(into.as_fd(), libc::F_SETPIPE_SZ, 1 << 20).unwrap();
            let bytes: Vec<u8> = (sent.len()..sent.len() + len).map(|i| (i * 7 % 251) as u8).collect();
            assert_eq!(File::from(into).write(&bytes).unwrap(), len);
            assert_eq!(fds::tee(from.as_fd(), write.as_fd(), len).unwrap(), len);
            sent.extend(bytes);
        }
        let (bytes, found) = read(&copy(read_end.as_fd(), 1 << 20).unwrap(), 1 << 20).unwrap();
        (found, bytes == sent && fds::readable(read_end.as_fd()).unwrap() == sent.len())
    }

    #[test]
    fn cuts_are_found() {
        let packet = |len| (len, true);
        let stream = |len| (len, false);
        for pieces in [
            vec![packet(1)],
            vec![packet(4096), packet(1), packet(2)],
            vec![stream(1), packet(1)],
            vec![stream(1), packet(2), stream(1)],
            vec![stream(5000), packet(1), stream(2), packet(4096), stream(4097), packet(77)],
            vec![packet(3), stream(9000)],
            vec![stream(100_000), packet(1), packet(1)],
        ] {
            let expected: Vec<Piece> = pieces.iter().map(|&(len, packet)| Piece { len: len as u32, packet }).collect();
            assert_eq!(round(&pieces), (expected, true), "{pieces:?}");
        }
    }

    #[test]
    fn streams_have_no_pieces() {
        for len in [1, 2, 4096, 65_536, 1 << 20] {
            assert_eq!(round(&[(len, false)]), (Vec::new(), true), "{len}");
        }
        assert_eq!(round(&[(3, false), (4000, false), (90_000, false)]), (Vec::new(), true));
    }

    #[test]
    fn a_full_pipe_of_packets() {
        let (found, same) = round(&[(1, true); 256]);
        assert!(same && found == [Piece { len: 1, packet: true }; 256]);
    }
}
