//! Settings of prctl(2) and arch_prctl(2): where they differ from what a new process has.

use crate::model::switches::{ProcessSwitches, ThreadSwitches};

use super::stub::{Batch, Expect};

const PR_SET_TSC: u64 = 26;
const PR_TSC_SIGSEGV: u64 = 2;
const PR_MCE_KILL: u64 = 33;
const PR_MCE_KILL_SET: u64 = 1;
const PR_MCE_KILL_DEFAULT: u32 = 2;
const PR_SET_CHILD_SUBREAPER: u64 = 36;
const PR_SET_THP_DISABLE: u64 = 41;
const PR_SET_MDWE: u64 = 65;
const PR_SET_MEMORY_MERGE: u64 = 67;
const PR_SET_SPECULATION_CTRL: u64 = 53;
/// That the setting is the thread's own, and the settings.
const PR_SPEC_PRCTL: u32 = 1;
const PR_SPEC_ENABLE: u32 = 2;
const PR_SPEC_RESTRICTED: u32 = 4 | 8 | 16;
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

/// How the thread is protected against speculation, which not every processor lets it choose.
pub fn speculation(batch: &mut Batch, s: &ThreadSwitches) {
    for (what, &value) in (0u64..).zip(&s.speculation) {
        if let Some(setting) = chosen(what, value) {
            let args = [PR_SET_SPECULATION_CTRL, what, setting.into(), 0, 0];
            batch.call_expecting(Expect::Anything, "prctl PR_SET_SPECULATION_CTRL", libc::SYS_prctl, &args);
        }
    }
}

/// What the thread has chosen itself: a new one speculates, and does not flush its data cache.
fn chosen(what: u64, value: u32) -> Option<u32> {
    const L1D_FLUSH: u64 = 2;
    let usual = if what == L1D_FLUSH { PR_SPEC_RESTRICTED } else { PR_SPEC_ENABLE };
    let setting = value & (PR_SPEC_ENABLE | PR_SPEC_RESTRICTED);
    (value & PR_SPEC_PRCTL != 0 && setting & !usual != 0).then_some(setting)
}

/// What membarrier(2) has been told, as long as the memory has no other thread: with some it takes the kernel milliseconds.
pub fn membarrier(batch: &mut Batch, s: &ProcessSwitches) {
    for bit in (0..32).map(|n| 1u32 << n).filter(|bit| s.membarrier & bit != 0) {
        batch.call("membarrier", libc::SYS_membarrier, &[bit.into(), 0, 0]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_chosen_is_chosen_again() {
        // Whatever the processor does by itself, and what a new thread has.
        for (what, value) in [(0, 0), (0, 2), (0, 8), (1, 3), (2, 8), (2, 5)] {
            assert_eq!(chosen(what, value), None, "{what} {value}");
        }
        for (what, value, setting) in [(0, 5, 4), (0, 9, 8), (0, 17, 16), (1, 5, 4), (1, 9, 8), (2, 3, 2)] {
            assert_eq!(chosen(what, value), Some(setting), "{what} {value}");
        }
    }
}
