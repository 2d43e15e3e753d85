//! signalfd(2).

use std::os::fd::OwnedFd;

use crate::model::signalfd::Signalfd;
use crate::sys::fds;

use super::Error;

/// A descriptor that accepts the same signals.
pub fn open(signals: &Signalfd, flags: u32) -> Result<OwnedFd, Error> {
    fds::signalfd(signals.mask, flags as i32 & libc::O_NONBLOCK | libc::SFD_CLOEXEC)
        .map_err(|e| Error::step("making a signalfd", 0, e))
}
