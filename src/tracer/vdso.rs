//! Threads that are held in the vDSO run on until they have left it. Its functions put a time together from what they
//! read one after the other: the host's clock, and how far the clock of their time namespace is ahead of it. A resumed
//! thread has another namespace, and would tell a time that is wrong by as long as it was dead.

use std::ops::Range;

use crate::model::thread::Regs;
use crate::proc::{self, status::Status};
use crate::sys::ptrace;

use super::Error;
use super::task::Stopped;

/// Longer than any vDSO (two pages).
const LARGEST: u64 = 64 << 10;
/// Instructions that a thread may take: its functions have some hundred, and some go round while the kernel writes.
const MOST: u32 = 100_000;
/// EFLAGS.TF: whoever is stepped by itself waits for each of the traps.
const STEPPED: u64 = 0x100;
const AT_SYSINFO_EHDR: u64 = 33;
/// SIGTRAP in a mask. A trap forces it upon the thread: were it blocked or ignored, its action would be the default one
/// from then on (kernel/signal.c, `force_sig_info_to_task`).
const TRAP: u64 = 1 << (libc::SIGTRAP - 1);

/// Where the vDSO of a process starts.
pub(super) fn start(pid: i32) -> Option<u64> {
    let auxv = proc::read(&format!("{pid}/auxv")).ok()?;
    let mut words = auxv.chunks_exact(8).filter_map(|w| Some(u64::from_ne_bytes(w.try_into().ok()?)));
    std::iter::from_fn(|| words.next().zip(words.next())).find(|(key, _)| *key == AT_SYSINFO_EHDR).map(|(_, at)| at)
}

/// The vDSO of a process, where a thread of it with these registers is in the middle of it and can be stepped. `start`:
/// where it starts, asked for only of a thread that is in no system call.
pub(super) fn around(
    pid: i32,
    regs: &Regs,
    status: &Status,
    start: impl FnOnce() -> Option<u64>,
) -> Option<Range<u64>> {
    let trap_matters = (status.sig_ignored | status.sig_pending | status.shared_pending) & TRAP != 0;
    if regs.orig_rax as i64 != -1 || regs.eflags & STEPPED != 0 || trap_matters {
        return None;
    }
    if regs.rip.wrapping_sub(start()?) >= LARGEST {
        return None;
    }
    let maps = proc::maps(pid).ok()?;
    let vdso = maps.iter().find(|m| m.name == b"[vdso]" && (m.start..m.end).contains(&regs.rip))?;
    Some(vdso.start..vdso.end)
}

/// Takes a thread out of there, and what its registers are then. Everybody else stands still, and no signal comes.
pub(super) fn leave(task: Stopped, regs: Regs, vdso: &Range<u64>) -> Result<(Stopped, Regs), Error> {
    let tid = task.tid();
    let bad = |step| move |e| Error::from_io(step, tid, e);
    let mask = ptrace::get_sigmask(tid).map_err(bad("reading the signal mask"))?;
    ptrace::set_sigmask(tid, !TRAP).map_err(bad("blocking signals"))?;
    let (mut task, mut regs) = (task, regs);
    for _ in 0..MOST {
        if !vdso.contains(&regs.rip) {
            break;
        }
        task = task.step()?.wait()?;
        regs = ptrace::get_regs(tid).map_err(bad("reading registers"))?;
    }
    let task = task.park(|_| Ok(()))?;
    ptrace::set_sigmask(tid, mask).map_err(bad("setting the signal mask"))?;
    Ok((task, regs))
}
