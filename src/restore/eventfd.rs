//! eventfd(2).

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use crate::model::eventfd::Eventfd;
use crate::sys::fds;

use super::Error;

/// An event counter with its count.
pub fn open(event: &Eventfd, flags: u32) -> Result<OwnedFd, Error> {
    let fail = |e| Error::step("making an eventfd", 0, e);
    let semaphore = if event.semaphore { libc::EFD_SEMAPHORE } else { 0 };
    let fd = fds::eventfd(flags as i32 & libc::O_NONBLOCK | semaphore | libc::EFD_CLOEXEC).map_err(fail)?;
    let mut file = File::from(fd);
    if event.count > 0 {
        file.write_all(&event.count.to_ne_bytes()).map_err(fail)?;
    }
    Ok(file.into())
}
