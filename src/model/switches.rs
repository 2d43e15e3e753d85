//! Settings of prctl(2) and arch_prctl(2) that are neither credentials nor signals.

use serde::{Deserialize, Serialize};

/// Those of one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ThreadSwitches {
    /// `PR_TSC_SIGSEGV`: reading the time stamp counter is a SIGSEGV.
    pub tsc_faults: bool,
    /// `ARCH_GET_CPUID` is 0: the cpuid instruction is a SIGSEGV.
    pub cpuid_faults: bool,
    /// `PR_MCE_KILL_GET`: 0 late, 1 early, 2 as the system does.
    pub machine_check: u32,
    /// `PR_GET_SPECULATION_CTRL` of store bypass (0), indirect branches (1) and the flush of the first data cache (2);
    /// 0: not known.
    #[serde(default)]
    pub speculation: [u32; 3],
}

/// Those of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProcessSwitches {
    /// `PR_GET_CHILD_SUBREAPER`.
    pub subreaper: bool,
    /// `PR_GET_THP_DISABLE`: 0 or 1, and from Linux 6.18 on 3 for "but where advised".
    pub thp_disable: u32,
    /// `PR_GET_MEMORY_MERGE`: all of its memory may be merged with other such memory.
    pub memory_merge: bool,
    /// `PR_GET_MDWE`: memory that was writable can't become executable; 0: it can.
    pub write_or_execute: u32,
    /// membarrier(2) `MEMBARRIER_CMD_GET_REGISTRATIONS`: what it has registered for.
    #[serde(default)]
    pub membarrier: u32,
}
