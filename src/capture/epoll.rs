//! epoll_create(2): what it watches is known by number only; kcmp(2) tells which file that was.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;

use crate::model::epoll::{Epoll, Target};
use crate::proc::fdinfo::Watch;
use crate::sys::tasks::kcmp_epoll;

use super::Error;
use super::fd::{SeenFd, Work};

/// Finds the description behind each number; `None` if one is not in the tree.
pub(super) fn capture(
    work: &mut Work<'_>,
    epoll: &SeenFd,
    watches: &[Watch],
    file_of: &HashMap<usize, u32>,
) -> Result<Option<Epoll>, Error> {
    let mut targets = Vec::with_capacity(watches.len());
    let mut nth: HashMap<i32, u32> = HashMap::new();
    for watch in watches {
        let turn = nth.entry(watch.fd).or_insert(0);
        let found = find(work.seen, epoll, watch, *turn)?;
        *turn += 1;
        let Some((index, holder)) = found else {
            let reason = format!("it watches a file, once fd {}, that nobody in the tree has open", watch.fd);
            let hint = "have it taken out of the epoll (EPOLL_CTL_DEL), or save those who have it with the tree";
            work.refusals.add(epoll.pid, epoll.object("epoll"), reason, hint);
            return Ok(None);
        };
        let Some(&file) = file_of.get(&index) else { continue };
        let (pid, fd) = (holder.pid, watch.fd);
        targets.push(Target { pid, fd, file, events: watch.events, data: watch.data });
    }
    Ok(Some(Epoll { targets }))
}

/// The descriptor of the watched file: most likely the one with that number in the same process.
fn find<'a>(seen: &'a [SeenFd], epoll: &SeenFd, watch: &Watch, nth: u32) -> Result<Option<(usize, &'a SeenFd)>, Error> {
    let rank = |s: &SeenFd| match (s.host == epoll.host, s.fd == watch.fd) {
        (true, true) => 0,
        (false, true) => 1,
        (true, false) => 2,
        (false, false) => 3,
    };
    // Kernels before 4.13 don't tell the inode.
    let possible = |s: &&SeenFd| watch.ino == 0 || s.meta.ino() == watch.ino;
    let mut candidates: Vec<(usize, &SeenFd)> = seen.iter().enumerate().filter(|(_, s)| possible(s)).collect();
    candidates.sort_by_key(|(_, s)| rank(s));
    for (index, s) in candidates {
        let same = kcmp_epoll(s.host, s.fd, epoll.host, epoll.fd, watch.fd, nth);
        if same.map_err(Error::of(s.host, "comparing what an epoll watches"))? {
            return Ok(Some((index, s)));
        }
    }
    Ok(None)
}
