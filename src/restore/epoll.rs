//! epoll_create(2).

use std::os::fd::OwnedFd;

use crate::model::epoll::Epoll;
use crate::model::process::Process;
use crate::sys::fds;

use super::Error;
use super::fd::{Sources, source};
use super::stub::{Expect, Puppet};

/// An instance that watches nothing yet.
pub fn open() -> Result<OwnedFd, Error> {
    fds::epoll().map_err(|e| Error::step("making an epoll instance", 0, e))
}

/// Adds what the instance watched and what belongs to `process`, under the numbers it was added with: the kernel
/// knows an entry by number and file (fs/eventpoll.c, struct epoll_filefd).
pub fn watch(
    puppet: &mut Puppet,
    process: &Process,
    sources: &Sources,
    epoll_source: i32,
    epoll: &Epoll,
) -> Result<(), Error> {
    let mut batch = puppet.batch();
    for target in epoll.targets.iter().filter(|t| t.pid == process.pid) {
        puppet.flush_for(&mut batch, 3, 16)?;
        let now = process.fds.iter().find(|d| d.fd == target.fd);
        let borrowed = now.is_none_or(|d| d.file != target.file);
        if borrowed {
            // The number has been closed or given to another file since: it is lent for the moment.
            let from = source(sources, target.file)?;
            batch.call("dup3", libc::SYS_dup3, &[from as u64, target.fd as u64, 0]);
        }
        let mut event = target.events.to_le_bytes().to_vec();
        event.extend(target.data.to_le_bytes());
        let at = batch.data(&event);
        let add = [epoll_source as u64, libc::EPOLL_CTL_ADD as u64, target.fd as u64, at.0];
        batch.call("epoll_ctl", libc::SYS_epoll_ctl, &add);
        match now {
            Some(d) if borrowed => {
                let flags = if d.cloexec { libc::O_CLOEXEC } else { 0 };
                let from = source(sources, d.file)?;
                batch.call("dup3", libc::SYS_dup3, &[from as u64, d.fd as u64, flags as u64]);
            }
            None => batch.call_expecting(Expect::Anything, "close", libc::SYS_close, &[target.fd as u64]),
            Some(_) => {}
        }
    }
    puppet.run(batch).map(drop)
}
