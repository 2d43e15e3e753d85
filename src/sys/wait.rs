//! Waiting for tracees without ever reaping a child of our own by accident.
#![allow(unsafe_code)]

use std::io;

/// What a traced task did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It stopped: the low byte of `code` is the signal, the next the ptrace event.
    Stopped {
        /// `task->exit_code` of the stop.
        code: i32,
    },
    /// It is dead; nothing has been reaped.
    Dead,
}

impl Event {
    /// `PTRACE_EVENT_STOP`: an interrupt, a birth, or a group stop.
    pub const STOP: i32 = 128;
    /// `PTRACE_EVENT_EXEC`.
    pub const EXEC: i32 = 4;
}

/// Whether the code of a siginfo tells of a death.
fn died(code: i32) -> bool {
    matches!(code, libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED)
}

fn waitid(tid: i32, options: i32) -> io::Result<Option<(i32, i32)>> {
    loop {
        // SAFETY: all-zero is a valid siginfo_t, and it outlives the call.
        let (ret, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            (libc::waitid(libc::P_PID, tid as libc::id_t, &mut info, options | libc::__WALL), info)
        };
        if ret == 0 {
            // SAFETY: waitid filled the SIGCHLD variant, or left zeroes.
            return Ok(unsafe { (info.si_pid() != 0).then(|| (info.si_code, info.si_status())) });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn event(tid: i32, flags: i32) -> io::Result<Option<Event>> {
    match waitid(tid, libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT | flags)? {
        None => Ok(None),
        Some((code, _)) if died(code) => Ok(Some(Event::Dead)),
        Some(_) => {
            // Take this stop. In between it can only have died.
            Ok(match waitid(tid, libc::WSTOPPED | libc::WNOHANG)? {
                Some((_, code)) => Some(Event::Stopped { code }),
                None => Some(Event::Dead),
            })
        }
    }
}

/// Waits until `tid` stops or dies.
pub fn wait(tid: i32) -> io::Result<Event> {
    // Among many it has mostly stopped by now: then one call does.
    if let Ok(Some((_, code))) = waitid(tid, libc::WSTOPPED | libc::WNOHANG) {
        return Ok(Event::Stopped { code });
    }
    event(tid, 0)?.ok_or_else(|| io::Error::other("waitid returned nothing"))
}

/// What `tid` has done, if anything.
pub fn poll(tid: i32) -> io::Result<Option<Event>> {
    if let Ok(Some((_, code))) = waitid(tid, libc::WSTOPPED | libc::WNOHANG) {
        return Ok(Some(Event::Stopped { code }));
    }
    event(tid, libc::WNOHANG)
}

/// Whether `tid` is dead and nobody has waited for it. Stops of a tracee are told of whatever is asked for (kernel/exit.c,
/// wait_consider_task): one is left to be told.
pub fn is_dead(tid: i32) -> bool {
    matches!(waitid(tid, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT), Ok(Some((code, _))) if died(code))
}

/// Takes note of the death of a tracee that is not our child, so that its real parent gets to know it. Of the living it takes
/// nothing, not even a stop.
pub fn reap(tid: i32) -> io::Result<()> {
    if is_dead(tid) { waitid(tid, libc::WEXITED | libc::WNOHANG).map(drop) } else { Ok(()) }
}

/// The wait(2) status of a dead child or tracee, taking it.
pub fn status(tid: i32) -> io::Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        if unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) } == tid {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, kill, raise};
    use nix::sys::wait::{WaitPidFlag, waitpid};
    use nix::unistd::{ForkResult, Pid, fork};

    use super::*;
    use crate::sys::ptrace;

    #[test]
    fn to_look_for_the_dead_takes_no_stop() {
        // SAFETY: the child only waits.
        let ForkResult::Parent { child } = (unsafe { fork() }).unwrap() else {
            loop {
                let _ = raise(Signal::SIGCONT);
                nix::unistd::pause();
            }
        };
        let tid = child.as_raw();
        ptrace::seize(tid, 0).unwrap();
        ptrace::interrupt(tid).unwrap();
        waitpid(Pid::from_raw(tid), Some(WaitPidFlag::__WALL)).unwrap();
        // A second stop, which nobody has been told of.
        ptrace::interrupt(tid).unwrap();
        ptrace::cont(tid, 0).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{tid}/stat")).unwrap_or_default();
        while !state().contains(") t ") {
            std::thread::yield_now();
        }
        assert!(!is_dead(tid));
        reap(tid).unwrap();
        assert!(matches!(poll(tid), Ok(Some(Event::Stopped { .. }))));
        kill(child, Signal::SIGKILL).unwrap();
        while !is_dead(tid) {
            std::thread::yield_now();
        }
        reap(tid).unwrap();
        assert!(!is_dead(tid));
    }
}
