//! fanotify(7).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::model::fanotify::{Fanotify, Mark, Marked};
use crate::model::fd::Kind;
use crate::model::{Checkpoint, Refusal};
use crate::sys::{self, fds, mounts};

use super::Error;
use super::view::View;

const F_SETFD: i32 = 2;
const F_SETFL: i32 = 4;

// What libc lacks or has as another type; linux/fanotify.h.
const ADD: u32 = 0x1;
const REMOVE: u32 = 0x2;
const DONT_FOLLOW: u32 = 0x4;
const MOUNT: u32 = 0x10;
const IGNORED_MASK: u32 = 0x20;
const IGNORED_SURV_MODIFY: u32 = 0x40;
const FILESYSTEM: u32 = 0x100;
const EVICTABLE: u32 = 0x200;
const IGNORE: u32 = 0x400;
const FAN_MODIFY: u32 = 0x2;

/// A group that has no marks yet.
pub fn open(group: &Fanotify, flags: u32) -> Result<OwnedFd, Error> {
    let made = sys::fanotify::new(group.flags, group.event_flags, group.privileged).and_then(|fd| {
        // How it was made stays to be seen; the flags of the moment may be others.
        fds::fcntl(fd.as_fd(), F_SETFD, libc::FD_CLOEXEC.into())?;
        fds::fcntl(fd.as_fd(), F_SETFL, i64::from(flags as i32 & libc::O_NONBLOCK))?;
        Ok(fd)
    });
    made.map_err(|e| Error::step("making a fanotify group", 0, e))
}

/// Groups that we may not make, and marked objects that are not there or may not be marked: all is tried.
pub fn conflicts(checkpoint: &Checkpoint, conflicts: &mut Vec<Refusal>) {
    let mut add = |object: String, reason: String, hint: &str| {
        conflicts.push(Refusal { pid: checkpoint.tree.root, object, reason, hint: hint.to_owned() });
    };
    for file in &checkpoint.files {
        let Kind::Fanotify(group) = &file.kind else { continue };
        if group.privileged && !sys::fanotify::is_privileged() {
            let reason = "the program's needs CAP_SYS_ADMIN in the initial user namespace";
            add("fanotify".to_owned(), reason.to_owned(), "resume as root");
            continue;
        }
        match open(group, file.flags) {
            Ok(fd) => {
                for mark in &group.marks {
                    if let Err(error) = set(fd.as_fd(), mark, mark.path.as_path()) {
                        let reason = format!("the program had it marked (fanotify), and it can't be marked: {error}");
                        add(mark.path.display(), reason, "make it again");
                    }
                }
            }
            Err(error) => add("fanotify".to_owned(), error.to_string(), "resume under the kernel it was saved under"),
        }
    }
}

/// Sets the marks. As with inotify, nothing that a resume does is to be an event for the program.
pub fn mark(checkpoint: &Checkpoint, groups: &[(u32, OwnedFd)], view: &View) -> Result<(), Error> {
    for (index, fd) in groups {
        let Some(Kind::Fanotify(Fanotify { marks, .. })) = checkpoint.files.get(*index as usize).map(|f| &f.kind)
        else {
            continue;
        };
        for mark in marks {
            // Of mounts the program is to have its own.
            let path = view.path(mark.path.as_path());
            set(fd.as_fd(), mark, &path).map_err(|e| Error::file("marking", &mark.path, e))?;
        }
    }
    Ok(())
}

fn set(fd: BorrowedFd<'_>, mark: &Mark, path: &Path) -> io::Result<()> {
    let kind = match mark.on {
        Marked::Inode => 0,
        Marked::Mount => MOUNT,
        Marked::FileSystem => FILESYSTEM,
    };
    // By another name than that of the mount point it would be another mount.
    if kind != 0 && !mounts::is_mount_point(path)? {
        return Err(io::Error::other("nothing is mounted there"));
    }
    let kind = kind | DONT_FOLLOW | mark.flags & EVICTABLE;
    if mark.mask != 0 {
        sys::fanotify::mark(fd, ADD | kind, mark.mask, path)?;
    }
    let ignore = if mark.flags & IGNORE != 0 { IGNORE } else { IGNORED_MASK };
    let ignore = kind | ignore | mark.flags & IGNORED_SURV_MODIFY;
    if mark.ignored != 0 {
        return sys::fanotify::mark(fd, ADD | ignore, mark.ignored, path);
    }
    // A mark that has ignored something once says so for ever.
    if mark.flags & (IGNORE | IGNORED_SURV_MODIFY) != 0 {
        sys::fanotify::mark(fd, ADD | ignore, FAN_MODIFY, path)?;
        sys::fanotify::mark(fd, REMOVE | ignore, FAN_MODIFY, path)?;
    }
    Ok(())
}
