//! timerfd_create(2).

use std::os::fd::{AsFd, OwnedFd};

use crate::model::fd::Kind;
use crate::model::timerfd::Timerfd;
use crate::model::{Checkpoint, Nanos};
use crate::sys::fds;

use super::Error;

const TFD_TIMER_ABSTIME: u32 = 1;

/// A timer that has yet to be started.
pub fn open(timer: &Timerfd, flags: u32) -> Result<OwnedFd, Error> {
    fds::timerfd(timer.clock, flags as i32 & libc::O_NONBLOCK | libc::TFD_CLOEXEC)
        .map_err(|e| Error::step("making a timerfd", 0, e))
}

/// Starts timers with the time they had left when the program's clocks went on, `elapsed` ago. Comes last: so there is no
/// telling that they stood still. One that was set to a moment of the wall clock still means that moment.
pub fn start(checkpoint: &Checkpoint, timers: &[(u32, OwnedFd)], elapsed: Nanos) -> Result<(), Error> {
    let saved = &checkpoint.manifest.clocks;
    for (index, fd) in timers {
        let Some(Kind::Timerfd(timer)) = checkpoint.files.get(*index as usize).map(|f| &f.kind) else { continue };
        let fail = |e| Error::step("starting a timerfd", 0, e);
        let wall = matches!(timer.clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM);
        let set_to_moment = wall && timer.settime_flags & TFD_TIMER_ABSTIME != 0;
        let timer = if set_to_moment { *timer } else { timer.later(elapsed) };
        if timer.value != Nanos(0) {
            let (flags, first) = match set_to_moment {
                true => (timer.settime_flags, Nanos(saved.realtime.0.saturating_add(timer.value.0))),
                false => (0, timer.value),
            };
            fds::timerfd_set(fd.as_fd(), flags as i32, first.parts(), timer.interval.parts()).map_err(fail)?;
        }
        if timer.ticks > 0 {
            fds::timerfd_set_ticks(fd.as_fd(), timer.ticks).map_err(fail)?;
        }
    }
    Ok(())
}
