//! What belongs to one thread.

use crate::model::thread::{AltStack, Sched, Thread};
use crate::model::{Addr, Area, Hex, Name};
use crate::sys::{sched, tasks};
use crate::tracer::{Answers, Call, Calls, HeldProcess, HeldThread, Room, frame};

use super::Error;
use super::credentials;
use super::mempolicy;
use super::refusals::Refusals;
use super::switches;

const PR_GET_PDEATHSIG: u64 = 2;
const PR_GET_NAME: u64 = 16;
/// With the NUL.
const COMM_LEN: u64 = 16;
const PR_GET_SECUREBITS: u64 = 27;
const PR_GET_TIMERSLACK: u64 = 30;
const PR_GET_TID_ADDRESS: u64 = 40;
/// Policies that can be set again: OTHER, FIFO, RR, BATCH, IDLE, DEADLINE.
const POLICIES: [u32; 6] = [0, 1, 2, 3, 5, 6];
const SCHED_EXT: u32 = 7;

/// What any process may ask about a thread.
#[derive(Debug)]
pub(super) struct Read {
    robust_list: (Addr, u64),
    sched: Sched,
    affinity: Vec<u8>,
    io_priority: i32,
}

/// Asks that.
pub(super) fn read(t: &HeldThread) -> Result<Read, Error> {
    let ask = |what| Error::of(t.host, what);
    Ok(Read {
        robust_list: tasks::robust_list(t.host).map_err(ask("reading the robust list"))?,
        sched: sched::get(t.host).map_err(ask("reading the scheduling policy"))?,
        affinity: sched::affinity(t.host).map_err(ask("reading the affinity"))?,
        io_priority: sched::io_priority(t.host).map_err(ask("reading the I/O priority"))?,
    })
}

/// Refuses threads that can't be saved.
pub(super) fn look(p: &HeldProcess, read: &[Read], refusals: &mut Refusals) {
    for (t, read) in p.threads.iter().zip(read) {
        let policy = read.sched.policy;
        if !POLICIES.contains(&policy) {
            let what = if policy == SCHED_EXT { "SCHED_EXT".to_owned() } else { format!("scheduling policy {policy}") };
            let hint = format!("give it another policy: chrt --other --pid 0 {}", t.host);
            refusals.add(p.pid, format!("thread {}", t.tid), format!("{what} is not supported"), &hint);
        }
    }
}

/// What is asked of a thread.
#[derive(Debug)]
pub(super) struct Asked {
    slack: Call,
    securebits: Call,
    clear_child_tid: Room,
    altstack: Room,
    pdeath_signal: Room,
    mempolicy: Option<mempolicy::Asked>,
    comm: Room,
    switches: switches::AskedOfThread,
}

/// Asks a thread for what only it can tell. `nodes`: bytes of a set of all memory nodes, if there is such a thing.
pub(super) fn ask(calls: &mut Calls, nodes: Option<u64>) -> Asked {
    let get = |calls: &mut Calls, what| calls.call("prctl", libc::SYS_prctl, &[what]);
    let get_into = |calls: &mut Calls, what, len| {
        let room = calls.room(len);
        calls.call_into("prctl", libc::SYS_prctl, &[what], 1, room);
        room
    };
    // `stack_t`: pointer, flags (and padding), size.
    let altstack = calls.room(24);
    calls.call_into("sigaltstack", libc::SYS_sigaltstack, &[], 1, altstack);
    Asked {
        slack: get(calls, PR_GET_TIMERSLACK),
        securebits: get(calls, PR_GET_SECUREBITS),
        clear_child_tid: get_into(calls, PR_GET_TID_ADDRESS, 8),
        altstack,
        pdeath_signal: get_into(calls, PR_GET_PDEATHSIG, 4),
        mempolicy: nodes.map(|len| mempolicy::ask_thread(calls, len)),
        comm: get_into(calls, PR_GET_NAME, COMM_LEN),
        switches: switches::ask_thread(calls),
    }
}

/// Captures thread `index` of a process.
pub(super) fn capture(t: &HeldThread, read: &Read, asked: &Asked, answers: &Answers) -> Thread {
    let [clear_child_tid] = words(answers.bytes(asked.clear_child_tid));
    let [sp, flags, size] = words(answers.bytes(asked.altstack));
    let pdeath_signal = answers.bytes(asked.pdeath_signal).first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
    let comm = answers.bytes(asked.comm).split(|&b| b == 0).next().unwrap_or_default();
    Thread {
        tid: t.tid,
        comm: Name(comm.to_vec()),
        regs: frame::for_image(&t.regs, t.call),
        left: t.left,
        xstate: Area(t.xstate.clone()),
        sigmask: t.sigmask,
        pending: Vec::new(),
        altstack: AltStack { sp: Addr(sp), flags: flags as i32, size },
        robust_list: read.robust_list,
        clear_child_tid: Addr(clear_child_tid),
        rseq: t.rseq,
        sched: read.sched,
        affinity: Hex(read.affinity.clone()),
        io_priority: read.io_priority,
        timer_slack: answers.value(asked.slack),
        credentials: credentials::capture(&t.status, answers.value(asked.securebits) as u32),
        pdeath_signal,
        directories: None,
        table: None,
        rings: Vec::new(),
        mempolicy: asked.mempolicy.as_ref().and_then(|asked| mempolicy::policy(asked, answers)),
        switches: switches::of_thread(&asked.switches, answers),
        seccomp: None,
    }
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
