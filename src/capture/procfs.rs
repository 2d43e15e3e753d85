//! Files of /proc.

use std::os::unix::fs::MetadataExt;

use crate::model::fd::Kind;
use crate::model::procfs::{File, Of, ids, rest};
use crate::model::{Name, Pid};

use super::Error;
use super::fd::{SeenFd, Work};
use super::tree::belongs;

/// linux/magic.h
pub(super) const MAGIC: i64 = 0x9fa0;

/// Why a file is refused that is of a process we do not save. Programs read some for a moment.
pub(super) const OUTSIDE: &str = "it is in /proc and belongs to a process outside the tree";

/// What is there only as long as something else of the process is.
const PASSING: [&str; 3] = ["fd/", "fdinfo/", "map_files/"];

/// Whether a description leads to /proc by a way of its own: what is on its way through a socket is opened early, by name,
/// if that is the same for everybody.
pub(super) fn is_of(s: &SeenFd, file_system: i64) -> bool {
    file_system == MAGIC && (s.own.is_none() || ids(&s.link).is_some())
}

/// Whether the program is in the middle of a file of a process: what comes next may be of another length after a resume.
pub(super) fn half_read(file: &File, s: &SeenFd) -> bool {
    file.of != Of::System && file.offset > 0 && s.meta.is_file()
}

/// Whose it is; `None` if it was refused.
pub(super) fn capture(work: &mut Work<'_>, s: &SeenFd) -> Result<Option<Kind>, Error> {
    let (dev, ino) = s.key();
    let found = |path: &[u8]| work.view.lstat(path).filter(|m| m.dev() == dev);
    let undeleted = s.link.strip_suffix(b" (deleted)").unwrap_or(&s.link);
    let present = match ids(&s.link) {
        // Those in /proc/sys are another's in another namespace: ours is not that of the program.
        None => undeleted == s.link || found(&s.link).is_some(),
        // The file is the network's whoever it was opened of; and whoever looks for its name makes it a deleted one.
        Some((pid, tid)) if rest(&s.link).starts_with(b"net/") => is_member(work, pid, tid),
        _ => found(&s.link).is_some_and(|m| m.ino() == ino),
    };
    let path = if present && !rest(&s.link).starts_with(b"net/") { &s.link } else { undeleted };
    let of = match ids(path) {
        _ if found(b"/proc").is_none() => Err("it is in another /proc than the one of its mount namespace"),
        None if present => Ok(Of::System),
        None => Err("it is in /proc, and is no longer there"),
        Some((pid, tid)) if present => {
            if is_member(work, pid, tid) {
                Ok(Of::Member)
            } else {
                Err(OUTSIDE)
            }
        }
        // The network's file does not tell of whom it was opened.
        Some((pid, tid)) if rest(path).starts_with(b"net/") && found(directory(pid, tid).as_bytes()).is_some() => {
            Err(OUTSIDE)
        }
        Some((_, Some(_))) => Err("it belongs to a thread that has ended"),
        Some(_) if PASSING.iter().any(|p| rest(path).starts_with(p.as_bytes())) => {
            Err("it is in /proc, and what it tells of is no longer there")
        }
        Some((pid, None)) if found(directory(pid, None).as_bytes()).is_some() => {
            Err("it belongs to a process that has ended, and whose pid another has by now")
        }
        Some((_, None)) => Ok(Of::Ended),
    };
    match of {
        Ok(of) => {
            let file = File { path: Name(path.to_vec()), of, offset: s.info.pos };
            work.half_read |= half_read(&file, s);
            Ok(Some(Kind::Procfs(file)))
        }
        Err(reason) => {
            work.refusals.add(s.pid, s.object(&s.name()), reason, "have it closed");
            Ok(None)
        }
    }
}

/// Of a process, or of a thread of it.
fn directory(pid: Pid, tid: Option<Pid>) -> String {
    tid.map_or_else(|| format!("/proc/{pid}"), |tid| format!("/proc/{pid}/task/{tid}"))
}

/// Whether the process, or thread, will be in the image.
fn is_member(work: &Work<'_>, pid: Pid, tid: Option<Pid>) -> bool {
    work.held.processes.iter().any(|p| {
        let whole = p.pid == pid && belongs(work.held, p) && tid.is_none_or(|tid| tid == pid);
        let thread = |id| p.threads.iter().any(|t| t.tid == id);
        whole || if let Some(tid) = tid { p.pid == pid && thread(tid) } else { thread(pid) }
    })
}
