//! What belongs to one thread.

use serde::{Deserialize, Serialize};

use super::credentials::Credentials;
use super::fd::Descriptor;
use super::locks::Lock;
use super::mempolicy::Policy;
use super::seccomp::Seccomp;
use super::signals::Pending;
use super::switches::ThreadSwitches;
use super::{Addr, Area, Hex, Name, Nanos, Pid};

/// One thread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Thread {
    /// Its id; the leader's is the process's.
    pub tid: Pid,
    /// Its name.
    pub comm: Name,
    /// General registers, ready to be set: interrupted system calls already wound back.
    pub regs: Regs,
    /// Time left, by the image's clocks, of the call it waits in, if that is nanosleep, clock_nanosleep, poll or futex, and the time is known; or if
    /// it is select, pselect6, ppoll, epoll_wait, epoll_pwait, epoll_pwait2, sigtimedwait, semtimedop, io_getevents, io_pgetevents or
    /// io_uring_enter, with a time-out where it may be changed; or if it waits on a socket by SO_RCVTIMEO or SO_SNDTIMEO.
    /// Without it such a call starts anew.
    #[serde(default)]
    pub left: Option<Nanos>,
    /// The whole xsave area as the kernel's `NT_X86_XSTATE` gives it.
    pub xstate: Area,
    /// Blocked signals, bit n-1 for signal n.
    pub sigmask: u64,
    /// Signals pending for this thread alone, in order.
    pub pending: Vec<Pending>,
    /// Alternate signal stack.
    pub altstack: AltStack,
    /// Robust futex list: head and length; head 0: none.
    pub robust_list: (Addr, u64),
    /// `set_tid_address`: cleared and woken at the thread's end; 0: none.
    pub clear_child_tid: Addr,
    /// rseq(2), if registered.
    pub rseq: Option<Rseq>,
    /// Scheduling.
    pub sched: Sched,
    /// CPUs it may run on, as a bit set, lowest first.
    pub affinity: Hex,
    /// ioprio_get(2).
    pub io_priority: i32,
    /// /proc/PID/timerslack_ns.
    pub timer_slack: u64,
    /// Users, groups, capabilities.
    pub credentials: Credentials,
    /// `PR_GET_PDEATHSIG`; 0: none.
    pub pdeath_signal: i32,
    /// Directories of its own (`unshare(CLONE_FS)`); none: those of its process.
    #[serde(default)]
    pub directories: Option<Directories>,
    /// A descriptor table of its own (`unshare(CLONE_FILES)`); none: that of its process.
    #[serde(default)]
    pub table: Option<Table>,
    /// Rings of io_uring that it has registered (IORING_REGISTER_RING_FDS): the number, and an index into
    /// [`super::Checkpoint::files`].
    #[serde(default)]
    pub rings: Vec<(u32, u32)>,
    /// Memory policy; none: the default.
    #[serde(default)]
    pub mempolicy: Option<Policy>,
    /// Settings of prctl(2) and arch_prctl(2).
    pub switches: ThreadSwitches,
    /// seccomp(2), if it is under it.
    pub seccomp: Option<Seccomp>,
}

/// What `CLONE_FS` shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directories {
    /// Working directory.
    pub cwd: Name,
    /// Root directory; `/` but for chroot.
    pub root: Name,
    /// File mode creation mask.
    pub umask: u32,
}

/// What `CLONE_FILES` shares.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Table {
    /// Open descriptors, by number.
    pub fds: Vec<Descriptor>,
    /// Locks: those of POSIX belong to a table.
    pub locks: Vec<Lock>,
}

/// `user_regs_struct` of x86-64.
#[allow(missing_docs)] // the names say it all
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

/// sigaltstack(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AltStack {
    /// Lowest address.
    pub sp: Addr,
    /// `SS_*` flags as the kernel reports them.
    pub flags: i32,
    /// Bytes.
    pub size: u64,
}

/// A restartable-sequences registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rseq {
    /// The thread's `struct rseq`.
    pub area: Addr,
    /// The length it was registered with.
    pub len: u32,
    /// The signature before each abort handler.
    pub signature: u32,
}

/// sched_getattr(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sched {
    /// SCHED_OTHER 0, FIFO 1, RR 2, BATCH 3, IDLE 5, DEADLINE 6.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20..=19.
    pub nice: i32,
    /// Real-time priority.
    pub priority: u32,
    /// Of SCHED_DEADLINE.
    #[serde(default)]
    pub deadline: Option<Deadline>,
    /// The length of its time slices in nanoseconds, if it has chosen one (OTHER, BATCH and IDLE).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<u64>,
    /// Its utilization clamps, if it has chosen some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamps: Option<Clamps>,
}

/// How much of a processor the kernel takes a thread to use, at least and at most, when it chooses one and its frequency: of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clamps {
    /// At least.
    pub min: u32,
    /// At most.
    pub max: u32,
}

/// Time that a thread is given again and again, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// How much.
    pub runtime: u64,
    /// Within which time.
    pub deadline: u64,
    /// How often.
    pub period: u64,
}
