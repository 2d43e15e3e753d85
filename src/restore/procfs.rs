//! Files of /proc: opened in the tree, whose own /proc it is and whose processes it shows.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::model::fd::{Kind, OpenFile};
use crate::model::procfs::{File, Of, ids, renumbered, rest};
use crate::model::{Addr, Checkpoint, Name, Pid, Refusal};
use crate::sys::tasks;

use super::Error;
use super::build::{WALL, clone_into, end_as};
use super::stub::Puppet;

/// Flags that mean something at an open only, and none that we want.
const ONCE: u32 = (libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC) as u32;

/// What this kernel has not.
pub fn conflicts(checkpoint: &Checkpoint, conflicts: &mut Vec<Refusal>) {
    /// What of a process is there in some and not in others.
    const VARIES: [&[u8]; 4] = [b"fd/", b"fdinfo/", b"map_files/", b"net/"];
    for file in &checkpoint.files {
        let Kind::Procfs(file) = &file.kind else { continue };
        let rest = rest(&file.path.0);
        let here = match ids(&file.path.0) {
            None => file.path.clone(),
            Some(_) if VARIES.iter().any(|start| rest.starts_with(start)) => continue,
            Some(_) => Name([b"/proc/thread-self/", rest].concat()),
        };
        // A process has one more thing than a thread.
        if std::fs::symlink_metadata(here.as_path()).is_err() && !process_alone(rest) {
            conflicts.push(Refusal {
                pid: checkpoint.tree.root,
                object: file.path.display(),
                reason: "this kernel has no such file".to_owned(),
                hint: "resume under the kernel it was saved under".to_owned(),
            });
        }
    }
}

/// Whether a process has it, though its threads have not.
fn process_alone(rest: &[u8]) -> bool {
    std::fs::symlink_metadata(Path::new("/proc/self").join(Name(rest.to_vec()).as_path())).is_ok()
}

/// Those of `files` that `wanted` chooses, with their indices.
fn chosen<'a>(
    files: &'a [OpenFile],
    wanted: impl Fn(&File) -> bool + 'a,
) -> impl Iterator<Item = (u32, u32, &'a File)> {
    files.iter().zip(0u32..).filter_map(move |(open, index)| match &open.kind {
        Kind::Procfs(file) if wanted(file) => Some((index, open.flags, file)),
        _ => None,
    })
}

/// Whose files `opener` is to open: nobody but a process itself may open all of its own. `None`: those of no process.
pub fn owners(files: &[OpenFile]) -> impl Iterator<Item = Option<Pid>> {
    let all = chosen(files, |file| file.of != Of::Ended).map(|(_, _, file)| ids(&file.path.0).map(|(pid, _)| pid));
    all.collect::<std::collections::BTreeSet<_>>().into_iter()
}

/// The files of process (or thread) `pid`, or of none; `actual`: the numbers that processes have.
pub fn open_of(
    opener: &mut Puppet,
    pid: Option<Pid>,
    files: &[OpenFile],
    actual: impl Fn(Pid) -> i32,
) -> Result<Vec<(u32, OwnedFd)>, Error> {
    let of = |file: &File| file.of != Of::Ended && ids(&file.path.0).map(|(pid, _)| pid) == pid;
    chosen(files, of)
        .map(|(index, flags, file)| Ok((index, open(opener, &renumbered(&file.path, &actual), flags, file.offset)?)))
        .collect()
}

/// Processes that have ended and of which there are files.
pub fn ended(files: &[OpenFile]) -> impl Iterator<Item = Pid> {
    chosen(files, |file| file.of == Of::Ended).filter_map(|(_, _, file)| ids(&file.path.0)).map(|(pid, _)| pid)
}

/// Those of processes that have ended: `maker` makes such processes, with the pid they had where it can be had, and they
/// open them.
pub fn of_ended(
    maker: &mut Puppet,
    files: &[OpenFile],
    chosen_pids: &BTreeMap<Pid, Option<Pid>>,
) -> Result<Vec<(u32, OwnedFd)>, Error> {
    let mut wanted: BTreeMap<Pid, Vec<(u32, u32, &File)>> = BTreeMap::new();
    for (index, flags, file) in chosen(files, |file| file.of == Of::Ended) {
        if let Some((pid, _)) = ids(&file.path.0) {
            wanted.entry(pid).or_default().push((index, flags, file));
        }
    }
    let mut out = Vec::new();
    for (pid, files) in wanted {
        let mut batch = maker.batch();
        clone_into(&mut batch, 0, 0, chosen_pids.get(&pid).copied().flatten());
        let (results, births) = maker.run_with_births(batch)?;
        let Some((actual, task)) = results.first().zip(births.into_iter().next()) else { continue };
        let mut dying = Puppet::adopt(task, Addr(maker.data().0 - 4096))?;
        for (index, flags, file) in files {
            let path = renumbered(&file.path, |_| *actual as i32);
            out.push((index, open(&mut dying, &path, flags, file.offset)?));
        }
        end_as(dying, 0)?;
        let mut batch = maker.batch();
        batch.call("wait4", libc::SYS_wait4, &[*actual, 0, WALL, 0]);
        maker.run(batch)?;
    }
    Ok(out)
}

/// Opened in `opener`, at its position; our copy.
fn open(opener: &mut Puppet, path: &Name, flags: u32, offset: u64) -> Result<OwnedFd, Error> {
    let host = opener.host();
    let mut batch = opener.batch();
    let at = batch.path(path);
    let flags = u64::from(flags & !ONCE) | (libc::O_CLOEXEC | libc::O_NOCTTY) as u64;
    batch.call("openat", libc::SYS_openat, &[libc::AT_FDCWD as u64, at.0, flags, 0]);
    let named = |error| match error {
        Error::Step { source, .. } => Error::file("opening", path, source),
        other => other,
    };
    let fd = opener.run(batch).map_err(named)?.first().copied().unwrap_or(u64::MAX);
    let copy = tasks::pidfd_open(host).and_then(|pidfd| tasks::pidfd_getfd(pidfd.as_fd(), fd as i32));
    let mut batch = opener.batch();
    if offset != 0 {
        batch.call("lseek", libc::SYS_lseek, &[fd, offset, libc::SEEK_SET as u64]);
    }
    batch.call("close", libc::SYS_close, &[fd]);
    opener.run(batch).map_err(named)?;
    copy.map_err(|e: io::Error| Error::file("opening", path, e))
}
