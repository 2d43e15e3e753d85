//! What belongs to one thread.

use crate::model::thread::{AltStack, Thread};
use crate::model::{Addr, Hex, Name};
use crate::proc::{self, status::Status};
use crate::sys::{sched, tasks};
use crate::tracer::{HeldProcess, frame};

use super::Error;
use super::credentials;
use super::refusals::Refusals;
use super::switches;

const PR_GET_PDEATHSIG: u64 = 2;
const PR_GET_SECUREBITS: u64 = 27;
const PR_GET_TIMERSLACK: u64 = 30;
const PR_GET_TID_ADDRESS: u64 = 40;
/// Policies that can be set again: OTHER, FIFO, RR, BATCH, IDLE.
const POLICIES: [u32; 5] = [0, 1, 2, 3, 5];

/// Refuses threads that can't be saved.
pub(super) fn look(p: &HeldProcess, refusals: &mut Refusals) -> Result<(), Error> {
    for t in &p.threads {
        let policy = sched::get(t.host).map_err(Error::of(t.host, "reading the scheduling policy"))?.policy;
        if !POLICIES.contains(&policy) {
            let what = if policy == 6 { "SCHED_DEADLINE".to_owned() } else { format!("scheduling policy {policy}") };
            refusals.add(p.pid, format!("thread {}", t.tid), format!("{what} is not supported"), "");
        }
    }
    Ok(())
}

/// Captures thread `index` of a process, whose /proc text is in `status`.
pub(super) fn capture(p: &mut HeldProcess, index: usize, status: &Status) -> Result<Thread, Error> {
    let process = p.host;
    let mut remote = p.remote(index)?;
    let slack = remote.call("prctl", libc::SYS_prctl, [PR_GET_TIMERSLACK, 0, 0, 0, 0, 0])?;
    let scratch = remote.scratch();
    remote.call("prctl", libc::SYS_prctl, [PR_GET_TID_ADDRESS, scratch.0, 0, 0, 0, 0])?;
    remote.call("sigaltstack", libc::SYS_sigaltstack, [0, scratch.0 + 8, 0, 0, 0, 0])?;
    remote.call("prctl", libc::SYS_prctl, [PR_GET_PDEATHSIG, scratch.0 + 32, 0, 0, 0, 0])?;
    let securebits = remote.call("prctl", libc::SYS_prctl, [PR_GET_SECUREBITS, 0, 0, 0, 0, 0])? as u32;
    // An address; `stack_t`: pointer, flags (and padding), size; an int.
    let mut bytes = [0u8; 40];
    remote.read(scratch, &mut bytes)?;
    let switches = switches::of_thread(&mut remote)?;
    drop(remote);
    let [clear_child_tid, sp, flags, size, pdeath_signal] = words(&bytes);
    let t = p.threads.get(index).ok_or(Error::Vanished { pid: process })?;
    let host = t.host;
    let comm = proc::read(&format!("{process}/task/{host}/comm")).map_err(Error::proc(host))?;
    let ask = |what| Error::of(host, what);
    Ok(Thread {
        tid: t.tid,
        comm: Name(comm.strip_suffix(b"\n").unwrap_or(&comm).to_vec()),
        regs: frame::for_image(&t.regs, t.call),
        left: t.left,
        xstate: Hex(t.xstate.clone()),
        sigmask: t.sigmask,
        pending: Vec::new(),
        altstack: AltStack { sp: Addr(sp), flags: flags as i32, size },
        robust_list: tasks::robust_list(host).map_err(ask("reading the robust list"))?,
        clear_child_tid: Addr(clear_child_tid),
        rseq: t.rseq,
        sched: sched::get(host).map_err(ask("reading the scheduling policy"))?,
        affinity: Hex(sched::affinity(host).map_err(ask("reading the affinity"))?),
        io_priority: sched::io_priority(host).map_err(ask("reading the I/O priority"))?,
        timer_slack: slack,
        credentials: credentials::capture(status, securebits),
        pdeath_signal: pdeath_signal as u32 as i32,
        directories: None,
        switches,
        seccomp: None,
    })
}

/// Little words of memory as numbers.
pub(super) fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut out = [0; N];
    for (word, bytes) in out.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_memory() {
        let bytes: Vec<u8> = [1u64, u64::MAX].iter().flat_map(|w| w.to_ne_bytes()).collect();
        assert_eq!(words::<2>(&bytes), [1, u64::MAX]);
        assert_eq!(words::<2>(&bytes[..9]), [1, 0]);
    }
}
