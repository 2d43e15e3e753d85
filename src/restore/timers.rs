//! Interval timers and POSIX timers: made early, started last.

use crate::model::Checkpoint;
use crate::model::Nanos;
use crate::model::process::Process;
use crate::model::timers::PosixTimer;
use crate::sys::tasks;

use super::stub::{Batch, Expect, Puppet};
use super::{Error, Options, namespaces};

const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
const SIGEV_THREAD_ID: i32 = 4;
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

/// Starts what was running, with the time that was left when the clocks went on, which is a while ago.
pub fn arm(puppet: &mut Puppet, process: &Process, checkpoint: &Checkpoint, options: &Options) -> Result<(), Error> {
    const TIMER_ABSTIME: u64 = 1;
    let elapsed = namespaces::elapsed(puppet.host(), checkpoint, options)?;
    let kept = namespaces::wanted(options).time;
    let clocks = &checkpoint.manifest.clocks;
    let mut batch = puppet.batch();
    let zero = Nanos(0);
    let tick = tasks::tick().map_err(|e| Error::step("reading a clock's resolution", puppet.host(), e))?;
    for (which, timer) in process.itimers.iter().enumerate().filter(|(_, t)| t.value != zero || t.interval != zero) {
        let micros = |n: Nanos| [n.parts().0, n.parts().1 / 1000];
        // A period without a remainder: it has expired, and the kernel starts it again when the program takes the
        // signal, which is pending. Otherwise a remainder below a microsecond must not disarm it.
        // To those that run on CPU time the kernel adds a tick when they are set (kernel/time/itimer.c).
        let left = timer.value.less(if which == 0 { elapsed } else { tick }).0;
        let value = if timer.value == zero { timer.interval } else { Nanos(left.max(1000)) };
        let at = batch.data(&encoded(&[micros(timer.interval), micros(value)]));
        batch.call("setitimer", libc::SYS_setitimer, &[which as u64, at.0, 0]);
    }
    for timer in process.timers.iter().filter(|t| t.value != zero) {
        puppet.flush_for(&mut batch, 1, 48)?;
        let parts = |n: Nanos| [n.parts().0, n.parts().1];
        let moment = |clock: Nanos| (TIMER_ABSTIME, Nanos(clock.0.saturating_add(timer.value.0)));
        let (flags, first) = match timer.clock {
            libc::CLOCK_MONOTONIC if kept => moment(clocks.monotonic),
            libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM if kept => moment(clocks.boottime),
            libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM | libc::CLOCK_TAI => {
                (0, Nanos(timer.value.less(elapsed).0.max(1)))
            }
            _ => (0, timer.value),
        };
        let at = batch.data(&encoded(&[parts(timer.interval), parts(first)]));
        batch.call("timer_settime", libc::SYS_timer_settime, &[timer.id as u64, flags, at.0, 0]);
    }
    puppet.run(batch).map(drop)
}

fn encoded(words: &[[i64; 2]; 2]) -> Vec<u8> {
    words.iter().flatten().flat_map(|w| w.to_le_bytes()).collect()
}
