//! Interval timers and POSIX timers.

use crate::model::Nanos;
use crate::model::timers::{IntervalTimer, PosixTimer};
use crate::proc::timers::Timer;
use crate::tracer::Remote;

use super::thread::words;
use super::{Error, Inside};

const SIGEV_THREAD_ID: i32 = 4;

/// getitimer(2): real, virtual, profiling.
pub(super) fn itimers(remote: &mut Remote<'_>) -> Result<[IntervalTimer; 3], Error> {
    /// `struct itimerval`: period, then time left, each seconds and microseconds.
    const LEN: u64 = 32;
    let scratch = remote.scratch();
    for which in 0..3 {
        remote.call("getitimer", libc::SYS_getitimer, [which, scratch.0 + which * LEN, 0, 0, 0, 0])?;
    }
    let mut bytes = [0u8; 3 * LEN as usize];
    remote.read(scratch, &mut bytes)?;
    let mut out = [IntervalTimer::default(); 3];
    for (timer, bytes) in out.iter_mut().zip(bytes.chunks_exact(LEN as usize)) {
        let [period_s, period_us, left_s, left_us] = words(bytes).map(|w| w as i64);
        timer.value = Nanos::from_parts(left_s, left_us.saturating_mul(1000));
        timer.interval = Nanos::from_parts(period_s, period_us.saturating_mul(1000));
    }
    Ok(out)
}

/// POSIX timers, lowest id first. `listed` has thread ids as we see them.
pub(super) fn posix(remote: &mut Remote<'_>, listed: &[Timer], inside: &Inside) -> Result<Vec<PosixTimer>, Error> {
    let mut out = Vec::with_capacity(listed.len());
    for timer in listed {
        let scratch = remote.scratch();
        let id = timer.id as u64;
        remote.call("timer_gettime", libc::SYS_timer_gettime, [id, scratch.0, 0, 0, 0, 0])?;
        // `struct itimerspec`: period, then time left, each seconds and nanoseconds.
        let mut bytes = [0u8; 32];
        remote.read(scratch, &mut bytes)?;
        let [period_s, period_ns, left_s, left_ns] = words(&bytes).map(|w| w as i64);
        let overrun = remote.call("timer_getoverrun", libc::SYS_timer_getoverrun, [id, 0, 0, 0, 0, 0])?;
        let to_thread = timer.notify & SIGEV_THREAD_ID != 0;
        out.push(PosixTimer {
            id: timer.id,
            clock: timer.clock,
            notify: timer.notify,
            signal: timer.signal,
            sigval: timer.sigval,
            thread: if to_thread { inside.thread(timer.target) } else { None },
            value: Nanos::from_parts(left_s, left_ns),
            interval: Nanos::from_parts(period_s, period_ns),
            overrun: overrun as i32,
        });
    }
    out.sort_by_key(|timer| timer.id);
    Ok(out)
}
