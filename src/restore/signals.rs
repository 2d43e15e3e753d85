//! Signal actions and pending signals.

use crate::model::process::Process;
use crate::model::signals::{Action, Pending};
use crate::model::thread::Thread;
use crate::model::{Addr, Pid};

use crate::sys::ptrace;

use super::Error;
use super::stub::{Batch, Expect, Puppet};
use super::timers::Due;

const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;
/// Ends the stub's tables: its action is set when no table runs any more.
const SIGTRAP: i32 = 5;
const SS_DISABLE: u64 = 2;
/// SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS: those of faults.
const FAULTS: [i32; 6] = [4, SIGTRAP, 7, 8, 11, 31];

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

/// Actions. Everything is blocked, so nothing is delivered yet. `news`: the signals by which its children have just announced
/// their deaths and stops of this very resume; the program has heard of them already, or has it among its pending signals.
pub fn set_up(puppet: &mut Puppet, process: &Process, mut news: Vec<i32>) -> Result<(), Error> {
    /// Of these only one waits, however many come.
    const STANDARD: std::ops::Range<i32> = 1..32;
    let mut batch = puppet.batch();
    for action in process.actions.iter().filter(|a| a.signal != SIGTRAP) {
        puppet.flush_for(&mut batch, 1, 48)?;
        let at = batch.data(&encoded(action));
        batch.call("rt_sigaction", libc::SYS_rt_sigaction, &[action.signal as u64, at.0, 0, 8]);
    }
    news.sort_unstable();
    news.dedup_by(|a, b| a == b && STANDARD.contains(a));
    for signal in news.into_iter().filter(|signal| (1..=64).contains(signal)) {
        puppet.flush_for(&mut batch, 1, 48)?;
        let set = batch.data(&(1u64 << (signal - 1)).to_le_bytes());
        let now = batch.data(&[0; 16]);
        let args = [set.0, 0, now.0, 8];
        batch.call_expecting(Expect::Anything, "rt_sigtimedwait", libc::SYS_rt_sigtimedwait, &args);
    }
    puppet.run(batch).map(drop)
}

/// Queues pending signals, each by the thread itself: only so may the sender be anybody (rt_sigqueueinfo(2)). Those of timers
/// come from these.
pub fn queue(
    puppet: &mut Puppet,
    process: &Process,
    thread: &Thread,
    fresh: bool,
    due: &mut Due<'_>,
) -> Result<(), Error> {
    let ids = Ids::of(puppet, process, thread, fresh);
    let mut batch = puppet.batch();
    for (pending, shared) in waiting(process, thread) {
        if matches!(pending.signal, SIGKILL | SIGSTOP) || FAULTS.contains(&pending.signal) {
            continue;
        }
        if pending.timer().is_some() {
            // Each in its turn.
            puppet.run(std::mem::replace(&mut batch, puppet.batch()))?;
            if due.go_off(puppet, pending, (!shared).then_some(thread.tid))? {
                continue;
            }
        }
        puppet.flush_for(&mut batch, 1, 144)?;
        let at = batch.data(&information(pending));
        let (name, nr, args) = ids.call(pending, shared, at);
        batch.call(name, nr, &args);
    }
    puppet.run(batch).map(drop)
}

/// SIGTRAP ends the stub's tables, and would be taken for one that the program has yet to get. And at a trap the kernel
/// takes the first signal of any fault that it finds, also a blocked one (kernel/signal.c, dequeue_synchronous_signal). So
/// these are queued last, by calls without a trap.
pub fn queue_faults(puppet: &mut Puppet, process: &Process, thread: &Thread, fresh: bool) -> Result<(), Error> {
    for (pending, shared) in waiting(process, thread).filter(|(p, _)| FAULTS.contains(&p.signal)) {
        // The trap has unblocked it (kernel/signal.c, force_sig_info_to_task).
        let host = puppet.host();
        ptrace::set_sigmask(host, u64::MAX).map_err(|e| Error::step("blocking signals", host, e))?;
        let at = puppet.data();
        puppet.write(at, &information(pending))?;
        let (name, nr, args) = Ids::of(puppet, process, thread, fresh).call(pending, shared, at);
        puppet.single(name, nr, &args)?;
    }
    Ok(())
}

/// What a thread has to queue, and whether for the whole process: the first does that.
fn waiting<'a>(process: &'a Process, thread: &'a Thread) -> impl Iterator<Item = (&'a Pending, bool)> {
    let first = process.threads.first().is_some_and(|t| t.tid == thread.tid);
    let shared = process.pending.iter().filter(move |_| first).map(|p| (p, true));
    shared.chain(thread.pending.iter().map(|p| (p, false)))
}

fn information(pending: &Pending) -> Vec<u8> {
    let mut info = pending.info.0.clone();
    info.resize(128, 0);
    info
}

/// A thread's ids as they are now.
struct Ids {
    pid: u64,
    tid: u64,
}

impl Ids {
    fn of(puppet: &Puppet, process: &Process, thread: &Thread, fresh: bool) -> Ids {
        let (pid, tid) =
            if fresh { (actual(puppet, process.pid), Pid(puppet.host())) } else { (process.pid, thread.tid) };
        Ids { pid: pid.0 as u64, tid: tid.0 as u64 }
    }

    fn call(&self, pending: &Pending, shared: bool, at: Addr) -> (&'static str, i64, [u64; 4]) {
        let (pid, tid, signal) = (self.pid, self.tid, pending.signal as u64);
        if shared {
            // By the id of whoever asks: of another, even of its own leader, the kernel allows less.
            ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, [tid, signal, at.0, 0])
        } else {
            ("rt_tgsigqueueinfo", libc::SYS_rt_tgsigqueueinfo, [pid, tid, signal, at.0])
        }
    }
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
