//! timerfd_create(2).

use std::os::fd::{AsFd, OwnedFd};

use crate::model::Nanos;
use crate::model::manifest::Clocks;
use crate::model::timerfd::Timerfd;
use crate::sys::fds;

use super::Error;

const TFD_TIMER_ABSTIME: u32 = 1;

/// A timer with the time it had left. One that was set to a moment of the wall clock still means that moment.
pub fn open(timer: &Timerfd, flags: u32, saved: &Clocks) -> Result<OwnedFd, Error> {
    let fail = |e| Error::step("making a timerfd", 0, e);
    let fd = fds::timerfd(timer.clock, flags as i32 & libc::O_NONBLOCK | libc::TFD_CLOEXEC).map_err(fail)?;
    let wall = matches!(timer.clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM);
    if timer.value != Nanos(0) {
        let (flags, first) = if wall && timer.settime_flags & TFD_TIMER_ABSTIME != 0 {
            (timer.settime_flags, Nanos(saved.realtime.0.saturating_add(timer.value.0)))
        } else {
            (0, timer.value)
        };
        fds::timerfd_set(fd.as_fd(), flags as i32, first.parts(), timer.interval.parts()).map_err(fail)?;
    }
    if timer.ticks > 0 {
        fds::timerfd_set_ticks(fd.as_fd(), timer.ticks).map_err(fail)?;
    }
    Ok(fd)
}
