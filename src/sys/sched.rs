//! Scheduling of other threads.
#![allow(unsafe_code)]

use std::io;
use std::sync::OnceLock;

use crate::model::thread::{Clamps, Deadline, Sched};

use super::check;

const SCHED_DEADLINE: u32 = 6;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    util_min: u32,
    util_max: u32,
}

/// SCHED_FLAG_KEEP_ALL: neither the policy nor what belongs to it is set.
const KEEP_ALL: u64 = 0x18;
/// SCHED_FLAG_UTIL_CLAMP: utilization clamps are set.
const CLAMPS: u64 = 0x60;
/// The greatest utilization (include/linux/sched.h, SCHED_CAPACITY_SCALE).
const WHOLE: u32 = 1024;

/// sched_getattr(2), and getpriority(2) where the former leaves the nice value out: a thread has it again when it is no
/// longer a real-time one.
pub fn get(tid: i32) -> io::Result<Sched> {
    let a = attributes(tid)?;
    let deadline = Deadline { runtime: a.runtime, deadline: a.deadline, period: a.period };
    let deadline = (a.policy == SCHED_DEADLINE).then_some(deadline);
    let chosen = has_slice(a.policy) && usual_slice().is_some_and(|usual| a.runtime != usual);
    let nice = if takes_nice(a.policy) { a.nice } else { nice(tid)? };
    let slice = chosen.then_some(a.runtime);
    let clamps = Clamps { min: a.util_min, max: a.util_max };
    let clamps = (has_clamps() && clamps != usual_clamps(a.policy)).then_some(clamps);
    Ok(Sched { policy: a.policy, flags: a.flags, nice, priority: a.priority, deadline, slice, clamps })
}

/// Real-time threads are given the fastest processor, unless an administrator has chosen otherwise
/// (kernel.sched_util_clamp_min_rt_default).
fn usual_clamps(policy: u32) -> Clamps {
    let real_time = [libc::SCHED_FIFO, libc::SCHED_RR].contains(&(policy as i32));
    Clamps { min: if real_time { WHOLE } else { 0 }, max: WHOLE }
}

/// Whether this kernel has them (CONFIG_UCLAMP_TASK): otherwise there is nothing in their places.
fn has_clamps() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| attributes(0).is_ok_and(|own| (own.util_min, own.util_max) != (0, 0)))
}

fn attributes(tid: i32) -> io::Result<Attr> {
    let mut a = Attr::default();
    // SAFETY: `a` outlives the call and is as long as said.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut a, size_of::<Attr>() as u32, 0) })?;
    Ok(a)
}

fn set_attributes(tid: i32, a: &Attr) -> io::Result<()> {
    // SAFETY: `a` outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const *a, 0) }).map(drop)
}

/// Whether `runtime` is the length of a time slice (kernel/sched/syscalls.c, `get_params`, Linux ≥ 6.12; 0 before).
fn has_slice(policy: u32) -> bool {
    takes_nice(policy) || policy == libc::SCHED_IDLE as u32
}

/// The time slice of threads that have chosen none, in nanoseconds, if that is known. Asked once, of this thread: it goes without
/// one of its own for a moment.
pub fn usual_slice() -> Option<u64> {
    static USUAL: OnceLock<Option<u64>> = OnceLock::new();
    *USUAL.get_or_init(|| {
        let own = attributes(0).ok().filter(|own| takes_nice(own.policy))?;
        set_attributes(0, &Attr { runtime: 0, ..own }).ok()?;
        let usual = attributes(0).ok()?.runtime;
        if usual != own.runtime {
            set_attributes(0, &own).ok()?;
        }
        Some(usual)
    })
}

/// Whether sched_setattr(2) sets the nice value as well, and not the policy alone.
fn takes_nice(policy: u32) -> bool {
    [libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&(policy as i32))
}

/// getpriority(2), which gives 20 less the nice value, so as never to be negative.
fn nice(tid: i32) -> io::Result<i32> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid) }).map(|n| 20 - n as i32)
}

/// sched_setattr(2), and setpriority(2) where the former leaves the nice value alone.
pub fn set(tid: i32, sched: &Sched) -> io::Result<()> {
    if !takes_nice(sched.policy) {
        // SAFETY: no memory is involved.
        check(unsafe { libc::setpriority(libc::PRIO_PROCESS, tid as libc::id_t, sched.nice) }.into())?;
    }
    let a = Attr {
        size: size_of::<Attr>() as u32,
        policy: sched.policy,
        flags: sched.flags,
        nice: sched.nice,
        priority: sched.priority,
        runtime: sched.deadline.map(|d| d.runtime).or(sched.slice).unwrap_or(0),
        deadline: sched.deadline.map_or(0, |d| d.deadline),
        period: sched.deadline.map_or(0, |d| d.period),
        ..Attr::default()
    };
    if sched.slice.is_some() && !takes_nice(sched.policy) {
        // It is kept from before (`__setparam_fair` is for these two only).
        set_attributes(tid, &Attr { policy: libc::SCHED_OTHER as u32, ..a })?;
    }
    set_attributes(tid, &a)?;
    match sched.clamps {
        None if !has_clamps() => Ok(()),
        // What the kernel takes for none.
        None => set_clamps(tid, Clamps { min: u32::MAX, max: u32::MAX }),
        Some(clamps) => set_clamps(tid, clamps),
    }
}

fn set_clamps(tid: i32, clamps: Clamps) -> io::Result<()> {
    let (util_min, util_max) = (clamps.min, clamps.max);
    let size = size_of::<Attr>() as u32;
    set_attributes(tid, &Attr { size, flags: KEEP_ALL | CLAMPS, util_min, util_max, ..Attr::default() })
}

/// Threads that can run at once. Asked once: the standard library looks for limits in files of cgroups.
pub fn processors() -> usize {
    static KNOWN: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *KNOWN.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// sched_getaffinity(2), as the kernel's bit set.
pub fn affinity(tid: i32) -> io::Result<Vec<u8>> {
    let mut bits = vec![0u8; 1024];
    // SAFETY: the buffer is as long as said.
    let n = check(unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, bits.len(), bits.as_mut_ptr()) })?;
    bits.truncate(n as usize);
    Ok(bits)
}

/// sched_setaffinity(2).
pub fn set_affinity(tid: i32, bits: &[u8]) -> io::Result<()> {
    // SAFETY: the buffer is as long as said.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, bits.len(), bits.as_ptr()) }).map(drop)
}

/// Where a thread may run, and the one of those processors it is on; sets of bits, as the kernel's.
#[derive(Debug)]
pub struct Whereabouts {
    /// All.
    pub everywhere: Vec<u8>,
    /// The one.
    pub here: Vec<u8>,
}

impl Whereabouts {
    /// Of this thread.
    pub fn now() -> Option<Whereabouts> {
        let everywhere = affinity(0).ok()?;
        let cpu = nix::sched::sched_getcpu().ok()?;
        let mut here = vec![0u8; everywhere.len()];
        *here.get_mut(cpu / 8)? = 1 << (cpu % 8);
        Some(Whereabouts { everywhere, here })
    }

    /// All but the one, for a thread that is to work at the same time. Left to itself it may share a processor with this one until
    /// the scheduler looks, a tenth of a second later. `None`: there is no other.
    pub fn elsewhere(&self) -> Option<Vec<u8>> {
        let others: Vec<u8> = self.everywhere.iter().zip(&self.here).map(|(all, here)| all & !here).collect();
        others.iter().any(|bits| *bits != 0).then_some(others)
    }
}

/// Ties this thread to the processor it is on. `None`: it stays untied.
pub fn tie() -> Option<Whereabouts> {
    let now = Whereabouts::now()?;
    set_affinity(0, &now.here).ok()?;
    Some(now)
}

/// For a thread that [`start_here`] starts: where it may run.
#[derive(Debug, Clone)]
pub struct Untied(Option<Vec<u8>>);

impl Untied {
    /// Lets this thread run wherever the one might that started it.
    pub fn go(&self) {
        if let Some(everywhere) = &self.0 {
            // On a processor that is there no more it would have been moved anyway.
            let _ = set_affinity(0, everywhere);
        }
    }
}

/// Has a thread begin on the processor this one is on, for one that waits for it. The kernel likes to give a new thread a
/// processor that sleeps, and to wake that takes up to 0.6 ms under a hypervisor, a fourth of a small save. The thread
/// calls [`Untied::go`] first of all.
pub fn start_here<T>(start: impl FnOnce(Untied) -> T) -> T {
    let untied = Untied(tie().map(|whereabouts| whereabouts.everywhere));
    let started = start(untied.clone());
    untied.go();
    started
}

/// ioprio_get(2) of a thread.
pub fn io_priority(tid: i32) -> io::Result<i32> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_get, 1, tid) }).map(|n| n as i32)
}

/// ioprio_set(2) of a thread.
pub fn set_io_priority(tid: i32, priority: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, 1, tid, priority) }).map(drop)
}
