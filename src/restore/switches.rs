//! Settings of prctl(2) and arch_prctl(2): where they differ from what a new process has.

use crate::model::switches::{ProcessSwitches, ThreadSwitches};

use super::stub::Batch;

const PR_SET_TSC: u64 = 26;
const PR_TSC_SIGSEGV: u64 = 2;
const PR_MCE_KILL: u64 = 33;
const PR_MCE_KILL_SET: u64 = 1;
const PR_MCE_KILL_DEFAULT: u32 = 2;
const PR_SET_CHILD_SUBREAPER: u64 = 36;
const PR_SET_THP_DISABLE: u64 = 41;
const PR_SET_MDWE: u64 = 65;
const PR_SET_MEMORY_MERGE: u64 = 67;
const ARCH_SET_CPUID: u64 = 0x1012;

/// Of the thread that runs the batch.
pub fn of_thread(batch: &mut Batch, s: &ThreadSwitches) {
    if s.machine_check != PR_MCE_KILL_DEFAULT {
        let args = [PR_MCE_KILL, PR_MCE_KILL_SET, s.machine_check.into(), 0, 0];
        batch.call("prctl PR_MCE_KILL", libc::SYS_prctl, &args);
    }
    if s.tsc_faults {
        batch.call("prctl PR_SET_TSC", libc::SYS_prctl, &[PR_SET_TSC, PR_TSC_SIGSEGV]);
    }
    if s.cpuid_faults {
        batch.call("arch_prctl ARCH_SET_CPUID", libc::SYS_arch_prctl, &[ARCH_SET_CPUID, 0]);
    }
}

/// Of the process, while its memory is still to be made. Whether it is a subreaper may have been settled otherwise before.
pub fn of_process(batch: &mut Batch, s: &ProcessSwitches) {
    batch.call("prctl", libc::SYS_prctl, &[PR_SET_CHILD_SUBREAPER, u64::from(s.subreaper)]);
    if s.thp_disable & 1 == 1 {
        let args = [PR_SET_THP_DISABLE, 1, u64::from(s.thp_disable & !1), 0, 0];
        batch.call("prctl PR_SET_THP_DISABLE", libc::SYS_prctl, &args);
    }
}

/// Those that come when the memory of the process is complete.
pub fn of_memory(batch: &mut Batch, s: &ProcessSwitches) {
    if s.memory_merge {
        batch.call("prctl PR_SET_MEMORY_MERGE", libc::SYS_prctl, &[PR_SET_MEMORY_MERGE, 1, 0, 0, 0]);
    }
    if s.write_or_execute != 0 {
        batch.call("prctl PR_SET_MDWE", libc::SYS_prctl, &[PR_SET_MDWE, s.write_or_execute.into(), 0, 0, 0]);
    }
}
