//! timerfd_create(2).

use std::os::fd::{AsFd, AsRawFd};

use crate::model::{Nanos, timerfd};
use crate::proc::fdinfo::{self, Detail};
use crate::sys::fds;
use crate::tracer::Held;

use super::Error;
use super::fd::SeenFd;

/// A timer: all of it is in fdinfo. But a periodic one that ran out is not started again before somebody asks: then
/// the kernel counts the ticks it owes. Asking for the time left is such a question, and changes nothing the program
/// could see.
pub(super) fn capture(held: &Held, s: &SeenFd, seen: &fdinfo::Timerfd) -> Result<timerfd::Timerfd, Error> {
    let zero = (0, 0);
    if seen.ticks == 0 || seen.interval == zero || seen.value != zero {
        return Ok(model(seen));
    }
    let copy = s.copy(held)?;
    fds::timerfd_left(copy.as_fd()).map_err(Error::of(s.host, "reading a timerfd"))?;
    let pid = std::process::id() as i32;
    match crate::proc::fdinfo(pid, copy.as_raw_fd()).map_err(Error::proc(s.host))?.detail {
        Detail::Timerfd(now) => Ok(model(&now)),
        _ => Ok(model(seen)),
    }
}

fn model(timer: &fdinfo::Timerfd) -> timerfd::Timerfd {
    let nanos = |(seconds, nanos)| Nanos::from_parts(seconds, nanos);
    timerfd::Timerfd {
        clock: timer.clock,
        ticks: timer.ticks,
        settime_flags: timer.settime_flags,
        value: nanos(timer.value),
        interval: nanos(timer.interval),
    }
}
