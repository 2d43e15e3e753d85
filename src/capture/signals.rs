//! Signal actions and pending signals.

use crate::model::signals::{Action, Pending};
use crate::model::thread::Regs;
use crate::model::{Addr, Hex};
use crate::proc::status::Status;
use crate::sys::ptrace;
use crate::tracer::{Answers, Calls, Room};

use super::Error;
use super::thread::words;

/// Bytes of the kernel's `struct sigaction`: handler, flags, restorer, mask.
const ACTION: u64 = 32;
const SIGCHLD: i32 = 17;

/// Asks for the actions of the signals in `set` (bit n-1 for signal n), and of SIGCHLD, whose flags count also without a
/// handler.
pub(super) fn ask(calls: &mut Calls, set: u64) -> Vec<(i32, Room)> {
    let set = set | 1 << (SIGCHLD - 1);
    let wanted = (1..=64).filter(|n| set >> (n - 1) & 1 == 1);
    wanted
        .map(|signal| {
            let room = calls.room(ACTION);
            calls.call_into("rt_sigaction", libc::SYS_rt_sigaction, &[signal as u64, 0, 0, 8], 2, room);
            (signal, room)
        })
        .collect()
}

/// The actions that were asked for.
pub(super) fn actions(asked: &[(i32, Room)], answers: &Answers) -> Vec<Action> {
    asked.iter().filter_map(|&(signal, room)| action(signal, answers.bytes(room))).collect()
}

/// One action, unless it is the default.
fn action(signal: i32, bytes: &[u8]) -> Option<Action> {
    let [handler, flags, restorer, mask] = words(bytes);
    let default = [handler, flags, restorer, mask] == [0; 4];
    (!default).then_some(Action { signal, handler: Addr(handler), flags, restorer: Addr(restorer), mask })
}

/// Pending signals of a thread, or (`shared`) of its process: those in the queue, and those of which there is only a mark,
/// as the queue was full. The program gets such a one as sent by nobody (kernel/signal.c, collect_signal).
/// `status` has the marks and was read before: a timer that goes off in between is then in the queue alone, and no mark
/// without an entry.
pub(super) fn pending(tid: i32, shared: bool, status: &Status) -> Result<Vec<Pending>, Error> {
    let mut queue = ptrace::pending(tid, shared).map_err(Error::of(tid, "reading the pending signals"))?;
    let set = if shared { status.shared_pending } else { status.sig_pending };
    queue.extend(unqueued(set, &queue));
    Ok(queue)
}

/// Whether a pending signal of a thread tells of a fault that it will run into again: its instruction has not been passed.
/// So the program gets the signal with all that belongs to it (the trap's number, its error code, cr2), which the kernel
/// keeps beside the queue. Such a fault unblocks its signal, and comes from no system call.
pub(super) fn comes_again(pending: &Pending, regs: &Regs, sigmask: u64) -> bool {
    /// SI_KERNEL and above are of other origins.
    const OF_FAULT: std::ops::Range<i32> = 1..0x80;
    let code = pending.info.0.get(8..).and_then(|b| b.first_chunk()).map_or(0, |b| i32::from_ne_bytes(*b));
    let fault = match pending.signal {
        libc::SIGILL | libc::SIGFPE | libc::SIGSEGV => OF_FAULT.contains(&code),
        libc::SIGBUS => matches!(code, libc::BUS_ADRALN | libc::BUS_ADRERR),
        _ => false,
    };
    fault && regs.orig_rax as i64 == -1 && sigmask >> (pending.signal - 1) & 1 == 0
}

fn unqueued(set: u64, queue: &[Pending]) -> Vec<Pending> {
    let missing = (1..=64).filter(|n| set >> (n - 1) & 1 == 1 && !queue.iter().any(|p| p.signal == *n));
    missing
        .map(|signal| {
            let mut info = vec![0; 128];
            info[..4].copy_from_slice(&signal.to_ne_bytes());
            Pending { signal, info: Hex(info) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_without_an_entry() {
        let first = unqueued(1 << 9 | 1 << 63, &[]);
        assert_eq!(first.iter().map(|p| p.signal).collect::<Vec<i32>>(), [10, 64]);
        assert_eq!((first[0].info.0.len(), &first[0].info.0[..12]), (128, &[10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..]));
        assert_eq!(unqueued(1 << 9, &first), []);
    }

    #[test]
    fn faults_come_again() {
        let pending = |signal: i32, code: i32| {
            let info: Vec<u8> = [signal, 0, code].iter().flat_map(|w| w.to_ne_bytes()).collect();
            Pending { signal, info: Hex(info) }
        };
        let fault = Regs { orig_rax: u64::MAX, ..Regs::default() };
        assert!(comes_again(&pending(libc::SIGSEGV, 1), &fault, 0));
        assert!(!comes_again(&pending(libc::SIGSEGV, 0x80), &fault, 0));
        assert!(!comes_again(&pending(libc::SIGTRAP, 1), &fault, 0));
        assert!(!comes_again(&pending(libc::SIGSEGV, libc::SI_TKILL), &fault, 0));
        // Queued by the program itself: held back, or at the end of its call.
        assert!(!comes_again(&pending(libc::SIGSEGV, 1), &fault, 1 << (libc::SIGSEGV - 1)));
        assert!(!comes_again(&pending(libc::SIGSEGV, 1), &Regs::default(), 0));
    }

    #[test]
    fn only_defaults_are_left_out() {
        assert_eq!(action(17, &[0; 32]), None);
        let mut bytes = [0; 32];
        bytes[8] = 2; // SA_NOCLDWAIT
        assert_eq!(action(17, &bytes).map(|a| (a.signal, a.handler, a.flags)), Some((17, Addr(0), 2)));
        let mut bytes = [0; 32];
        bytes[0] = 1;
        assert_eq!(action(13, &bytes).map(|a| a.handler), Some(Addr(1)));
    }
}
