//! Interval timers and POSIX timers.

use serde::{Deserialize, Serialize};

use super::{Nanos, Pid};

/// getitimer(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IntervalTimer {
    /// Time left; 0: not armed.
    pub value: Nanos,
    /// Period; 0: once.
    pub interval: Nanos,
}

/// timer_create(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PosixTimer {
    /// The kernel's id.
    pub id: i32,
    /// The clock id, as given to timer_create.
    pub clock: i32,
    /// `sigev_notify`: SIGEV_SIGNAL 0, SIGEV_NONE 1, SIGEV_THREAD_ID 4.
    pub notify: i32,
    /// `sigev_signo`.
    pub signal: i32,
    /// `sigev_value`.
    pub sigval: u64,
    /// The thread that is signalled, for SIGEV_THREAD_ID.
    pub thread: Option<Pid>,
    /// The thread whose CPU time it measures, for CLOCK_THREAD_CPUTIME_ID; none: the first.
    #[serde(default)]
    pub owner: Option<Pid>,
    /// Time left by the image's clocks; 0: not armed.
    pub value: Nanos,
    /// Period; 0: once.
    pub interval: Nanos,
    /// timer_getoverrun(2) at the save.
    pub overrun: i32,
}
