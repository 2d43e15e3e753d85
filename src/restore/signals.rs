//! Signal actions and pending signals.

use crate::model::Pid;
use crate::model::process::Process;
use crate::model::signals::Action;
use crate::model::thread::Thread;

use super::Error;
use super::stub::{Batch, Expect, Puppet};

const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;
/// Ends the stub's tables: its action is set when no table runs any more.
const SIGTRAP: i32 = 5;
const SS_DISABLE: u64 = 2;

/// In the process all others descend from: nothing of our own handlers and alternate stack is left.
pub fn all_default(batch: &mut Batch) {
    let default = batch.data(&[0; 32]);
    for signal in (1..=64u64).filter(|&s| s != SIGKILL as u64 && s != SIGSTOP as u64) {
        batch.call("rt_sigaction", libc::SYS_rt_sigaction, &[signal, default.0, 0, 8]);
    }
    let mut none = [0u8; 24];
    none[8..16].copy_from_slice(&SS_DISABLE.to_le_bytes());
    let none = batch.data(&none);
    batch.call("sigaltstack", libc::SYS_sigaltstack, &[none.0, 0]);
}

/// Actions, and the signals pending for the whole process. Everything is blocked, so nothing is delivered yet.
pub fn set_up(puppet: &mut Puppet, process: &Process, has_news: bool) -> Result<(), Error> {
    let mut batch = puppet.batch();
    for action in process.actions.iter().filter(|a| a.signal != SIGTRAP) {
        puppet.flush_for(&mut batch, 1, 48)?;
        let at = batch.data(&encoded(action));
        batch.call("rt_sigaction", libc::SYS_rt_sigaction, &[action.signal as u64, at.0, 0, 8]);
    }
    if has_news {
        // The children have just announced their deaths and stops of this very resume; the program has heard of them
        // already, or has it among its pending signals.
        let child = batch.data(&(1u64 << (libc::SIGCHLD - 1)).to_le_bytes());
        let now = batch.data(&[0; 16]);
        let args = [child.0, 0, now.0, 8];
        batch.call_expecting(Expect::Anything, "rt_sigtimedwait", libc::SYS_rt_sigtimedwait, &args);
    }
    puppet.run(batch).map(drop)
}

/// Queues pending signals, each by the thread itself: only so may the sender be anybody (rt_sigqueueinfo(2)).
pub fn queue(puppet: &mut Puppet, process: &Process, thread: &Thread, fresh: bool) -> Result<(), Error> {
    let first = process.threads.first().is_some_and(|t| t.tid == thread.tid);
    let shared = process.pending.iter().filter(|_| first).map(|p| (p, true));
    let own = thread.pending.iter().map(|p| (p, false));
    let (pid, tid) = if fresh { (actual(puppet, process.pid), Pid(puppet.host())) } else { (process.pid, thread.tid) };
    let mut batch = puppet.batch();
    for (pending, to_process) in shared.chain(own) {
        if matches!(pending.signal, SIGKILL | SIGSTOP) {
            continue;
        }
        puppet.flush_for(&mut batch, 1, 144)?;
        let mut info = pending.info.0.clone();
        info.resize(128, 0);
        let at = batch.data(&info);
        let (pid, tid, signal) = (pid.0 as u64, tid.0 as u64, pending.signal as u64);
        if to_process {
            // By the id of whoever asks: of another, even of its own leader, the kernel allows less.
            batch.call("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, &[tid, signal, at.0]);
        } else {
            batch.call("rt_tgsigqueueinfo", libc::SYS_rt_tgsigqueueinfo, &[pid, tid, signal, at.0]);
        }
    }
    puppet.run(batch).map(drop)
}

fn actual(puppet: &Puppet, otherwise: Pid) -> Pid {
    crate::proc::status(puppet.host()).map_or(otherwise, |s| Pid(s.tgid))
}

/// SIGTRAP's action, by a call that needs no trap.
pub fn trap_action(puppet: &mut Puppet, process: &Process) -> Result<(), Error> {
    let Some(action) = process.actions.iter().find(|a| a.signal == SIGTRAP) else { return Ok(()) };
    let at = puppet.data();
    puppet.write(at, &encoded(action))?;
    puppet.single("rt_sigaction", libc::SYS_rt_sigaction, &[SIGTRAP as u64, at.0, 0, 8]).map(drop)
}

/// The kernel's `struct sigaction`: handler, flags, restorer, mask.
fn encoded(a: &Action) -> Vec<u8> {
    [a.handler.0, a.flags, a.restorer.0, a.mask].iter().flat_map(|w| w.to_le_bytes()).collect()
}
