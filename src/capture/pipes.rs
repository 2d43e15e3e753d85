//! Pipes and FIFOs: which lead outside, and what is in the others. Nothing is taken out: tee(2) copies.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::model::Name;
use crate::model::fd::Kind;
use crate::model::pipes::PipeEnd;
use crate::sys::fds;

use super::Error;
use super::fd::{Group, O_DIRECT, SeenFd, Work};
use super::stdio::{self, Roles};
use super::view::Place;

const F_SETPIPE_SZ: i32 = 1031;
const F_GETPIPE_SZ: i32 = 1032;

/// What each description of a pipe or FIFO is, by its first holder; refused ones are missing.
pub(super) fn capture(work: &mut Work<'_>, groups: &[Group], roles: &Roles) -> Result<HashMap<usize, Kind>, Error> {
    let mut pipes: BTreeMap<(u64, u64), Vec<usize>> = BTreeMap::new();
    for first in groups.iter().filter_map(|g| g.holders.first()) {
        if let Some(s) = work.seen.get(*first).filter(|s| s.meta.mode() & libc::S_IFMT == libc::S_IFIFO) {
            pipes.entry(s.key()).or_default().push(*first);
        }
    }
    let mut out = HashMap::new();
    for (number, (key, firsts)) in pipes.into_iter().enumerate() {
        let ends: Vec<&SeenFd> = firsts.iter().filter_map(|i| work.seen.get(*i)).collect();
        let Some(any) = ends.first() else { continue };
        let copy = any.copy(work.held)?;
        let failed = |step| Error::of(any.host, step);
        let both = ends.iter().any(|s| s.reads()) && ends.iter().any(|s| s.writes());
        if !both && other_side_lives(copy.as_fd()).map_err(failed("polling a pipe"))? {
            for (first, s) in firsts.iter().zip(&ends) {
                match roles.get(&key) {
                    Some(&role) => drop(out.insert(*first, Kind::Stdio(stdio::outside(s, role, false)))),
                    None => work.refusals.add(
                        s.pid,
                        s.object(&s.name()),
                        "the other side of this pipe is outside the tree, and it is not a standard stream",
                        &format!("start the program without it: `{}>&-` at the end of its command line", s.fd),
                    ),
                }
            }
            continue;
        }
        if let Some(packets) = ends.iter().find(|s| s.flags() & O_DIRECT != 0) {
            work.refusals.add(
                packets.pid,
                packets.object(&packets.name()),
                "packet pipes (O_DIRECT) are not supported",
                "",
            );
            continue;
        }
        let capacity = fds::fcntl(copy.as_fd(), F_GETPIPE_SZ, 0).map_err(failed("asking for a pipe's size"))? as u64;
        let reader = match ends.iter().find(|s| s.reads()) {
            Some(s) => Some(s.copy(work.held)?),
            None => None,
        };
        let bytes = match content(&copy, reader, capacity).map_err(failed("copying a pipe's content"))? {
            Some(bytes) => bytes,
            None => {
                let reason = "there is more in this pipe than an ordinary user may copy";
                work.refusals.add(
                    any.pid,
                    any.object(&any.name()),
                    reason,
                    "save it as root, or when the pipe is less full",
                );
                continue;
            }
        };
        let content = (!bytes.is_empty()).then(|| work.contents.bytes(bytes));
        for (first, s) in firsts.iter().zip(&ends) {
            let end = PipeEnd { pipe: number as u32, fifo: fifo(work, s), capacity, content };
            out.insert(*first, Kind::Pipe(end));
        }
    }
    Ok(out)
}

/// The path of a FIFO that is still there; without one it is as good as a pipe.
fn fifo(work: &Work<'_>, s: &SeenFd) -> Option<Name> {
    let (dev, ino) = s.key();
    match work.view.find(&s.link, dev, ino) {
        Place::Present { path, .. } if s.link.starts_with(b"/") => Some(Name(path)),
        _ => None,
    }
}

/// Whether somebody holds the side of a pipe that `end` is not. For a pipe of which the tree has one side only.
fn other_side_lives(end: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = [PollFd::new(end, PollFlags::POLLIN | PollFlags::POLLOUT)];
    poll(&mut polled, PollTimeout::ZERO)?;
    let events = polled[0].revents().unwrap_or(PollFlags::empty());
    Ok(!events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}

/// What is in a pipe, of which `end` is any end and `reader` a read end if the tree has one; `None` if there is more
/// than we are allowed to hold.
fn content(end: &OwnedFd, reader: Option<OwnedFd>, capacity: u64) -> io::Result<Option<Vec<u8>>> {
    let len = fds::readable(end.as_fd())?;
    if len == 0 {
        return Ok(Some(Vec::new()));
    }
    let reader = match reader {
        Some(reader) => reader,
        // A FIFO that is only being written: a new reader of it takes nothing away.
        None => OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(format!("/proc/self/fd/{}", end.as_raw_fd()))?
            .into(),
    };
    let (ours, into) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    // Refused beyond what an ordinary user may have: then the copy comes out short, if it does.
    let _ = fds::fcntl(into.as_fd(), F_SETPIPE_SZ, capacity as i64);
    let copied = match fds::tee(reader.as_fd(), into.as_fd(), len) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
        other => other?,
    };
    if copied != len {
        return Ok(None);
    }
    drop(into);
    let mut bytes = Vec::with_capacity(len);
    File::from(ours).read_to_end(&mut bytes)?;
    Ok((bytes.len() == len).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

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
            let got = content(&read, Some(read.try_clone().unwrap()), 65536).unwrap();
            assert_eq!(got.as_deref(), Some(&sent[..]));
        }
        drop(write);
        let mut left = Vec::new();
        File::from(read).read_to_end(&mut left).unwrap();
        assert_eq!(left, sent);
    }

    #[test]
    fn many_small_writes_fill_a_large_pipe() {
        let (read, write) = pipe();
        fds::fcntl(write.as_fd(), F_SETPIPE_SZ, 1 << 20).unwrap();
        let mut sent = 0u32;
        // With O_DIRECT every write takes a slot of its own, as small writes by splice do.
        fds::fcntl(write.as_fd(), libc::F_SETFL, i64::from(libc::O_DIRECT | libc::O_NONBLOCK)).unwrap();
        let mut write = File::from(write);
        while write.write(b"x").is_ok() {
            sent += 1;
        }
        assert_eq!(sent, 256);
        let got = content(&read, Some(read.try_clone().unwrap()), 1 << 20).unwrap().unwrap();
        assert!(got.iter().all(|b| *b == b'x'));
    }

    #[test]
    fn whether_the_other_side_lives() {
        let (read, write) = pipe();
        assert!(other_side_lives(read.as_fd()).unwrap());
        assert!(other_side_lives(write.as_fd()).unwrap());
        drop(write);
        assert!(!other_side_lives(read.as_fd()).unwrap());
        let (read, write) = pipe();
        drop(read);
        assert!(!other_side_lives(write.as_fd()).unwrap());
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
        assert!(!other_side_lives(write.as_fd()).unwrap());
        assert_eq!(content(&write.into(), None, 65536).unwrap().as_deref(), Some(&b"abc"[..]));
    }
}
