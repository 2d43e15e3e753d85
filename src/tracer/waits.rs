//! How long calls with a time-out have waited, and what is left of it.
//!
//! A stop interrupts a sleeping call. Some the kernel goes on with by itself, and remembers when they are to end: in
//! the program that keeps running, not in an image (`restart_syscall`; nanosleep, clock_nanosleep, poll, futex). Others
//! are issued again as if nothing had been waited (epoll_wait, epoll_pwait2, sigtimedwait, semtimedop, io_getevents,
//! io_uring_enter). What is left is where nanosleep has written it, or the time-out less the age of the sleep: the
//! scheduler knows when a thread last ran. Where it does not know for sure, the time-out starts anew: rather late than
//! early.

use std::collections::HashMap;
use std::io;
use std::thread::Builder;

use crate::model::thread::Regs;
use crate::model::{Addr, Nanos};
use crate::proc::{self, smaps::Mapping};
use crate::sys::{mem, ptrace, sched, tasks};

use super::frame::{ERESTART_RESTARTBLOCK, ERESTARTNOHAND};
use super::liveness::{self, Register};
use super::patience;

/// libc has no name for it.
const SYS_IO_PGETEVENTS: i64 = 333;
/// IORING_ENTER_EXT_ARG.
const EXT_ARG: u64 = 1 << 3;
/// Bytes of a `struct io_uring_getevents_arg`, which ends with the address of a `timespec`.
const ARGUMENT: usize = 24;
/// Bytes of a `timespec`.
const SPEC: u64 = 16;

/// A thread that sleeps in a call with a time-out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sleeper {
    /// Since when, by CLOCK_MONOTONIC; not earlier than it was.
    since: Nanos,
    /// How often it had given up the processor by then.
    switches: u64,
    /// How often it had got one; 0 where the kernel does not count that.
    runs: u64,
}

/// Looks at a thread of a process; `clocks` remembers what has been learned of processors.
pub(super) fn look((pid, tid): (i32, i32), clocks: &mut Clocks) -> Option<Sleeper> {
    let (nr, args) = proc::blocked_in(tid).ok()??;
    if !timed(nr, &args) && !patience::waits(pid, tid, nr, &args) {
        return None;
    }
    // First what tells whether it has woken up since.
    let runs = proc::runs(tid).unwrap_or(0);
    let seen = proc::sched(tid).ok()?;
    let offset = clocks.offset(proc::stat(tid).ok()?.processor)?;
    let since = Nanos(i64::try_from(seen.exec_start).ok()?.checked_add(offset.0)?);
    Some(Sleeper { since, switches: seen.voluntary, runs })
}

/// Whether the call may end by itself, after a time that [`left`] can tell.
fn timed(nr: i64, args: &[u64; 6]) -> bool {
    match nr {
        libc::SYS_restart_syscall | libc::SYS_nanosleep | libc::SYS_clock_nanosleep => true,
        libc::SYS_poll => args[2] as i32 > 0,
        libc::SYS_futex => args[3] != 0,
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => args[3] as i32 > 0,
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => args[3] != 0,
        libc::SYS_rt_sigtimedwait => args[2] != 0,
        libc::SYS_io_getevents | SYS_IO_PGETEVENTS => args[4] != 0,
        libc::SYS_io_uring_enter => args[3] & EXT_ARG != 0,
        _ => false,
    }
}

impl Sleeper {
    /// Right before the interrupt: whether it is still the same sleep.
    pub fn still(self, tid: i32) -> Option<Sleeper> {
        let same = match self.runs {
            0 => proc::sched(tid).ok()?.voluntary == self.switches,
            runs => proc::runs(tid).ok()? == runs,
        };
        same.then_some(self)
    }

    /// Once it has stopped, and has given up the processor `switches` times: how long it was in the call at `until`, if
    /// it has done nothing since but to wake up and stop. On its way it may have waited for locks (those of a socket that
    /// others wait on, too).
    pub fn slept(&self, switches: u64, until: Nanos) -> Option<Nanos> {
        /// More locks than a call lets go of as it is interrupted.
        const LOCKS: u64 = 3;
        let once = self.switches + 1..=self.switches + 1 + LOCKS;
        (once.contains(&switches) && until > self.since).then(|| Nanos(until.0 - self.since.0))
    }
}

/// How far CLOCK_MONOTONIC is ahead of each processor's own clock.
#[derive(Debug, Default)]
pub(super) struct Clocks(HashMap<i32, Option<Nanos>>);

impl Clocks {
    fn offset(&mut self, cpu: i32) -> Option<Nanos> {
        *self.0.entry(cpu).or_insert_with(|| {
            let measuring = Builder::new().spawn(move || measure(cpu)).ok()?;
            measuring.join().ok().flatten()
        })
    }
}

/// In a thread of its own, which moves to the processor. Its last run is counted some time before it asks, so the
/// result is not too small.
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

/// The time-out of io_uring_enter that is a relative one, in a `struct io_uring_getevents_arg`
/// (include/uapi/linux/io_uring.h), of a call that submits nothing: that struct.
fn argument(regs: &Regs, read: impl Fn(u64, &mut [u8]) -> bool) -> Option<[u8; ARGUMENT]> {
    /// IORING_ENTER_ABS_TIMER, IORING_ENTER_EXT_ARG_REG.
    const OTHERS: u64 = 1 << 5 | 1 << 6;
    let mut bytes = [0; ARGUMENT];
    let there = regs.r10 & (EXT_ARG | OTHERS) == EXT_ARG && regs.rsi as u32 == 0 && regs.r9 == ARGUMENT as u64;
    // The mask of signals, its size, and after how long to be content with less.
    (there && read(regs.r8, &mut bytes) && bytes[12..16] == [0; 4]).then_some(bytes)
}

/// What is left of the time-out of the interrupted `call`, at least 1 ns; `slept`: how long the thread slept in it, if
/// that is known; `noted`: what is left by an earlier save or resume. `read` copies from the program.
pub(super) fn left(
    regs: &Regs,
    call: i64,
    (slept, noted): (Option<Nanos>, Option<Nanos>),
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
    let rest = |total: i64| noted.map(|n| n.0).filter(|&n| n <= total).or_else(|| slept.map(|s| total - s.0));
    // A `timeval` has microseconds.
    let short = |at: u64| time(at).map(|ns| ns / Nanos::PER_SECOND * Nanos::PER_SECOND + ns % Nanos::PER_SECOND * 1000);
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
        // Those write what is left where the time-out was.
        libc::SYS_select if anew => short(regs.r8),
        libc::SYS_pselect6 if anew => time(regs.r8),
        libc::SYS_ppoll if anew => time(regs.rdx),
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop if anew => rest(time(regs.r10)?),
        libc::SYS_rt_sigtimedwait if anew => rest(time(regs.rdx)?),
        libc::SYS_io_getevents | SYS_IO_PGETEVENTS if anew => rest(time(regs.r8)?),
        libc::SYS_io_uring_enter if anew => {
            let [.., a, b, c, d, e, f, g, h] = argument(regs, &read)?;
            rest(time(u64::from_le_bytes([a, b, c, d, e, f, g, h]))?)
        }
        _ => None,
    };
    left.map(|ns| Nanos(ns.max(1)))
}

/// A call that is issued again with a time-out of our choice.
#[derive(Debug, PartialEq, Eq)]
pub struct Again {
    /// The registers that make it.
    pub regs: Regs,
    /// Where its time-out stands, if that is in memory, as a `timespec`.
    pub memory: Option<(Addr, Vec<u8>)>,
}

/// How a call that is issued again waits only for what is `left`: its time-out is in a register, in memory below the
/// red zone of the thread's stack, which nobody relies on, or where the kernel itself writes what is left. `None` for
/// other calls, where the program might look at a changed register afterwards, and where there is no such place.
pub(super) fn shortened(
    tid: i32,
    regs: &Regs,
    call: i64,
    left: Nanos,
    read: impl Fn(u64, &mut [u8]) -> bool,
) -> Option<Again> {
    let place = |len| below_red_zone(regs, &super::maps(tid).ok()?, len);
    let (register, regs) = match call {
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => (Register::R10, *regs),
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => (Register::R10, Regs { r10: place(SPEC)?.0, ..*regs }),
        libc::SYS_rt_sigtimedwait => (Register::Rdx, Regs { rdx: place(SPEC)?.0, ..*regs }),
        libc::SYS_io_getevents | SYS_IO_PGETEVENTS => (Register::R8, Regs { r8: place(SPEC)?.0, ..*regs }),
        libc::SYS_io_uring_enter => {
            // The time-out behind a copy of what leads to it.
            let at = place(ARGUMENT as u64 + SPEC)?;
            let mut bytes = argument(regs, &read)?.to_vec();
            let spec = at.0 + ARGUMENT as u64;
            bytes.splice(16.., spec.to_le_bytes());
            let again = again(&Regs { r8: at.0, ..*regs }, call, left)?;
            bytes.extend(again.memory?.1);
            let again = Again { memory: Some((at, bytes)), ..again };
            return liveness::is_dead(Register::R8, regs.rip, read).then_some(again);
        }
        libc::SYS_select | libc::SYS_pselect6 | libc::SYS_ppoll => {
            const STICKY_TIMEOUTS: u64 = 0x400_0000;
            let personality = proc::hex_number(&format!("{tid}/personality")).unwrap_or(STICKY_TIMEOUTS);
            return again(regs, call, left).filter(|_| personality & STICKY_TIMEOUTS == 0);
        }
        _ => return None,
    };
    liveness::is_dead(register, regs.rip, read).then(|| again(&regs, call, left)).flatten()
}

/// The same for a call that has been shortened before: its time-out is where it was then. `None` for other calls.
pub fn again(regs: &Regs, call: i64, left: Nanos) -> Option<Again> {
    // Rounded up to the microseconds of a `timeval`.
    let fine = if call == libc::SYS_select { 1000 } else { 1 };
    let (seconds, nanos) = Nanos(left.0.saturating_add(fine - 1)).parts();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seconds.to_le_bytes());
    bytes[8..].copy_from_slice(&(nanos / fine).to_le_bytes());
    let at = |at: u64| Some(Again { regs: *regs, memory: Some((Addr(at), bytes.to_vec())) });
    match call {
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => {
            Some(Again { regs: Regs { r10: milliseconds(left), ..*regs }, memory: None })
        }
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => at(regs.r10),
        libc::SYS_rt_sigtimedwait | libc::SYS_ppoll => at(regs.rdx),
        libc::SYS_select | libc::SYS_pselect6 | libc::SYS_io_getevents | SYS_IO_PGETEVENTS => at(regs.r8),
        libc::SYS_io_uring_enter => at(regs.r8.saturating_add(ARGUMENT as u64)),
        _ => None,
    }
}

impl Again {
    /// Has a stopped thread make the call.
    pub(super) fn set(&self, tid: i32) -> io::Result<()> {
        // The memory first: if we die in between, nobody looks there.
        if let Some((at, bytes)) = &self.memory {
            if mem::write(tid, *at, bytes)? != bytes.len() {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        ptrace::set_regs(tid, &self.regs)
    }
}

/// A place for `len` bytes below the red zone of a stack that is surely one: the main thread's, or one that has the
/// thread's control block at its end, as C libraries lay them out. Below a goroutine's or coroutine's stack pointer may
/// be what belongs to others.
fn below_red_zone(regs: &Regs, maps: &[Mapping], len: u64) -> Option<Addr> {
    const RED_ZONE: u64 = 128;
    let stack = maps.iter().find(|m| (m.start..m.end).contains(&regs.rsp) && m.prot & 3 == 3)?;
    let sure = stack.name == b"[stack]" || (regs.rsp..stack.end).contains(&regs.fs_base);
    let at = regs.rsp.checked_sub(RED_ZONE + len)? & !15;
    (sure && at >= stack.start).then_some(Addr(at))
}

/// Rounded up, so that no wait ends early.
fn milliseconds(left: Nanos) -> u64 {
    const MILLISECOND: i64 = 1_000_000;
    (left.0.saturating_add(MILLISECOND - 1) / MILLISECOND).clamp(1, i64::from(i32::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_over_once() {
        let sleeper = Sleeper { since: Nanos(1000), switches: 7, runs: 3 };
        let of = |switches, until| sleeper.slept(switches, Nanos(until)).map(|slept| slept.0);
        // Not over, then over, then with locks on the way, then more than that.
        let all = [7, 8, 9, 11, 12].map(|switches| of(switches, 1500));
        assert_eq!(all, [None, Some(500), Some(500), Some(500), None]);
        assert_eq!(of(8, 1000), None);
    }

    const NOTHING: (Option<Nanos>, Option<Nanos>) = (None, None);

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
        assert_eq!(left(&r, libc::SYS_nanosleep, NOTHING, memory), Some(Nanos(40_000_000_007)));
        let r = Regs { rsi: 0, ..r };
        assert_eq!(left(&r, libc::SYS_nanosleep, NOTHING, memory), None);
        assert_eq!(
            left(&r, libc::SYS_nanosleep, (Some(Nanos(99_000_000_000)), None), memory),
            Some(Nanos(1_000_000_000))
        );
        assert_eq!(left(&r, libc::SYS_nanosleep, (Some(Nanos(101_000_000_000)), None), memory), Some(Nanos(1)));
        let slept = Some(Nanos(1_000_000_000));
        for (noted, now) in [(5, 5), (-5, 1), (100_000_000_001, 99_000_000_000)] {
            let known = (slept, Some(Nanos(noted)));
            assert_eq!(left(&r, libc::SYS_nanosleep, known, memory), Some(Nanos(now)), "{noted}");
        }
        assert_eq!(left(&regs(-4), libc::SYS_nanosleep, NOTHING, memory), None);
    }

    #[test]
    fn a_call_is_made_again_with_what_is_left() {
        let r = regs(ERESTARTNOHAND);
        let bytes = [[1, 0, 0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0]].concat();
        let left = Nanos(1_000_000_002);
        assert_eq!(again(&r, libc::SYS_epoll_wait, left).unwrap().regs.r10, 1001);
        for (call, at) in [(libc::SYS_semtimedop, r.r10), (libc::SYS_rt_sigtimedwait, r.rdx)] {
            let again = again(&r, call, left).unwrap();
            assert_eq!((again.regs, again.memory), (r, Some((Addr(at), bytes.clone()))));
        }
        assert!(again(&r, libc::SYS_poll, left).is_none());
        let of_select = again(&Regs { r8: 0x1000, ..r }, libc::SYS_select, Nanos(2_000_000_001)).unwrap();
        let bytes = [[2, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(of_select.memory, Some((Addr(0x1000), bytes)));
    }

    #[test]
    fn only_a_threads_own_stack_is_written_to() {
        let map = |start, end, name: &[u8]| Mapping { start, end, prot: 3, name: name.to_vec(), ..Mapping::default() };
        let maps = [map(0x1000, 0x3000, b""), map(0x7000, 0x9000, b"[stack]")];
        let at = |rsp, fs_base| below_red_zone(&Regs { rsp, fs_base, ..Regs::default() }, &maps, SPEC).map(|a| a.0);
        assert_eq!(at(0x8008, 0), Some(0x7f70));
        assert_eq!(at(0x2000, 0x2f00), Some(0x1f70));
        assert_eq!(at(0x2000, 0x8f00), None);
        assert_eq!(at(0x7080, 0), None);
        assert_eq!(at(0x5000, 0x5100), None);
    }

    #[test]
    fn select_tells_what_is_left() {
        // 40 s and 7 ns, or 7 µs.
        let r = Regs { r8: 0x2000, rdx: 0x2000, ..regs(ERESTARTNOHAND) };
        assert_eq!(left(&r, libc::SYS_pselect6, NOTHING, memory), Some(Nanos(40_000_000_007)));
        assert_eq!(left(&r, libc::SYS_ppoll, NOTHING, memory), Some(Nanos(40_000_000_007)));
        assert_eq!(left(&r, libc::SYS_select, NOTHING, memory), Some(Nanos(40_000_007_000)));
        assert_eq!(left(&Regs { rdx: 0, ..r }, libc::SYS_ppoll, NOTHING, memory), None);
    }

    #[test]
    fn time_outs_in_memory_count_too() {
        let slept = Some(Nanos(5));
        let r = Regs { rdx: 0x1000, r10: 0x1000, ..regs(ERESTARTNOHAND) };
        for call in [libc::SYS_epoll_pwait2, libc::SYS_semtimedop, libc::SYS_rt_sigtimedwait] {
            assert_eq!(left(&r, call, (slept, None), memory), Some(Nanos(99_999_999_995)));
            assert_eq!(left(&r, call, NOTHING, memory), None);
            assert_eq!(left(&Regs { rdx: 0, r10: 0, ..r }, call, (slept, None), memory), None);
        }
    }

    #[test]
    fn rings_tell_by_way_of_a_struct() {
        // At 0x3000: no mask, and the time-out at 0x1000; at 0x4000 less would do after a while.
        let memory = |at: u64, out: &mut [u8]| match at {
            0x3000 | 0x4000 => {
                let words = [0, if at == 0x4000 { 7 << 32 } else { 0 }, 0x1000_u64];
                out.copy_from_slice(&words.map(u64::to_le_bytes).concat());
                true
            }
            _ => memory(at, out),
        };
        let call = libc::SYS_io_uring_enter;
        let r = Regs { r10: 1 | EXT_ARG, r8: 0x3000, r9: 24, rsi: 0, ..regs(ERESTARTNOHAND) };
        let of = |r: &Regs| left(r, call, (Some(Nanos(5)), None), memory);
        assert_eq!(of(&r), Some(Nanos(99_999_999_995)));
        for other in [
            Regs { r10: 1, ..r },
            Regs { r10: 1 | EXT_ARG | 1 << 5, ..r },
            Regs { rsi: 1, ..r },
            Regs { r9: 64, ..r },
            Regs { r8: 0x4000, ..r },
        ] {
            assert_eq!(of(&other), None, "{other:?}");
        }
        assert_eq!(again(&r, call, Nanos(1)).unwrap().memory.unwrap().0, Addr(0x3018));
        let r = Regs { r8: 0x1000, ..regs(ERESTARTNOHAND) };
        assert_eq!(
            left(&r, libc::SYS_io_getevents, (Some(Nanos(5)), None), super::tests::memory),
            Some(Nanos(99_999_999_995))
        );
    }

    #[test]
    fn absolute_and_endless_calls_have_no_remainder() {
        let slept = Some(Nanos(5));
        let sleep = |flags| Regs { rdi: 1, rsi: flags, rdx: 0x1000, ..regs(ERESTART_RESTARTBLOCK) };
        assert_eq!(left(&sleep(0), libc::SYS_clock_nanosleep, (slept, None), memory), Some(Nanos(99_999_999_995)));
        assert_eq!(left(&sleep(1), libc::SYS_clock_nanosleep, (slept, None), memory), None);
        let poll = |ms: i32| Regs { rdx: ms as u32 as u64, ..regs(ERESTART_RESTARTBLOCK) };
        assert_eq!(left(&poll(3), libc::SYS_poll, (slept, None), memory), Some(Nanos(2_999_995)));
        assert_eq!(left(&poll(-1), libc::SYS_poll, (slept, None), memory), None);
        assert!(!timed(libc::SYS_epoll_wait, &[0, 0, 0, u64::from(u32::MAX), 0, 0]));
        assert!(!timed(libc::SYS_futex, &[0; 6]) && timed(libc::SYS_poll, &[0, 0, 9, 0, 0, 0]));
    }
}
