//! timerfd_create(2).

use std::os::fd::{AsFd, AsRawFd};

use crate::model::fd::{Kind, OpenFile};
use crate::model::{Nanos, timerfd};
use crate::proc::fdinfo::{self, Detail};
use crate::sys::{fds, tasks};
use crate::tracer::Held;

use super::Error;
use super::fd::SeenFd;

const TRIES: u32 = 5;

/// A timer: all of it is in fdinfo. But a periodic one that ran out is not started again before somebody asks: then
/// the kernel counts the ticks it owes. Asking for the time left is such a question, and changes nothing the program
/// could see.
pub(super) fn capture(held: &Held, s: &SeenFd, seen: &fdinfo::Timerfd) -> Result<timerfd::Timerfd, Error> {
    let zero = (0, 0);
    if seen.value == zero && seen.ticks != 0 && seen.interval == zero {
        return Ok(model(seen));
    }
    // What was seen is of some time ago: it is looked at anew, and then at the clock.
    let copy = s.copy(held)?;
    let pid = std::process::id() as i32;
    let mut now = *seen;
    // It may run out again before it is looked at; and one that seems not to be set may be about to tick.
    for round in 0..TRIES {
        fds::timerfd_left(copy.as_fd()).map_err(Error::of(s.host, "reading a timerfd"))?;
        if let Detail::Timerfd(again) = crate::proc::fdinfo(pid, copy.as_raw_fd()).map_err(Error::proc(s.host))?.detail
        {
            now = again;
        }
        if now.value != zero || now.ticks != 0 && now.interval == zero {
            break;
        }
        tasks::back_off(round);
    }
    if now.value == zero && now.ticks != 0 {
        now.value = now.interval;
    }
    settled(&now, held)
}

/// With the time left from when the tree stood still, by which [`settle`] goes.
fn settled(seen: &fdinfo::Timerfd, held: &Held) -> Result<timerfd::Timerfd, Error> {
    let mut timer = model(seen);
    if timer.value != Nanos(0) {
        let now = tasks::clock(libc::CLOCK_MONOTONIC).map_err(Error::io("reading", "the clock"))?;
        timer.value = timer.value.less(held.stood.less(now));
    }
    Ok(timer)
}

/// From when the tree stood still to the moment `time` later, at which the image has its clocks.
pub(super) fn settle(files: &mut [OpenFile], time: Nanos) {
    for file in files {
        if let Kind::Timerfd(timer) = &mut file.kind {
            *timer = timer.later(time);
        }
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
