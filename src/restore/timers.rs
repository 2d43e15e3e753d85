//! Interval timers and POSIX timers: made early, started last.

use std::io;
use std::time::{Duration, Instant};

use crate::model::manifest::Clocks;
use crate::model::process::Process;
use crate::model::signals::Pending;
use crate::model::timers::PosixTimer;
use crate::model::{Checkpoint, Nanos, Pid};
use crate::sys::{ptrace, tasks};

use super::stub::{Batch, Expect, Puppet};
use super::{Error, Options, namespaces};

const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
const SIGEV_SIGNAL: i32 = 0;
const SIGEV_THREAD_ID: i32 = 4;
const TIMER_ABSTIME: u64 = 1;
/// Before Linux 6.15 ids are counted up: how far we are willing to count.
const MOST_TRIES: i32 = 1 << 16;

/// Makes POSIX timers with the ids they had, each in the thread whose CPU time it measures, if it does.
pub fn create(leader: &mut Puppet, others: &mut [Puppet], process: &Process) -> Result<(), Error> {
    if process.timers.is_empty() {
        return Ok(());
    }
    let mut batch = leader.batch();
    batch.call_expecting(Expect::Anything, "prctl", libc::SYS_prctl, &[PR_TIMER_CREATE_RESTORE_IDS, 1]);
    let by_id = leader.run(batch)?.first() == Some(&0);
    for timer in &process.timers {
        let owner = process.threads.iter().position(|t| Some(t.tid) == timer.owner).unwrap_or(0);
        let puppet = owner.checked_sub(1).and_then(|i| others.get_mut(i)).unwrap_or(&mut *leader);
        if by_id {
            let mut batch = puppet.batch();
            make(&mut batch, timer);
            puppet.run(batch)?;
        } else {
            count_up_to(puppet, timer)?;
        }
    }
    let mut batch = leader.batch();
    batch.call_expecting(Expect::Anything, "prctl", libc::SYS_prctl, &[PR_TIMER_CREATE_RESTORE_IDS, 0]);
    leader.run(batch).map(drop)
}

fn make(batch: &mut Batch, timer: &PosixTimer) -> crate::model::Addr {
    let mut event = timer.sigval.to_le_bytes().to_vec();
    event.extend(timer.signal.to_le_bytes());
    event.extend(timer.notify.to_le_bytes());
    event.extend(timer.thread.filter(|_| timer.notify == SIGEV_THREAD_ID).map_or(0, |t| t.0).to_le_bytes());
    event.resize(64, 0);
    let event = batch.data(&event);
    let id = batch.data(&timer.id.to_le_bytes());
    batch.call("timer_create", libc::SYS_timer_create, &[timer.clock as u64, event.0, id.0]);
    id
}

fn count_up_to(puppet: &mut Puppet, timer: &PosixTimer) -> Result<(), Error> {
    for _ in 0..MOST_TRIES {
        let mut batch = puppet.batch();
        let at = make(&mut batch, timer);
        puppet.run(batch)?;
        let mut id = [0u8; 4];
        puppet.read(at, &mut id)?;
        let id = i32::from_le_bytes(id);
        if id == timer.id {
            return Ok(());
        }
        let mut batch = puppet.batch();
        batch.call("timer_delete", libc::SYS_timer_delete, &[id as u64]);
        puppet.run(batch)?;
    }
    let source = std::io::Error::other(format!("its id {} is out of reach", timer.id));
    Err(Error::step("making a timer", puppet.host(), source))
}

/// POSIX timers as the clocks stand now.
#[derive(Debug)]
struct Moments<'a> {
    clocks: &'a Clocks,
    /// Since the moment of the image.
    elapsed: Nanos,
    /// Whether the program has clocks of its own.
    own: bool,
}

impl<'a> Moments<'a> {
    fn of(host: i32, checkpoint: &'a Checkpoint, options: &Options) -> Result<Moments<'a>, Error> {
        let elapsed = namespaces::elapsed(host, checkpoint, options)?;
        Ok(Moments { clocks: &checkpoint.manifest.clocks, elapsed, own: namespaces::wanted(options).time })
    }

    /// What its clock showed when the clocks went on, if it is one that went on.
    fn clock(&self, timer: &PosixTimer) -> Option<Nanos> {
        match timer.clock {
            libc::CLOCK_MONOTONIC if self.own => Some(self.clocks.monotonic),
            libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM if self.own => Some(self.clocks.boottime),
            _ => None,
        }
    }

    /// When it goes off next: flags and value for timer_settime(2).
    fn next(&self, timer: &PosixTimer) -> (u64, Nanos) {
        match (self.clock(timer), timer.clock) {
            (Some(clock), _) => (TIMER_ABSTIME, Nanos(clock.0.saturating_add(timer.value.0))),
            (None, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM | libc::CLOCK_TAI) => {
                (0, Nanos(timer.value.less(self.elapsed).0.max(1)))
            }
            _ => (0, timer.value),
        }
    }

    /// When one that waits for its signal to be taken has gone off last, or as good as: its next time is a period later, and
    /// what comes between is an overrun. Of one on processor time, which has hardly begun, no such moment has been.
    fn last(&self, timer: &PosixTimer) -> io::Result<Nanos> {
        let now = match (self.clock(timer), timer.clock) {
            (Some(clock), _) => clock,
            (None, clock @ (libc::CLOCK_REALTIME | libc::CLOCK_TAI)) => tasks::clock(clock)?.less(self.elapsed),
            (None, libc::CLOCK_REALTIME_ALARM) => tasks::clock(libc::CLOCK_REALTIME)?.less(self.elapsed),
            (None, clock @ (libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME)) => tasks::clock(clock)?,
            (None, libc::CLOCK_BOOTTIME_ALARM) => tasks::clock(libc::CLOCK_BOOTTIME)?,
            _ => Nanos(0),
        };
        Ok(Nanos(now.0.saturating_add(timer.value.0).saturating_sub(timer.interval.0).max(1)))
    }
}

/// Has timers go off whose signals wait to be taken. Only so does such a signal belong to its timer: no other of that timer comes
/// beside it, and it goes when the timer is deleted or set anew.
#[derive(Debug)]
pub struct Due<'a> {
    process: &'a Process,
    checkpoint: &'a Checkpoint,
    options: &'a Options,
    gone_off: Vec<i32>,
}

impl<'a> Due<'a> {
    /// Those of a process.
    pub fn of(process: &'a Process, checkpoint: &'a Checkpoint, options: &'a Options) -> Due<'a> {
        Due { process, checkpoint, options, gone_off: Vec::new() }
    }

    /// The ids of those that have gone off.
    pub fn gone_off(self) -> Vec<i32> {
        self.gone_off
    }

    /// Whether a signal that waited, for one thread or (`None`) for all, does so again because its timer has gone off.
    ///
    /// # Errors
    /// If the timer can't be set.
    pub fn go_off(&mut self, puppet: &mut Puppet, pending: &Pending, thread: Option<Pid>) -> Result<bool, Error> {
        let timer = self.process.timers.iter().find(|timer| {
            let notifies = if thread.is_some() { SIGEV_THREAD_ID } else { SIGEV_SIGNAL };
            pending.timer() == Some(timer.id)
                && (timer.signal, timer.notify) == (pending.signal, notifies)
                && timer.thread == thread
        });
        let Some(timer) = timer.filter(|timer| !self.gone_off.contains(&timer.id)) else { return Ok(false) };
        let host = puppet.host();
        let last = Moments::of(host, self.checkpoint, self.options)?.last(timer);
        set(puppet, timer, last.map_err(|e| Error::step("reading a clock", host, e))?)?;
        // An interrupt makes it go off, at once.
        const SOON: Duration = Duration::from_secs(1);
        let deadline = Instant::now() + SOON;
        for round in 0.. {
            let waiting = ptrace::pending(host, thread.is_none());
            let waiting = waiting.map_err(|e| Error::step("reading the pending signals", host, e))?;
            if waiting.iter().any(|pending| pending.timer() == Some(timer.id)) {
                self.gone_off.push(timer.id);
                return Ok(true);
            }
            if Instant::now() > deadline {
                break;
            }
            tasks::back_off(round);
        }
        set(puppet, timer, Nanos(0))?;
        Ok(false)
    }
}

/// Sets a timer to go off at a moment of its clock; 0: not at all.
fn set(puppet: &mut Puppet, timer: &PosixTimer, moment: Nanos) -> Result<(), Error> {
    let mut batch = puppet.batch();
    set_time(&mut batch, timer, (TIMER_ABSTIME, moment));
    puppet.run(batch).map(drop)
}

fn set_time(batch: &mut Batch, timer: &PosixTimer, (flags, first): (u64, Nanos)) {
    let at = batch.data(&encoded(&[timer.interval, first].map(|n| [n.parts().0, n.parts().1])));
    batch.call("timer_settime", libc::SYS_timer_settime, &[timer.id as u64, flags, at.0, 0]);
}

/// Starts what was running, with the time that was left when the clocks went on, which is a while ago; but for the timers
/// that have `gone_off` again.
pub fn arm(
    puppet: &mut Puppet,
    process: &Process,
    gone_off: &[i32],
    (checkpoint, options): (&Checkpoint, &Options),
) -> Result<(), Error> {
    let moments = Moments::of(puppet.host(), checkpoint, options)?;
    let mut batch = puppet.batch();
    let zero = Nanos(0);
    let tick = tasks::tick().map_err(|e| Error::step("reading a clock's resolution", puppet.host(), e))?;
    for (which, timer) in process.itimers.iter().enumerate().filter(|(_, t)| t.value != zero || t.interval != zero) {
        let micros = |n: Nanos| [n.parts().0, n.parts().1 / 1000];
        // A period without a remainder: it has expired, and the kernel starts it again when the program takes the
        // signal, which is pending. Otherwise a remainder below a microsecond must not disarm it.
        // To those that run on CPU time the kernel adds a tick when they are set (kernel/time/itimer.c).
        let left = timer.value.less(if which == 0 { moments.elapsed } else { tick }).0;
        let value = if timer.value == zero { timer.interval } else { Nanos(left.max(1000)) };
        let at = batch.data(&encoded(&[micros(timer.interval), micros(value)]));
        batch.call("setitimer", libc::SYS_setitimer, &[which as u64, at.0, 0]);
    }
    for timer in process.timers.iter().filter(|t| t.value != zero && !gone_off.contains(&t.id)) {
        puppet.flush_for(&mut batch, 1, 48)?;
        set_time(&mut batch, timer, moments.next(timer));
    }
    puppet.run(batch).map(drop)
}

fn encoded(words: &[[i64; 2]; 2]) -> Vec<u8> {
    words.iter().flatten().flat_map(|w| w.to_le_bytes()).collect()
}
