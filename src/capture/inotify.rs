//! inotify(7): the kernel tells inodes, a resume needs names.

use std::collections::HashMap;
use std::os::fd::AsFd;

use crate::model::Name;
use crate::model::fd::Kind;
use crate::model::inotify::{Inotify, Watch};
use crate::proc::fdinfo::{self, Detail};
use crate::sys::fds;

use super::Error;
use super::fd::{SeenFd, Work};
use super::search;

/// The kernel takes no events back. Most programs read them at once.
pub(super) const UNREAD: &str = "events wait in it that the program has not read yet, and they could not be put back";

/// Names of all watched files, by device and inode. `seen`: all descriptors.
pub(super) fn find(work: &Work<'_>) -> Result<HashMap<(u64, u64), Vec<u8>>, Error> {
    let watches = |s: &SeenFd| if let Detail::Inotify(watches) = &s.info.detail { watches.clone() } else { Vec::new() };
    let wanted = work.seen.iter().flat_map(watches).map(|w| (device(&w), w.ino)).collect();
    search::names(work, wanted)
}

/// The device as stat(2) has it.
fn device(watch: &fdinfo::Inode) -> u64 {
    libc::makedev((watch.sdev >> 20) as u32, (watch.sdev & 0xf_ffff) as u32)
}

/// An instance; `None` if it was refused.
pub(super) fn capture(work: &mut Work<'_>, s: &SeenFd, watches: &[fdinfo::Inode]) -> Result<Option<Kind>, Error> {
    let copy = s.copy(work.held)?;
    let unread = fds::readable(copy.as_fd()).map_err(Error::of(s.host, "asking for unread events"))?;
    if unread > 0 {
        work.refusals.add(s.pid, s.object("inotify"), UNREAD, "save again when it has read them");
        return Ok(None);
    }
    let mut out = Vec::with_capacity(watches.len());
    for watch in watches {
        let Some(path) = work.watched.get(&(device(watch), watch.ino)) else {
            let reason =
                format!("no name was found for inode {} on device {:x}, which it watches", watch.ino, watch.sdev);
            let hint = "save it with its working directory near what it watches";
            work.refusals.add(s.pid, s.object("inotify"), reason, hint);
            return Ok(None);
        };
        out.push(Watch { wd: watch.wd, mask: watch.mask, path: Name(path.clone()) });
    }
    out.sort_by_key(|w| w.wd);
    Ok(Some(Kind::Inotify(Inotify { watches: out })))
}
