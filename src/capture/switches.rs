//! Settings of prctl(2) and arch_prctl(2), which only the program itself can ask for; and those that can't be saved.

use crate::model::switches::{ProcessSwitches, ThreadSwitches};
use crate::proc::status::Status;
use crate::sys::ptrace;
use crate::tracer::{self, HeldProcess, Remote};

use super::Error;
use super::refusals::Refusals;

const PR_GET_TSC: u64 = 25;
const PR_TSC_SIGSEGV: u32 = 2;
const PR_MCE_KILL_GET: u64 = 34;
const PR_MCE_KILL_DEFAULT: u64 = 2;
const PR_GET_CHILD_SUBREAPER: u64 = 37;
const PR_GET_THP_DISABLE: u64 = 42;
const PR_GET_MDWE: u64 = 66;
const PR_GET_MEMORY_MERGE: u64 = 68;
const ARCH_GET_CPUID: u64 = 0x1011;

/// Refuses what calls run in the program would suffer from, and what can't be set again.
pub(super) fn look(p: &HeldProcess, threads: &[Status], refusals: &mut Refusals) -> Result<(), Error> {
    for (t, status) in p.threads.iter().zip(threads) {
        let mut refuse = |reason: &str| refusals.add(p.pid, format!("thread {}", t.tid), reason, "");
        if status.tagged_addresses {
            refuse("it uses tagged addresses (LAM): not supported");
        }
        if ptrace::dispatches_syscalls(t.host).map_err(Error::of(t.host, "asking for system call dispatch"))? {
            refuse("it handles system calls itself (PR_SET_SYSCALL_USER_DISPATCH): not supported");
        }
        if ptrace::has_io_ports(t.host).map_err(Error::of(t.host, "asking for I/O ports"))? {
            refuse("it may use I/O ports (ioperm): not supported");
        }
    }
    Ok(())
}

/// Of the thread whose registers are lent.
pub(super) fn of_thread(remote: &mut Remote<'_>) -> Result<ThreadSwitches, tracer::Error> {
    let scratch = remote.scratch();
    remote.call("prctl", libc::SYS_prctl, [PR_GET_TSC, scratch.0, 0, 0, 0, 0])?;
    let mut word = [0u8; 4];
    remote.read(scratch, &mut word)?;
    // Errors: kernels without these settings.
    let machine_check = remote.try_call(libc::SYS_prctl, [PR_MCE_KILL_GET, 0, 0, 0, 0, 0])?;
    let cpuid = remote.try_call(libc::SYS_arch_prctl, [ARCH_GET_CPUID, 0, 0, 0, 0, 0])?;
    Ok(ThreadSwitches {
        tsc_faults: u32::from_ne_bytes(word) == PR_TSC_SIGSEGV,
        cpuid_faults: cpuid.is_ok_and(|on| on == 0),
        machine_check: machine_check.unwrap_or(PR_MCE_KILL_DEFAULT) as u32,
    })
}

/// Of the process whose registers are lent.
pub(super) fn of_process(remote: &mut Remote<'_>) -> Result<ProcessSwitches, tracer::Error> {
    let scratch = remote.scratch();
    remote.call("prctl", libc::SYS_prctl, [PR_GET_CHILD_SUBREAPER, scratch.0, 0, 0, 0, 0])?;
    let mut word = [0u8; 4];
    remote.read(scratch, &mut word)?;
    let mut ask = |what| remote.try_call(libc::SYS_prctl, [what, 0, 0, 0, 0, 0]).map(|n| n.unwrap_or(0) as u32);
    Ok(ProcessSwitches {
        subreaper: u32::from_ne_bytes(word) != 0,
        thp_disable: ask(PR_GET_THP_DISABLE)?,
        memory_merge: ask(PR_GET_MEMORY_MERGE)? != 0,
        write_or_execute: ask(PR_GET_MDWE)?,
    })
}
