//! epoll_create(2).

use std::os::fd::OwnedFd;

use crate::model::Addr;
use crate::model::epoll::{Epoll, Target};
use crate::model::process::Process;
use crate::sys::fds;

use super::Error;
use super::fd::{Sources, source};
use super::stub::{Expect, Puppet};

/// An instance that watches nothing yet.
pub fn open() -> Result<OwnedFd, Error> {
    fds::epoll().map_err(|e| Error::step("making an epoll instance", 0, e))
}

/// All that can be waited for: EPOLLIN, EPOLLPRI, EPOLLOUT, and what stands for them in other words.
const ANYTHING: u32 = 0x7 | 0x7c0 | libc::EPOLLRDHUP as u32;
/// What is left of the events of an entry with EPOLLONESHOT that has fired (fs/eventpoll.c, EP_PRIVATE_BITS).
const FLAGS: u32 =
    libc::EPOLLWAKEUP as u32 | libc::EPOLLONESHOT as u32 | libc::EPOLLET as u32 | libc::EPOLLEXCLUSIVE as u32;

/// Whether an entry has fired and waits to be armed again.
fn has_fired(target: &Target) -> bool {
    target.events & libc::EPOLLONESHOT as u32 != 0 && target.events & !FLAGS == 0
}

/// Adds what the instance watched and what belongs to `process`, under the numbers it was added with: the kernel
/// knows an entry by number and file (fs/eventpoll.c, struct epoll_filefd). `fired`: only one-shot entries that have
/// fired, or only the others. Those are made to fire; where the file is not ready for anything, they can't.
pub fn watch(
    puppet: &mut Puppet,
    process: &Process,
    sources: &Sources,
    epoll_source: i32,
    epoll: &Epoll,
    fired: bool,
) -> Result<(), Error> {
    let mut batch = puppet.batch();
    for target in epoll.targets.iter().filter(|t| t.pid == process.pid && has_fired(t) == fired) {
        puppet.flush_for(&mut batch, 5, 32)?;
        let now = process.fds.binary_search_by_key(&target.fd, |d| d.fd).ok().and_then(|at| process.fds.get(at));
        let from = source(sources, target.file)?;
        let borrowed = now.is_none_or(|d| d.file != target.file) && from != target.fd;
        if borrowed {
            // The number has been closed or given to another file since: it is lent for the moment.
            batch.call("dup3", libc::SYS_dup3, &[from as u64, target.fd as u64, 0]);
        }
        let event = |events: u32| [&events.to_le_bytes()[..], &target.data.to_le_bytes()].concat();
        let control = |op: i32, at: Addr| [epoll_source as u64, op as u64, target.fd as u64, at.0];
        if fired {
            let at = batch.data(&event(target.events | ANYTHING));
            batch.call("epoll_ctl", libc::SYS_epoll_ctl, &control(libc::EPOLL_CTL_ADD, at));
            batch.call("epoll_wait", libc::SYS_epoll_wait, &[epoll_source as u64, at.0, 1, 0]);
            let results = puppet.run(std::mem::replace(&mut batch, puppet.batch()))?;
            if results.last() == Some(&0) {
                let at = batch.data(&event(target.events));
                batch.call("epoll_ctl", libc::SYS_epoll_ctl, &control(libc::EPOLL_CTL_MOD, at));
            }
        } else {
            let at = batch.data(&event(target.events));
            batch.call("epoll_ctl", libc::SYS_epoll_ctl, &control(libc::EPOLL_CTL_ADD, at));
        }
        match now {
            Some(d) if borrowed => {
                let flags = if d.cloexec { libc::O_CLOEXEC } else { 0 };
                let from = source(sources, d.file)?;
                batch.call("dup3", libc::SYS_dup3, &[from as u64, d.fd as u64, flags as u64]);
            }
            None if borrowed => batch.call_expecting(Expect::Anything, "close", libc::SYS_close, &[target.fd as u64]),
            _ => {}
        }
    }
    puppet.run(batch).map(drop)
}
