//! fanotify(7): as with inotify, the kernel tells inodes, mounts and devices, a resume needs names.

use std::os::fd::{AsFd, AsRawFd};

use crate::model::fanotify::{self, Fanotify, Mark, PERMISSION};
use crate::model::fd::Kind;
use crate::model::{Name, Refusal};
use crate::proc::fdinfo::{self, Detail, Marked};
use crate::proc::{self, mounts::Mount};
use crate::sys::{self, fds};
use crate::tracer::Held;

use super::Error;
use super::fd::{SeenFd, Work};
use super::inotify::device;
use super::refusals::Refusals;

/// The kernel takes no events back.
pub(super) const UNREAD: &str =
    "events wait in this group that the program has not read yet, and they could not be put back";

/// FAN_* flags that fanotify_init(2) takes from anybody: FAN_CLOEXEC, FAN_NONBLOCK, and what events tell instead of a
/// descriptor.
const OF_ANYBODY: u32 = 0x3 | NO_DESCRIPTORS;
/// FAN_REPORT_FID, FAN_REPORT_DIR_FID, FAN_REPORT_NAME, FAN_REPORT_TARGET_FID and FAN_REPORT_MNT.
const NO_DESCRIPTORS: u32 = 0x5e00;
const CAP_SYS_ADMIN: u32 = 21;
/// FAN_MARK_IGNORED_SURV_MODIFY.
const IGNORED_SURV_MODIFY: u32 = 0x40;

/// Groups that stand in the way, before a file is opened: what we do next may be an event for them.
///
/// # Errors
/// Also what is refused on the spot: a group that decides over the opening of files would be asked by us while it
/// stands still, and we would wait for its answer for ever.
pub(super) fn first(held: &Held, seen: &[SeenFd], refusals: &mut Refusals) -> Result<(), Error> {
    for s in seen {
        let Detail::Fanotify(group) = &s.info.detail else { continue };
        unless_it_decides(s, group)?;
        unread(held, s, refusals)?;
    }
    Ok(())
}

fn unless_it_decides(s: &SeenFd, group: &fdinfo::Fanotify) -> Result<(), Error> {
    if group.marks.iter().all(|mark| (mark.mask | mark.ignored) & PERMISSION == 0) {
        return Ok(());
    }
    Err(Error::Refused(vec![Refusal {
        pid: s.pid,
        object: s.object("fanotify"),
        reason: "the program decides over what others do with files, and the save itself would wait for it".to_owned(),
        hint:
            "save it when its marks are without FAN_OPEN_PERM, FAN_ACCESS_PERM, FAN_OPEN_EXEC_PERM and FAN_PRE_ACCESS"
                .to_owned(),
    }]))
}

/// Whether it was refused for events that wait in it.
fn unread(held: &Held, s: &SeenFd, refusals: &mut Refusals) -> Result<bool, Error> {
    let copy = s.copy(held)?;
    let unread = fds::readable(copy.as_fd()).map_err(Error::of(s.host, "asking for unread events"))? > 0;
    if unread {
        refusals.add(s.pid, s.object("fanotify"), UNREAD, "save again when it has read them");
    }
    Ok(unread)
}

/// Device and inode of the files and directories that are marked.
pub(super) fn files(s: &SeenFd) -> Vec<(u64, u64)> {
    let Detail::Fanotify(group) = &s.info.detail else { return Vec::new() };
    let inode =
        |mark: &fdinfo::Mark| if let Marked::Inode { ino, sdev } = mark.on { Some((device(sdev), ino)) } else { None };
    group.marks.iter().filter_map(inode).collect()
}

/// A group; `None` if it was refused.
pub(super) fn capture(work: &mut Work<'_>, s: &SeenFd, group: &fdinfo::Fanotify) -> Result<Option<Kind>, Error> {
    // One on its way through a socket has not been seen before.
    if s.own.is_some() {
        unless_it_decides(s, group)?;
        if unread(work.held, s, work.refusals)? {
            return Ok(None);
        }
    }
    let only_files = group.marks.iter().all(|mark| matches!(mark.on, Marked::Inode { .. }));
    let mounts = if only_files { Vec::new() } else { proc::mounts(s.host).map_err(Error::proc(s.host))? };
    let mut marks = Vec::with_capacity(group.marks.len());
    for mark in group.marks.iter().rev() {
        let (on, path) = match marked(work, &mounts, mark.on) {
            Ok(found) => found,
            Err((reason, hint)) => {
                work.refusals.add(s.pid, s.object("fanotify"), reason, hint);
                return Ok(None);
            }
        };
        let fdinfo::Mark { flags, mask, ignored, .. } = *mark;
        if ignored != 0 && flags & IGNORED_SURV_MODIFY == 0 && is_written(work.seen, mark.on) {
            let reason = "it ignores events of a file until that is modified, and the program has the file open for writing: \
                          as long as somebody has, the kernel does not set such a mask";
            work.refusals.add(s.pid, s.object("fanotify"), reason, "set the mask with FAN_MARK_IGNORED_SURV_MODIFY");
            return Ok(None);
        }
        marks.push(Mark { on, path: Name(path), flags, mask, ignored });
    }
    let (flags, event_flags) = (group.flags, group.event_flags);
    let privileged = flags & !OF_ANYBODY != 0 || flags & NO_DESCRIPTORS == 0 || !only_files || is_privileged(s)?;
    Ok(Some(Kind::Fanotify(Fanotify { flags, event_flags, privileged, marks })))
}

/// Whether the program may have made a group with CAP_SYS_ADMIN that others may make as well. It does not show, but in
/// what the group tells of others; the program is taken not to have changed in that.
fn is_privileged(s: &SeenFd) -> Result<bool, Error> {
    let caps = proc::status(s.host).map_err(Error::proc(s.host))?.caps;
    Ok(caps[2] >> CAP_SYS_ADMIN & 1 == 1 && sys::fanotify::is_privileged())
}

/// Whether somebody in the tree has it open for writing.
fn is_written(seen: &[SeenFd], on: Marked) -> bool {
    let Marked::Inode { ino, sdev } = on else { return false };
    let key = (device(sdev), ino);
    seen.iter().any(|s| s.key() == key && s.writes() && !s.only_path())
}

/// What to do about a mark that no path leads to.
const REACH: &str = "unmount what lies over it, or have the mark removed (FAN_MARK_REMOVE) before the save";

/// What is marked, with a path to it; or why there is none, and what to do about it.
fn marked(
    work: &Work<'_>,
    mounts: &[Mount],
    on: Marked,
) -> Result<(fanotify::Marked, Vec<u8>), (String, &'static str)> {
    let at = |wanted: &dyn Fn(&Mount) -> bool| {
        let reached = mounts.iter().filter(|mount| wanted(mount)).find(|mount| reaches(work, mount));
        reached.map(|mount| mount.point.clone())
    };
    match on {
        Marked::Inode { ino, sdev } => match work.watched.get(&(device(sdev), ino)) {
            Some(path) => Ok((fanotify::Marked::Inode, path.clone())),
            None => Err((
                format!("no name was found for inode {ino} on device {sdev:x}, which it has marked"),
                "save it with its working directory near what it has marked",
            )),
        },
        Marked::Mount(id) => match at(&|mount| mount.id == id) {
            Some(path) => Ok((fanotify::Marked::Mount, path)),
            None => Err((format!("mount {id}, which it has marked, is not to be reached by a path"), REACH)),
        },
        Marked::FileSystem(sdev) => match at(&|mount| mount.sdev == sdev) {
            Some(path) => Ok((fanotify::Marked::FileSystem, path)),
            None => Err((
                format!("the file system on device {sdev:x}, which it has marked, is not to be reached by a path"),
                REACH,
            )),
        },
        Marked::Namespace => {
            let hint = "have the mark removed (FAN_MARK_REMOVE) before the save";
            Err(("marks on mount namespaces are not supported".to_owned(), hint))
        }
    }
}

/// Whether its mount point leads to this mount: another may be on top of it, or the process have another root
/// directory.
fn reaches(work: &Work<'_>, mount: &Mount) -> bool {
    let place = fds::place(&work.view.path(&mount.point), libc::O_NOFOLLOW);
    let found = place.ok().and_then(|place| proc::fdinfo(std::process::id() as i32, place.as_raw_fd()).ok());
    found.is_some_and(|found| found.mnt_id == mount.id)
}
