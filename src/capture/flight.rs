//! Descriptors on their way through UNIX sockets (SCM_RIGHTS): a look at what waits there gives us copies, through which
//! they are looked at like any other. Those of sockets may have others on their way in turn.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use crate::model::fd::Kind;
use crate::net::diag::Unix;
use crate::net::queue::{self, Of, Queue};
use crate::proc::many;
use crate::tracer::Held;

use super::Error;
use super::fd::{Group, SeenFd, Work};
use super::sockets::{FEW, is_socket};

const STREAM: u8 = 1;

/// What came of a look into a socket.
#[derive(Debug)]
pub(super) enum Waiting {
    /// What waits in it, and of each message the places of its descriptors in the list of those seen.
    Messages(Queue, Vec<Vec<usize>>),
    /// Urgent data is among it, and can't be told from the rest.
    Urgent,
    /// An error stands in front of it.
    Error,
    /// We can't have as many descriptors as are in it.
    TooMany,
}

/// Looks into all UNIX sockets that `ours` says are to be saved, given the inodes of all sockets of the tree; what is on
/// its way is added to `seen`. By inode.
pub(super) fn look(
    held: &Held,
    seen: &mut Vec<SeenFd>,
    unix: &HashMap<u64, Unix>,
    ours: impl Fn(u64, &HashSet<u64>) -> bool,
) -> Result<HashMap<u64, Waiting>, Error> {
    let mut out = HashMap::new();
    let mut inodes: HashSet<u64> = seen.iter().filter(|s| is_socket(s)).map(|s| s.meta.ino()).collect();
    // A socket that has come to light may be the reason why another is ours.
    loop {
        let mut listed = HashSet::new();
        let list: Vec<(u64, &SeenFd, &Unix)> = seen
            .iter()
            .filter(|s| is_socket(s))
            .filter_map(|s| Some((s.meta.ino(), s, unix.get(&s.meta.ino())?)))
            .filter(|(inode, ..)| !out.contains_key(inode) && ours(*inode, &inodes) && listed.insert(*inode))
            .collect();
        if list.is_empty() {
            return Ok(out);
        }
        let looked =
            many::each(&list, FEW, |(inode, s, socket)| Ok::<_, Error>((*inode, s.pid, messages(held, s, socket)?)))?;
        for (inode, pid, mut waiting) in looked {
            if let Waiting::Messages(queue, rights) = &mut waiting {
                for message in &mut queue.messages {
                    let from = seen.len();
                    for fd in std::mem::take(&mut message.fds) {
                        seen.push(SeenFd::on_its_way(fd, pid)?);
                    }
                    rights.push((from..seen.len()).collect());
                    inodes.extend(seen.iter().skip(from).filter(|s| is_socket(s)).map(|s| s.meta.ino()));
                }
            }
            out.insert(inode, waiting);
        }
    }
}

fn messages(held: &Held, s: &SeenFd, socket: &Unix) -> Result<Waiting, Error> {
    let failed = |step| Error::of(s.host, step);
    // One without a connection has nothing to read, and packets say so by an error.
    if socket.listening || socket.kind != libc::SOCK_DGRAM as u8 && socket.peer.is_none() {
        return Ok(Waiting::Messages(Queue::default(), Vec::new()));
    }
    let copy = s.copy(held)?;
    let queue = if socket.kind == STREAM {
        queue::unix_stream(copy.as_fd()).map(Some)
    } else {
        queue::datagrams(copy.as_fd(), Of::Unix)
    };
    match queue {
        Ok(Some(queue)) => Ok(Waiting::Messages(queue, Vec::new())),
        Ok(None) => Ok(Waiting::Error),
        Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(Waiting::Urgent),
        Err(e) if e.raw_os_error() == Some(libc::EMFILE) => Ok(Waiting::TooMany),
        Err(e) => Err(failed("looking into a socket")(e)),
    }
}

/// Whether a description can be put on its way again; else it is refused.
pub(super) fn check(work: &mut Work<'_>, group: &Group, first: &SeenFd, kind: &Kind) {
    let mut holders = group.holders.iter().filter_map(|i| work.seen.get(*i));
    let reason = match kind {
        Kind::Pidfd(_) | Kind::Mqueue(_) | Kind::Procfs(_) if holders.any(|s| s.own.is_some()) => {
            "it can't be put on its way again"
        }
        _ if !first.info.locks.is_empty() && holders.all(|s| s.own.is_some()) => "nobody has this locked file open",
        _ => return,
    };
    let object = if first.own.is_some() {
        first.object(&first.name())
    } else {
        format!("{} on its way through a socket", first.object(&first.name()))
    };
    work.refusals.add(first.pid, object, reason, "save it when it has arrived");
}
