//! Holding a live tree still: find it, seize it, run single system calls in it, let it go.
//!
//! [`hold`] stops every thread of a tree and returns a [`Held`]; dropping or releasing it lets the tree go on as if
//! nothing had been. While it is held, [`HeldProcess::remote`] lends a thread's registers for system calls.
//!
//! Who dies when: nothing here needs the tracer to live. Tracees are seized without `EXITKILL`, and every window in
//! which a thread's registers are not its own is covered by a signal frame with its true state (see [`frame`]).

mod apart;
mod calls;
mod describe;
pub mod frame;
mod gadgets;
mod held;
mod hold;
mod liveness;
mod patience;
mod remote;
mod stack;
mod takers;
pub mod task;
pub mod tree;
mod undertaker;
mod vdso;
pub mod waits;

use std::io;

use crate::proc;

pub use apart::apart;
pub use calls::{Answers, Call, Calls, Job, Room};
pub use held::{Held, HeldProcess, HeldThread};
pub use hold::{HoldRequest, hold};
pub use patience::Patience;
pub use remote::{Remote, SCRATCH_LEN};
pub use takers::{takers, wait_until_taken};

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::other(error)
    }
}

/// What can go wrong while a tree is held. Pids are as this process sees them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such process.
    #[error("no process has pid {pid}")]
    NoSuchProcess {
        /// The pid asked for.
        pid: i32,
    },
    /// The kernel does not let us trace it.
    #[error("not permitted to trace pid {pid}")]
    NotPermitted {
        /// Whose.
        pid: i32,
    },
    /// Another tracer has it.
    #[error("pid {pid} is already traced by pid {tracer}")]
    Traced {
        /// Whose.
        pid: i32,
        /// By whom.
        tracer: i32,
    },
    /// It ended while it was held.
    #[error("pid {pid} ended while it was held")]
    Vanished {
        /// Whose.
        pid: i32,
    },
    /// It did not stand still in time.
    #[error("pid {pid} ({comm}) does not stop; it waits in {wchan}")]
    WillNotStop {
        /// The thread.
        pid: i32,
        /// Its name.
        comm: String,
        /// What it waits for in the kernel, or `?`.
        wchan: String,
    },
    /// The request was given up.
    #[error("given up")]
    Cancelled,
    /// There is no thread of ours to trace with.
    #[error("cannot start a thread: {0}")]
    NoThread(io::Error),
    /// The thread's state can't be handled.
    #[error("pid {pid}: {what}")]
    Unsupported {
        /// Whose.
        pid: i32,
        /// What of it.
        what: &'static str,
    },
    /// A system call run in the program failed.
    #[error("pid {pid}: remote {call} failed: {source}")]
    Call {
        /// In which thread.
        pid: i32,
        /// Which call.
        call: &'static str,
        /// Its errno.
        source: io::Error,
    },
    /// Something else went wrong.
    #[error("{step} of pid {pid}: {source}")]
    Io {
        /// Doing what.
        step: &'static str,
        /// With whom.
        pid: i32,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// A task has gone, found out at this step.
    pub(crate) fn vanished(step: &'static str, pid: i32) -> Error {
        tracing::debug!(pid, step, "gone");
        Error::Vanished { pid }
    }

    /// Tells a task that has gone from other failures.
    pub(crate) fn from_io(step: &'static str, pid: i32, source: io::Error) -> Error {
        match source.raw_os_error() {
            Some(libc::ESRCH) => Error::vanished(step, pid),
            _ => Error::Io { step, pid, source },
        }
    }

    /// The same for what comes out of /proc.
    pub(crate) fn from_proc(step: &'static str, pid: i32, source: proc::Error) -> Error {
        if source.is_gone() {
            Error::vanished(step, pid)
        } else {
            Error::Io { step, pid, source: io::Error::other(source) }
        }
    }
}

/// Raw results of system calls: an errno is -4095..=-1.
pub(crate) fn decode(raw: u64) -> io::Result<u64> {
    match raw as i64 {
        error @ -4095..=-1 => Err(io::Error::from_raw_os_error(-error as i32)),
        _ => Ok(raw),
    }
}

pub(crate) use proc::maps;
