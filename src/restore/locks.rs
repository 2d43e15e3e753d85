//! File locks and leases: taken again by their processes; somebody else's stand in the way.

use std::os::unix::fs::MetadataExt;

use crate::model::fd::{Descriptor, Kind};
use crate::model::locks::{Lock, LockKind};
use crate::model::process::Process;
use crate::model::{Checkpoint, Name, Pid, Refusal};
use crate::proc;

use super::Error;
use super::stub::{Expect, Puppet};

const F_SETLK: u64 = 6;
const F_OFD_SETLK: u64 = 37;
const F_SETLEASE: u64 = 1024;
/// Calls of one table.
const AT_ONCE: usize = 500;

/// Locks that processes outside hold and that a lock of the program can't stand beside.
pub fn conflicts(checkpoint: &Checkpoint, conflicts: &mut Vec<Refusal>) {
    if checkpoint.processes.iter().flat_map(Process::tables).all(|(_, locks)| locks.is_empty()) {
        return;
    }
    let held = proc::locks().unwrap_or_default();
    for process in &checkpoint.processes {
        for (fds, lock) in process.tables().flat_map(|(fds, locks)| locks.iter().map(move |lock| (fds, lock))) {
            let Some(path) = path(checkpoint, fds, lock) else { continue };
            let Ok(meta) = std::fs::metadata(path.as_path()) else { continue };
            let (major, minor) = (u64::from(libc::major(meta.dev())), u64::from(libc::minor(meta.dev())));
            let same_file = |l: &&proc::locks::Lock| l.dev == (major, minor) && l.ino == meta.ino();
            if let Some(other) = held.iter().filter(same_file).find(|l| excludes(lock, l)) {
                conflicts.push(taken(process.pid, path, other.pid));
            }
        }
    }
}

/// Whether two locks of different owners can't be held at once.
fn excludes(ours: &Lock, theirs: &proc::locks::Lock) -> bool {
    let ranges = |kind| matches!(kind, LockKind::Posix | LockKind::Ofd);
    let same_sort = ours.kind == theirs.kind || ranges(ours.kind) && ranges(theirs.kind);
    let overlap = ours.start <= theirs.end.unwrap_or(u64::MAX) && theirs.start <= ours.end.unwrap_or(u64::MAX);
    same_sort && overlap && (ours.write || theirs.write)
}

/// The path of a locked file that is still there.
fn path<'a>(checkpoint: &'a Checkpoint, fds: &[Descriptor], lock: &Lock) -> Option<&'a Name> {
    let fd = fds.iter().find(|d| d.fd == lock.fd)?;
    match &checkpoint.files.get(fd.file as usize)?.kind {
        Kind::Regular(r) if r.content.is_none() => Some(&r.path),
        Kind::Directory(d) => Some(&d.path),
        Kind::Device(d) => Some(&d.path),
        Kind::Pipe(p) => p.fifo.as_ref().filter(|f| f.deleted.is_none()).map(|f| &f.path),
        _ => None,
    }
}

fn taken(of: Pid, path: &Name, pid: i32) -> Refusal {
    let (who, hint) = match pid {
        1.. => (format!("pid {pid}"), format!("end pid {pid}, or wait until it lets go of the file")),
        _ => ("somebody else".to_owned(), "wait until whoever has it lets go of the file".to_owned()),
    };
    Refusal { pid: of, object: path.display(), reason: format!("{who} holds a lock on it"), hint }
}

/// Takes the locks of a table of process `pid`. Comes after the last descriptor is closed in it: closing any one of a file
/// gives up all of the table's POSIX locks on it (fcntl(2)).
pub fn take(
    puppet: &mut Puppet,
    pid: Pid,
    (fds, locks): (&[Descriptor], &[Lock]),
    checkpoint: &Checkpoint,
) -> Result<(), Error> {
    for some in locks.chunks(AT_ONCE) {
        let mut batch = puppet.batch();
        for lock in some {
            let fd = lock.fd as u64;
            let record = |command| {
                let length = lock.end.map_or(0, |end| end - lock.start + 1);
                let words = [u64::from(lock.write), lock.start, length, 0];
                (command, words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>())
            };
            let (name, number, args) = match lock.kind {
                LockKind::Flock => {
                    let how = if lock.write { libc::LOCK_EX } else { libc::LOCK_SH } | libc::LOCK_NB;
                    ("flock", libc::SYS_flock, [fd, how as u64, 0])
                }
                LockKind::Lease => ("fcntl F_SETLEASE", libc::SYS_fcntl, [fd, F_SETLEASE, u64::from(lock.write)]),
                LockKind::Posix | LockKind::Ofd => {
                    let (command, bytes) = record(if lock.kind == LockKind::Ofd { F_OFD_SETLK } else { F_SETLK });
                    ("fcntl F_SETLK", libc::SYS_fcntl, [fd, command, batch.data(&bytes).0])
                }
            };
            batch.call_expecting(Expect::Anything, name, number, &args);
        }
        for (lock, result) in some.iter().zip(puppet.run(batch)?) {
            match -(result as i64) as i32 {
                ..=0 => {}
                // Taken by somebody the plan could not see, or since.
                libc::EAGAIN | libc::EACCES => {
                    let unnamed = Name::from("a file");
                    let path = path(checkpoint, fds, lock).unwrap_or(&unnamed);
                    return Err(Error::Conflicts(vec![taken(pid, path, 0)]));
                }
                errno => {
                    let source = std::io::Error::from_raw_os_error(errno);
                    return Err(Error::step("taking a lock", puppet.host(), source));
                }
            }
        }
    }
    Ok(())
}
