//! inotify(7).

use std::os::fd::{AsFd, OwnedFd};

use crate::model::fd::Kind;
use crate::model::inotify::Inotify;
use crate::model::{Checkpoint, Refusal};
use crate::sys::{inotify, notices};

use super::Error;

/// An instance that watches nothing yet, with the events that waited in it: whoever gets a signal for each does not
/// yet.
pub fn open(instance: &Inotify, flags: u32) -> Result<OwnedFd, Error> {
    let failed = |step| move |e| Error::step(step, 0, e);
    let fd = inotify::new(flags as i32 & libc::O_NONBLOCK | libc::IN_CLOEXEC)
        .map_err(failed("making an inotify instance"))?;
    if !instance.events.is_empty() {
        let put = notices::place().and_then(|place| notices::put(fd.as_fd(), &place, &instance.events));
        put.map_err(failed("filling the queue of an inotify instance"))?;
    }
    Ok(fd)
}

/// Watched files that are not there or may not be watched, and events that can't be put back.
pub fn conflicts(checkpoint: &Checkpoint, conflicts: &mut Vec<Refusal>) {
    for file in &checkpoint.files {
        let Kind::Inotify(Inotify { watches, events, .. }) = &file.kind else { continue };
        if !events.is_empty() {
            if let Err(error) = notices::limit().and_then(|_| notices::place()) {
                conflicts.push(Refusal {
                    pid: checkpoint.tree.root,
                    object: "inotify".to_owned(),
                    reason: format!("{} events wait in it, and can't be put back: {error}", events.len()),
                    hint: "set fs.inotify.max_queued_events to 1048576 at most, and permit user namespaces (`ckpt check`), or \
                           resume as root"
                        .to_owned(),
                });
            }
        }
        for watch in watches {
            let path = watch.path.as_path();
            let link = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
            let problem = if link { Ok(()) } else { nix::unistd::access(path, nix::unistd::AccessFlags::R_OK) };
            if let Err(error) = problem {
                conflicts.push(Refusal {
                    pid: checkpoint.tree.root,
                    object: watch.path.display(),
                    reason: format!("the program watched it (inotify), and it can't be read: {}", error.desc()),
                    hint: "make it again".to_owned(),
                });
            }
        }
    }
}

/// Begins to watch. Comes last of all: nothing that a resume does is an event for the program.
pub fn watch(checkpoint: &Checkpoint, instances: &[(u32, OwnedFd)]) -> Result<(), Error> {
    for (index, fd) in instances {
        let Some(Kind::Inotify(Inotify { watches, next, .. })) = checkpoint.files.get(*index as usize).map(|f| &f.kind)
        else {
            continue;
        };
        for w in watches {
            inotify::watch(fd.as_fd(), w.wd, w.mask, &w.path).map_err(|e| Error::file("watching", &w.path, e))?;
        }
        if let Some(next) = next {
            inotify::set_next(fd.as_fd(), *next).map_err(|e| Error::step("numbering watches", 0, e))?;
        }
    }
    Ok(())
}
