//! Pipes and FIFOs: which lead outside, and what is in the others. Nothing is taken out: tee(2) copies.

use std::collections::{BTreeMap, HashMap};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::model::Name;
use crate::model::fd::Kind;
use crate::model::pipes::{Fifo, Piece, PipeEnd};
use crate::sys::fds;

use super::fd::{Group, SeenFd, Work};
use super::stdio::{self, Roles};
use super::view::Place;
use super::{Error, packets};

/// What each description of a pipe or FIFO is, by its first holder; refused ones are missing.
pub(super) fn capture(work: &mut Work<'_>, groups: &[Group], roles: &Roles) -> Result<HashMap<usize, Kind>, Error> {
    let mut pipes: BTreeMap<(u64, u64), Vec<usize>> = BTreeMap::new();
    for first in groups.iter().filter_map(|g| g.holders.first()) {
        if let Some(s) = work.seen.get(*first).filter(|s| s.file_type() == libc::S_IFIFO) {
            pipes.entry(s.key()).or_default().push(*first);
        }
    }
    let mut out = HashMap::new();
    for (number, (key, firsts)) in pipes.into_iter().enumerate() {
        let ends: Vec<&SeenFd> = firsts.iter().filter_map(|i| work.seen.get(*i)).collect();
        let copies = ends.iter().map(|s| s.copy(work.held)).collect::<Result<Vec<_>, _>>()?;
        let (Some(any), Some(copy)) = (ends.first(), copies.first()) else { continue };
        let failed = |step| Error::of(any.host, step);
        let both = ends.iter().any(|s| s.reads()) && ends.iter().any(|s| s.writes());
        let reader = ends.iter().zip(&copies).find(|(s, _)| s.reads()).map(|(_, copy)| copy);
        let outside = !both && other_side_lives(&copies, reader).map_err(failed("polling a pipe"))?;
        if let Some(&role) = roles.get(&key).filter(|_| outside) {
            for (first, s) in firsts.iter().zip(&ends) {
                out.insert(*first, Kind::Stdio(stdio::outside(s, role, false)));
            }
            continue;
        }
        let capacity =
            fds::fcntl(copy.as_fd(), libc::F_GETPIPE_SZ, 0).map_err(failed("asking for a pipe's size"))? as u64;
        // What somebody outside is to read is his.
        let readable =
            if outside && reader.is_none() { Ok(Default::default()) } else { content(copy, reader, capacity) };
        let (bytes, pieces) = match readable {
            Ok(content) => content,
            Err(e) if e.kind() == io::ErrorKind::QuotaExceeded => {
                let reason = "there is more in this pipe than this user may copy";
                let hint = "save it as root, when the pipe is less full, or with a higher \
                            /proc/sys/fs/pipe-user-pages-soft";
                work.refusals.add(any.pid, any.object(&any.name()), reason, hint);
                continue;
            }
            Err(e) => return Err(failed("copying a pipe's content")(e)),
        };
        let content = (!bytes.is_empty()).then(|| work.contents.bytes(bytes));
        for ((first, s), copy) in firsts.iter().zip(&ends).zip(&copies) {
            let fifo = fifo(work, s);
            let quiet = !both
                && !outside
                && fifo.is_some()
                && s.reads()
                && !hung_up(copy.as_fd()).map_err(failed("polling a pipe"))?;
            let end = PipeEnd { pipe: number as u32, fifo, capacity, content, pieces: pieces.clone(), quiet, outside };
            out.insert(*first, Kind::Pipe(end));
        }
    }
    Ok(out)
}

/// The FIFO, if it is one.
fn fifo(work: &Work<'_>, s: &SeenFd) -> Option<Fifo> {
    if !s.link.starts_with(b"/") {
        return None;
    }
    Some(match s.place(work.view).clone() {
        Place::Present { path, .. } => Fifo { path: Name(path), deleted: None },
        Place::Gone { .. } if work.linked.contains_key(&s.key()) => {
            Fifo { path: Name(work.linked.get(&s.key()).cloned().unwrap_or_default()), deleted: None }
        }
        Place::Gone { path } => Fifo { path: Name(path), deleted: Some(s.meta.mode() & 0o7777) },
    })
}

/// Whether somebody holds the side of a pipe of which the tree has all of `ends`; `reader` is one if they read.
fn other_side_lives(ends: &[OwnedFd], reader: Option<&OwnedFd>) -> io::Result<bool> {
    for end in ends {
        if hung_up(end.as_fd())? {
            return Ok(false);
        }
    }
    let Some(reader) = reader else { return Ok(true) };
    // The reader of a FIFO sees no hang-up before there was a writer (fs/pipe.c, fifo_open); tee(2) then gives 0 at once
    // where it would wait for a writer that is there. If the FIFO is not empty it takes a byte of it: nobody can tell then.
    let (_read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    match fds::tee(reader.as_fd(), write.as_fd(), 1) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        other => other.map(|copied| copied != 0),
    }
}

/// Whether the other side of a pipe is seen to be closed.
fn hung_up(end: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = [PollFd::new(end, PollFlags::POLLIN | PollFlags::POLLOUT)];
    poll(&mut polled, PollTimeout::ZERO)?;
    let events = polled[0].revents().unwrap_or(PollFlags::empty());
    Ok(events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}

/// What is in a pipe, of which `end` is any end and `reader` a read end if the tree has one, and how it is cut.
fn content(end: &OwnedFd, reader: Option<&OwnedFd>, capacity: u64) -> io::Result<(Vec<u8>, Vec<Piece>)> {
    if fds::readable(end.as_fd())? == 0 {
        return Ok((Vec::new(), Vec::new()));
    }
    let copy = match reader {
        Some(reader) => packets::copy(reader.as_fd(), capacity)?,
        None => {
            // A FIFO that is only being written: a new reader of it takes nothing away.
            let reader = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(format!("/proc/self/fd/{}", end.as_raw_fd()))?;
            packets::copy(reader.as_fd(), capacity)?
        }
    };
    packets::read(&copy, capacity)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap()
    }

    #[test]
    fn content_is_copied_and_stays() {
        let (read, write) = pipe();
        let mut write = File::from(write);
        let sent: Vec<u8> = (0..50_000u32).map(|i| i as u8).collect();
        write.write_all(&sent).unwrap();
        for _ in 0..2 {
            assert_eq!(content(&read, Some(&read), 65536).unwrap(), (sent.clone(), Vec::new()));
        }
        drop(write);
        let mut left = Vec::new();
        File::from(read).read_to_end(&mut left).unwrap();
        assert_eq!(left, sent);
    }

    fn lives(end: &OwnedFd, reads: bool) -> bool {
        other_side_lives(&[end.try_clone().unwrap()], reads.then_some(end)).unwrap()
    }

    #[test]
    fn whether_the_other_side_lives() {
        let (read, write) = pipe();
        assert!(lives(&read, true) && lives(&write, false));
        drop(write);
        assert!(!lives(&read, true));
        let (read, write) = pipe();
        drop(read);
        assert!(!lives(&write, false));
    }

    #[test]
    fn a_fifo_that_nobody_has_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let read = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap().into();
        assert!(!hung_up(AsFd::as_fd(&read)).unwrap() && !lives(&read, true));
        let write = OpenOptions::new().write(true).open(&path).unwrap();
        assert!(lives(&read, true));
        drop(write);
        assert!(!lives(&read, true));
    }

    #[test]
    fn a_fifo_with_writers_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let both = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut write = OpenOptions::new().write(true).open(&path).unwrap();
        write.write_all(b"abc").unwrap();
        drop(both);
        let write = write.into();
        assert!(!lives(&write, false));
        assert_eq!(content(&write, None, 65536).unwrap().0, b"abc");
    }
}
