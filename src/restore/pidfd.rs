//! pidfd_open(2).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use crate::model::fd::{Kind, OpenFile};
use crate::model::pidfd::Pidfd;
use crate::model::{Addr, Pid};
use crate::sys;

use super::Error;
use super::build::{WALL, clone_into, end_as};
use super::stub::Puppet;

const FLAGS: u32 = (libc::O_NONBLOCK | libc::O_EXCL) as u32;

/// A descriptor of a process or thread that is there, by its id in the image. `hosts`: these ids as we see them.
pub fn open(pid: Pid, flags: u32, hosts: &BTreeMap<Pid, i32>) -> Result<OwnedFd, Error> {
    let missing = || Error::step("opening a pidfd", pid.0, io::Error::other("it was not made"));
    open_host(hosts.get(&pid).copied().ok_or_else(missing)?, flags)
}

fn open_host(host: i32, flags: u32) -> Result<OwnedFd, Error> {
    sys::pidfd::open(host, flags & FLAGS).map_err(|e| Error::step("opening a pidfd", host, e))
}

/// Descriptors of processes that have ended and been waited for, by the index of their description. `maker` makes such
/// processes: outside their pid namespace signals would fail with another error (kernel/signal.c, access_pidfd_pidns).
/// Any pid will do: nobody sees it.
pub fn of_ended(maker: &mut Puppet, files: &[OpenFile]) -> Result<Vec<(u32, OwnedFd)>, Error> {
    let mut wanted: BTreeMap<u64, (i32, Vec<(u32, u32)>)> = BTreeMap::new();
    for (file, index) in files.iter().zip(0u32..) {
        if let Kind::Pidfd(Pidfd::Gone { id, status }) = file.kind {
            wanted.entry(id).or_insert((status, Vec::new())).1.push((index, file.flags));
        }
    }
    let mut out = Vec::new();
    for (status, files) in wanted.into_values() {
        let mut batch = maker.batch();
        clone_into(&mut batch, 0, 0, None);
        let (results, births) = maker.run_with_births(batch)?;
        let Some((pid, task)) = results.first().zip(births.into_iter().next()) else { continue };
        let dying = Puppet::adopt(task, Addr(maker.data().0 - 4096))?;
        // They can be opened until it is waited for.
        for (index, flags) in files {
            out.push((index, open_host(dying.host(), flags)?));
        }
        end_as(dying, status)?;
        let mut batch = maker.batch();
        batch.call("wait4", libc::SYS_wait4, &[*pid, 0, WALL, 0]);
        maker.run(batch)?;
    }
    Ok(out)
}
