//! Interval timers and POSIX timers.

use crate::model::Nanos;
use crate::model::manifest::Clocks;
use crate::model::timers::{IntervalTimer, PosixTimer};
use crate::proc::timers::Timer;
use crate::sys::ptrace;
use crate::tracer::{Answers, Call, Calls, HeldProcess, Remote, Room};

use super::thread::words;
use super::{Error, Inside};

const SIGEV_THREAD_ID: i32 = 4;
/// How the kernel calls CLOCK_THREAD_CPUTIME_ID in /proc/PID/timers: the clock of "the thread that made the timer".
const OWN_CLOCK: i32 = -2;

/// What is asked of the timers of a process.
#[derive(Debug)]
pub(super) struct Asked {
    /// CLOCK_MONOTONIC when the timers are read.
    clock: Room,
    itimers: [Room; 3],
    /// POSIX timers, with time and overrun. Thread ids in them are as we see them.
    posix: Vec<(Timer, Room, Call)>,
}

/// Asks for getitimer(2): real, virtual, profiling; and for the POSIX timers in `listed`.
pub(super) fn ask(calls: &mut Calls, listed: Vec<Timer>) -> Asked {
    /// `struct itimerval` and `struct itimerspec`: period, then time left, each seconds and micro- or nanoseconds.
    const LEN: u64 = 32;
    let clock = calls.room(16);
    calls.call_into("clock_gettime", libc::SYS_clock_gettime, &[libc::CLOCK_MONOTONIC as u64], 1, clock);
    let itimers = [0, 1, 2].map(|which| {
        let room = calls.room(LEN);
        calls.call_into("getitimer", libc::SYS_getitimer, &[which], 1, room);
        room
    });
    let posix = listed.into_iter().map(|timer| {
        let id = timer.id as u64;
        let room = calls.room(LEN);
        calls.call_into("timer_gettime", libc::SYS_timer_gettime, &[id], 1, room);
        let overrun = calls.call("timer_getoverrun", libc::SYS_timer_getoverrun, &[id]);
        (timer, room, overrun)
    });
    Asked { clock, itimers, posix: posix.collect() }
}

impl Asked {
    /// How much later the clocks of the image are.
    fn before(&self, answers: &Answers, clocks: &Clocks) -> Nanos {
        let [seconds, nanos] = words(answers.bytes(self.clock)).map(|w| w as i64);
        clocks.monotonic.less(Nanos::from_parts(seconds, nanos))
    }
}

/// What is left `time` later. What went off meanwhile is among the pending signals, which are read after that; of one that
/// goes off only once that is not relied on.
fn later(value: Nanos, interval: Nanos, time: Nanos) -> Nanos {
    match value.less(time).0 {
        _ if value == Nanos(0) => value,
        left @ 1.. => Nanos(left),
        late if interval.0 > 0 => Nanos(interval.0 + late % interval.0),
        _ => Nanos(1),
    }
}

/// The interval timers.
pub(super) fn itimers(asked: &Asked, answers: &Answers, clocks: &Clocks) -> [IntervalTimer; 3] {
    let before = asked.before(answers, clocks);
    let mut itimers = asked.itimers.map(|room| {
        let [period_s, period_us, left_s, left_us] = words(answers.bytes(room)).map(|w| w as i64);
        IntervalTimer {
            value: Nanos::from_parts(left_s, left_us.saturating_mul(1000)),
            interval: Nanos::from_parts(period_s, period_us.saturating_mul(1000)),
        }
    });
    // The others measure CPU time.
    itimers[0].value = later(itimers[0].value, itimers[0].interval, before);
    itimers
}

/// POSIX timers, lowest id first.
pub(super) fn posix(asked: &Asked, answers: &Answers, clocks: &Clocks, inside: &Inside) -> Vec<PosixTimer> {
    let before = asked.before(answers, clocks);
    let mut out = Vec::with_capacity(asked.posix.len());
    for (timer, room, overrun) in &asked.posix {
        let [period_s, period_ns, left_s, left_ns] = words(answers.bytes(*room)).map(|w| w as i64);
        let (value, interval) = (Nanos::from_parts(left_s, left_ns), Nanos::from_parts(period_s, period_ns));
        let to_thread = timer.notify & SIGEV_THREAD_ID != 0;
        out.push(PosixTimer {
            id: timer.id,
            clock: timer.clock,
            notify: timer.notify,
            signal: timer.signal,
            sigval: timer.sigval,
            thread: if to_thread { inside.thread(timer.target) } else { None },
            owner: None,
            value: if measures_cpu_time(timer.clock) { value } else { later(value, interval, before) },
            interval,
            overrun: answers.value(*overrun) as i32,
        });
    }
    out.sort_by_key(|timer| timer.id);
    out
}

/// CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, and those of chosen processes and threads.
fn measures_cpu_time(clock: i32) -> bool {
    clock < 0 || matches!(clock, libc::CLOCK_PROCESS_CPUTIME_ID | libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Finds out which thread's CPU time a timer measures, which nothing tells: of the held threads only the one that we make
/// run uses any, so it is the one in which the time left shrinks from one look to the next. A timer that does not run is
/// set far off meanwhile.
pub(super) fn owners(p: &mut HeldProcess, timers: &mut [PosixTimer]) -> Result<(), Error> {
    const FAR: i64 = 1 << 30; // seconds
    let mut unknown: Vec<&mut PosixTimer> = timers.iter_mut().filter(|t| t.clock == OWN_CLOCK).collect();
    if unknown.is_empty() || p.threads.len() < 2 {
        return Ok(());
    }
    let mut signals = ptrace::pending(p.live(), true).map_err(Error::of(p.host, "reading the pending signals"))?;
    for t in &p.threads {
        signals.extend(ptrace::pending(t.host, false).map_err(Error::of(t.host, "reading the pending signals"))?);
    }
    // To set a timer would take back a signal of it that waits to be taken.
    unknown.retain(|t| t.value != Nanos(0) || !signals.iter().any(|s| s.timer() == Some(t.id)));
    let mut remote = p.remote(0)?;
    let mut lent = Vec::new();
    for timer in unknown.iter().filter(|t| t.value == Nanos(0)) {
        // Fails where the thread has ended.
        if set(&mut remote, timer.id, FAR)?.is_ok() {
            lent.push(timer.id);
        }
    }
    drop(remote);
    let found = search(p, unknown);
    let mut remote = p.remote(0)?;
    for id in lent {
        let _ = set(&mut remote, id, 0)?;
    }
    found
}

fn search(p: &mut HeldProcess, mut unknown: Vec<&mut PosixTimer>) -> Result<(), Error> {
    for index in 0..p.threads.len() {
        let tid = p.threads.get(index).map(|t| t.tid);
        let mut remote = p.remote(index)?;
        let mut others = Vec::new();
        for timer in unknown {
            let before = left(&mut remote, timer.id)?;
            if left(&mut remote, timer.id)? < before {
                timer.owner = tid;
            } else {
                others.push(timer);
            }
        }
        if others.is_empty() {
            break;
        }
        unknown = others;
    }
    Ok(())
}

fn set(remote: &mut Remote<'_>, id: i32, seconds: i64) -> Result<std::io::Result<u64>, Error> {
    let scratch = remote.scratch();
    let words = [0, 0, seconds, 0].map(i64::to_ne_bytes);
    remote.write(scratch, &words.concat())?;
    Ok(remote.try_call(libc::SYS_timer_settime, [id as u64, 0, scratch.0, 0, 0, 0])?)
}

fn left(remote: &mut Remote<'_>, id: i32) -> Result<Nanos, Error> {
    let scratch = remote.scratch();
    remote.call("timer_gettime", libc::SYS_timer_gettime, [id as u64, scratch.0, 0, 0, 0, 0])?;
    let mut bytes = [0u8; 32];
    remote.read(scratch, &mut bytes)?;
    let [_, _, seconds, nanos] = words(&bytes).map(|w| w as i64);
    Ok(Nanos::from_parts(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_later() {
        let after = |value, interval, time| later(Nanos(value), Nanos(interval), Nanos(time)).0;
        assert_eq!(after(0, 10, 5), 0);
        assert_eq!(after(30, 10, 5), 25);
        assert_eq!(after(30, 10, 30), 10);
        assert_eq!(after(30, 10, 47), 3);
        assert_eq!(after(30, 0, 47), 1);
    }
}
