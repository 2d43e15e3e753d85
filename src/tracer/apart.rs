//! A thread of ours for tracing, which takes with it what it still traces.

use std::thread::{Builder, ScopedJoinHandle};

use super::Error;
use crate::proc;
use crate::sys::sched::{Untied, start_here};
use crate::sys::tasks::back_off;

/// Does `work` in a thread of its own, and returns once that is gone. What it traces then and has not stopped goes on
/// where it is, untraced: ptrace belongs to one thread, and its end wakes nobody (kernel/ptrace.c, `exit_ptrace`),
/// while PTRACE_DETACH wants a tracee that has been stopped.
///
/// # Errors
/// [`Error::NoThread`]; then `work` has not begun.
pub fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let joined = std::thread::scope(|scope| {
        let start = |untied: Untied| {
            let work = move || {
                untied.go();
                (nix::unistd::gettid(), work())
            };
            Builder::new().spawn_scoped(scope, work)
        };
        start_here(start).map(ScopedJoinHandle::join)
    });
    let (tid, result) = joined.map_err(Error::NoThread)?.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    // It is joined a moment before it lets its tracees go, and has no entry any more right after that
    // (kernel/exit.c, exit_mm, exit_notify).
    for round in 0.. {
        if proc::task_stat(std::process::id() as i32, tid.as_raw()).is_err() {
            break;
        }
        back_off(round);
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_gone_afterwards() {
        let tid = apart(nix::unistd::gettid).unwrap();
        assert_ne!(tid, nix::unistd::gettid());
        assert!(proc::task_stat(std::process::id() as i32, tid.as_raw()).is_err());
    }
}
