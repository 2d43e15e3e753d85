//! What belongs to one process as a whole.

use serde::{Deserialize, Serialize};

use super::fd::Descriptor;
use super::locks::Lock;
use super::memory::Memory;
use super::seccomp::Filter;
use super::signals::{Action, Pending};
use super::switches::ProcessSwitches;
use super::sysvsem::Undo;
use super::thread::Thread;
use super::timers::{IntervalTimer, PosixTimer};
use super::{Addr, Name, Pid};

/// One living process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Path of its executable.
    pub exe: Exe,
    /// Working directory.
    pub cwd: Name,
    /// Root directory; `/` but for chroot.
    pub root: Name,
    /// Which of the two are deleted.
    #[serde(default)]
    pub deleted: super::nameless::Directories,
    /// File mode creation mask.
    pub umask: u32,
    /// Resource limits, in the order of `RLIMIT_*`.
    pub limits: Vec<Limit>,
    /// `PR_GET_DUMPABLE`: 0, 1 (or 2, which can't be set again).
    pub dumpable: u32,
    /// Settings of prctl(2).
    pub switches: ProcessSwitches,
    /// Text of /proc/PID/cgroup: for people, nothing is done with it.
    #[serde(default)]
    pub cgroup: Name,
    /// personality(2).
    pub personality: u32,
    /// /proc/PID/oom_score_adj.
    pub oom_score_adj: i32,
    /// /proc/PID/coredump_filter.
    pub coredump_filter: u32,
    /// Address space.
    pub memory: Memory,
    /// One for every signal 1..=64 that differs from the default.
    pub actions: Vec<Action>,
    /// Signals pending for the process as a whole, in order.
    pub pending: Vec<Pending>,
    /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF.
    pub itimers: [IntervalTimer; 3],
    /// timer_create(2).
    pub timers: Vec<PosixTimer>,
    /// Open descriptors, by number; threads may have others.
    pub fds: Vec<Descriptor>,
    /// File locks and leases, each once in the whole tree.
    #[serde(default)]
    pub locks: Vec<Lock>,
    /// Seccomp filters; threads refer to them.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// What its end adds to System V semaphores.
    #[serde(default)]
    pub undo: Vec<Undo>,
    /// The wait(2) status of the main thread, if that has ended while others live.
    pub ended_leader: Option<i32>,
    /// Living threads, the leader first.
    pub threads: Vec<Thread>,
}

impl Process {
    /// The descriptors and locks of its table, and of those of its threads that have one of their own.
    pub fn tables(&self) -> impl Iterator<Item = (&[Descriptor], &[Lock])> {
        let own = self.threads.iter().filter_map(|t| t.table.as_ref());
        std::iter::once((&self.fds[..], &self.locks[..])).chain(own.map(|table| (&table.fds[..], &table.locks[..])))
    }

    /// All descriptors in them.
    pub fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        self.tables().flat_map(|(fds, _)| fds)
    }
}

/// The file /proc/PID/exe points to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exe {
    /// Its path.
    pub path: Name,
    /// What it was like, to notice a change; index into [`super::memory::SharedObjects::mapped`].
    pub file: u32,
}

/// A soft and a hard limit; `u64::MAX` is "unlimited".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// What the kernel enforces.
    pub soft: u64,
    /// How far the program may raise it.
    pub hard: u64,
}

/// Fields of the kernel's mm that `PR_SET_MM_MAP` sets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MmFields {
    /// Text.
    pub start_code: Addr,
    /// End of text.
    pub end_code: Addr,
    /// Initialised data.
    pub start_data: Addr,
    /// End of it.
    pub end_data: Addr,
    /// Where the heap starts.
    pub start_brk: Addr,
    /// Where it ends now.
    pub brk: Addr,
    /// Where the stack started.
    pub start_stack: Addr,
    /// Command line.
    pub arg_start: Addr,
    /// End of it.
    pub arg_end: Addr,
    /// Environment.
    pub env_start: Addr,
    /// End of it.
    pub env_end: Addr,
    /// The auxiliary vector, raw.
    pub auxv: super::Hex,
}
