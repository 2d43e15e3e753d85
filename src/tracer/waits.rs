//! How long calls with a time-out have waited, and what is left of it.
//!
//! A stop interrupts a sleeping call. Some the kernel goes on with by itself, and remembers when they are to end: in the
//! program that keeps running, not in an image (`restart_syscall`; nanosleep, clock_nanosleep, poll, futex). Others are
//! issued again as if nothing had been waited (epoll_wait). What is left is where nanosleep has written it, or the
//! time-out less the age of the sleep: the scheduler knows when a thread last ran. Where it does not know for sure, the
//! time-out starts anew: rather late than early.

use std::collections::HashMap;

use crate::model::Nanos;
use crate::model::thread::Regs;
use crate::proc;
use crate::sys::{sched, tasks};

use super::frame::{ERESTART_RESTARTBLOCK, ERESTARTNOHAND};
use super::liveness;

/// A thread that sleeps in a call with a time-out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sleeper {
    /// Since when, by CLOCK_MONOTONIC; not earlier than it was.
    since: Nanos,
    /// How often it had given up the processor by then.
    switches: u64,
    /// When it was interrupted.
    until: Nanos,
}

/// Looks at a thread; `clocks` remembers what has been learned of processors.
pub(super) fn look(tid: i32, clocks: &mut Clocks) -> Option<Sleeper> {
    let (nr, args) = proc::blocked_in(tid).ok()??;
    if !timed(nr, &args) {
        return None;
    }
    let seen = proc::sched(tid).ok()?;
    let offset = clocks.offset(proc::stat(tid).ok()?.processor)?;
    let since = Nanos(i64::try_from(seen.exec_start).ok()?.checked_add(offset.0)?);
    Some(Sleeper { since, switches: seen.voluntary, until: since })
}

/// Whether the call may end by itself, after a time that [`left`] can tell.
fn timed(nr: i64, args: &[u64; 6]) -> bool {
    match nr {
        libc::SYS_restart_syscall | libc::SYS_nanosleep | libc::SYS_clock_nanosleep => true,
        libc::SYS_poll => args[2] as i32 > 0,
        libc::SYS_futex => args[3] != 0,
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => args[3] as i32 > 0,
        _ => false,
    }
}

impl Sleeper {
    /// Right before the interrupt: whether it is still the same sleep.
    pub fn still(mut self, tid: i32) -> Option<Sleeper> {
        self.until = tasks::clock(libc::CLOCK_MONOTONIC).ok()?;
        (proc::sched(tid).ok()?.voluntary == self.switches).then_some(self)
    }

    /// Once it has stopped: how long it slept, if it has done nothing since but to wake up and stop.
    pub fn slept(&self, tid: i32) -> Option<Nanos> {
        (proc::sched(tid).ok()?.voluntary == self.switches + 1 && self.until > self.since)
            .then(|| Nanos(self.until.0 - self.since.0))
    }
}

/// How far CLOCK_MONOTONIC is ahead of each processor's own clock.
#[derive(Debug, Default)]
pub(super) struct Clocks(HashMap<i32, Option<Nanos>>);

impl Clocks {
    fn offset(&mut self, cpu: i32) -> Option<Nanos> {
        *self.0.entry(cpu).or_insert_with(|| std::thread::spawn(move || measure(cpu)).join().ok().flatten())
    }
}

/// In a thread of its own, which moves to the processor. Its last run is counted some time before it asks, so the result
/// is not too small.
fn measure(cpu: i32) -> Option<Nanos> {
    let cpu = usize::try_from(cpu).ok().filter(|&c| c < 8192)?;
    let mut bits = vec![0u8; 1024];
    *bits.get_mut(cpu / 8)? = 1 << (cpu % 8);
    sched::set_affinity(0, &bits).ok()?;
    let once = || {
        let own = i64::try_from(proc::sched("thread-self").ok()?.exec_start).ok()?;
        Some(Nanos(tasks::clock(libc::CLOCK_MONOTONIC).ok()?.0 - own))
    };
    (0..3).filter_map(|_| once()).min()
}

/// What is left of the time-out of the interrupted `call`, at least 1 ns; `slept`: how long the thread slept in it, if
/// that is known. `read` copies from the program.
pub(super) fn left(
    regs: &Regs,
    call: i64,
    slept: Option<Nanos>,
    read: impl Fn(u64, &mut [u8]) -> bool,
) -> Option<Nanos> {
    const MILLISECOND: i64 = 1_000_000;
    let time = |at: u64| {
        let mut spec = [0u8; 16];
        let word =
            |spec: &[u8; 16], i: usize| spec.get(i..).and_then(|b| b.first_chunk()).map(|b| i64::from_le_bytes(*b));
        let ok = at != 0 && read(at, &mut spec);
        let (seconds, nanos) = (word(&spec, 0).filter(|_| ok)?, word(&spec, 8)?);
        (seconds >= 0 && (0..1_000_000_000).contains(&nanos))
            .then(|| seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    };
    let rest = |total: i64| slept.map(|s| total - s.0);
    let kept = regs.rax as i64 == ERESTART_RESTARTBLOCK;
    let anew = regs.rax as i64 == ERESTARTNOHAND;
    // To the kernel a remainder of 0 means none: nanosleep(2) then writes nothing.
    let left = match call {
        libc::SYS_nanosleep if kept => time(regs.rsi).or_else(|| rest(time(regs.rdi)?)),
        // CLOCK_REALTIME, MONOTONIC, BOOTTIME, TAI; not TIMER_ABSTIME.
        libc::SYS_clock_nanosleep if kept && regs.rsi & 1 == 0 && matches!(regs.rdi, 0 | 1 | 7 | 11) => {
            time(regs.r10).or_else(|| rest(time(regs.rdx)?))
        }
        // FUTEX_WAIT, private or not, by either clock: only its time-out is relative.
        libc::SYS_futex if kept && regs.rsi & !0x180 == 0 => rest(time(regs.r10)?),
        libc::SYS_poll if kept && regs.rdx as i32 > 0 => rest(i64::from(regs.rdx as i32) * MILLISECOND),
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait if anew && regs.r10 as i32 > 0 => {
            rest(i64::from(regs.r10 as i32) * MILLISECOND)
        }
        _ => None,
    };
    left.map(|ns| Nanos(ns.max(1)))
}

/// Registers by which epoll_wait waits only for what is left: its time-out is in a register. `None` for other calls, and
/// where the program might look at that register afterwards.
pub(super) fn shortened(regs: &Regs, call: i64, left: Nanos, read: impl Fn(u64, &mut [u8]) -> bool) -> Option<Regs> {
    if !matches!(call, libc::SYS_epoll_wait | libc::SYS_epoll_pwait) {
        return None;
    }
    const AROUND: u64 = 1024;
    let mut code = [0u8; 2 * AROUND as usize];
    // The code may begin less than that before.
    let before = [AROUND, regs.rip % 4096].into_iter().find(|&n| read(regs.rip.wrapping_sub(n), &mut code))?;
    liveness::r10_is_dead(&code, before as usize).then_some(Regs { r10: milliseconds(left), ..*regs })
}

/// Rounded up, so that no wait ends early.
fn milliseconds(left: Nanos) -> u64 {
    const MILLISECOND: i64 = 1_000_000;
    (left.0.saturating_add(MILLISECOND - 1) / MILLISECOND).clamp(1, i64::from(i32::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regs(rax: i64) -> Regs {
        Regs { rax: rax as u64, rdi: 0x1000, rsi: 0x2000, ..Regs::default() }
    }

    /// 100 s at 0x1000; 40 s and 7 ns at 0x2000.
    fn memory(at: u64, out: &mut [u8]) -> bool {
        let (seconds, nanos) = if at == 0x1000 { (100i64, 0i64) } else { (40, 7) };
        out.copy_from_slice(&[seconds.to_le_bytes(), nanos.to_le_bytes()].concat());
        at == 0x1000 || at == 0x2000
    }

    #[test]
    fn what_the_kernel_has_written_counts_first() {
        let r = regs(ERESTART_RESTARTBLOCK);
        assert_eq!(left(&r, libc::SYS_nanosleep, None, memory), Some(Nanos(40_000_000_007)));
        let r = Regs { rsi: 0, ..r };
        assert_eq!(left(&r, libc::SYS_nanosleep, None, memory), None);
        assert_eq!(left(&r, libc::SYS_nanosleep, Some(Nanos(99_000_000_000)), memory), Some(Nanos(1_000_000_000)));
        assert_eq!(left(&r, libc::SYS_nanosleep, Some(Nanos(101_000_000_000)), memory), Some(Nanos(1)));
        assert_eq!(left(&regs(-4), libc::SYS_nanosleep, None, memory), None);
    }

    #[test]
    fn absolute_and_endless_calls_have_no_remainder() {
        let slept = Some(Nanos(5));
        let sleep = |flags| Regs { rdi: 1, rsi: flags, rdx: 0x1000, ..regs(ERESTART_RESTARTBLOCK) };
        assert_eq!(left(&sleep(0), libc::SYS_clock_nanosleep, slept, memory), Some(Nanos(99_999_999_995)));
        assert_eq!(left(&sleep(1), libc::SYS_clock_nanosleep, slept, memory), None);
        let poll = |ms: i32| Regs { rdx: ms as u32 as u64, ..regs(ERESTART_RESTARTBLOCK) };
        assert_eq!(left(&poll(3), libc::SYS_poll, slept, memory), Some(Nanos(2_999_995)));
        assert_eq!(left(&poll(-1), libc::SYS_poll, slept, memory), None);
        assert!(!timed(libc::SYS_epoll_wait, &[0, 0, 0, u64::from(u32::MAX), 0, 0]));
        assert!(!timed(libc::SYS_futex, &[0; 6]) && timed(libc::SYS_poll, &[0, 0, 9, 0, 0, 0]));
    }
}
