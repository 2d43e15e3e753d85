//! Settings of prctl(2) and arch_prctl(2), which only the program itself can ask for; and those that can't be saved.

use crate::model::switches::{ProcessSwitches, ThreadSwitches};
use crate::sys::ptrace;
use crate::tracer::{Answers, Call, Calls, HeldProcess, Room};

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
const PR_GET_SPECULATION_CTRL: u64 = 52;
/// Linux ≥ 6.3.
const MEMBARRIER_CMD_GET_REGISTRATIONS: u64 = 1 << 9;
const ARCH_GET_CPUID: u64 = 0x1011;

/// Refuses what calls run in the program would suffer from, and what can't be set again.
pub(super) fn look(p: &HeldProcess, refusals: &mut Refusals) -> Result<(), Error> {
    for t in &p.threads {
        let mut refuse = |reason: &str, hint| refusals.add(p.pid, format!("thread {}", t.tid), reason, hint);
        if t.status.tagged_addresses {
            let hint = "run the program without what tags its addresses (a sanitizer, as a rule)";
            refuse("it uses tagged addresses (LAM): not supported", hint);
        }
        if ptrace::dispatches_syscalls(t.host).map_err(Error::of(t.host, "asking for system call dispatch"))? {
            let hint = "run the program without what takes its system calls (an emulator, as a rule)";
            refuse("it handles system calls itself (PR_SET_SYSCALL_USER_DISPATCH): not supported", hint);
        }
        if ptrace::has_io_ports(t.host).map_err(Error::of(t.host, "asking for I/O ports"))? {
            refuse("it may use I/O ports (ioperm): not supported", "have it give them back (ioperm) before the save");
        }
    }
    Ok(())
}

/// What is asked of a thread.
#[derive(Debug)]
pub(super) struct AskedOfThread {
    tsc: Room,
    machine_check: Call,
    cpuid: Call,
    speculation: [Call; 3],
}

/// What is asked of a process.
#[derive(Debug)]
pub(super) struct AskedOfProcess {
    subreaper: Room,
    thp_disable: Call,
    memory_merge: Call,
    write_or_execute: Call,
    membarrier: Call,
}

/// Asks a thread.
pub(super) fn ask_thread(calls: &mut Calls) -> AskedOfThread {
    let tsc = calls.room(4);
    calls.call_into("prctl", libc::SYS_prctl, &[PR_GET_TSC], 1, tsc);
    // These fail on kernels without such settings.
    AskedOfThread {
        tsc,
        machine_check: calls.try_call(libc::SYS_prctl, &[PR_MCE_KILL_GET]),
        cpuid: calls.try_call(libc::SYS_arch_prctl, &[ARCH_GET_CPUID]),
        speculation: [0, 1, 2].map(|what| calls.try_call(libc::SYS_prctl, &[PR_GET_SPECULATION_CTRL, what])),
    }
}

/// What a thread said.
pub(super) fn of_thread(asked: &AskedOfThread, answers: &Answers) -> ThreadSwitches {
    ThreadSwitches {
        tsc_faults: word(answers.bytes(asked.tsc)) == PR_TSC_SIGSEGV,
        cpuid_faults: answers.result(asked.cpuid).is_ok_and(|on| on == 0),
        machine_check: answers.result(asked.machine_check).unwrap_or(PR_MCE_KILL_DEFAULT) as u32,
        speculation: asked.speculation.map(|call| answers.result(call).unwrap_or(0) as u32),
    }
}

/// Asks a process.
pub(super) fn ask_process(calls: &mut Calls) -> AskedOfProcess {
    let subreaper = calls.room(4);
    calls.call_into("prctl", libc::SYS_prctl, &[PR_GET_CHILD_SUBREAPER], 1, subreaper);
    AskedOfProcess {
        subreaper,
        thp_disable: calls.try_call(libc::SYS_prctl, &[PR_GET_THP_DISABLE]),
        memory_merge: calls.try_call(libc::SYS_prctl, &[PR_GET_MEMORY_MERGE]),
        write_or_execute: calls.try_call(libc::SYS_prctl, &[PR_GET_MDWE]),
        membarrier: calls.try_call(libc::SYS_membarrier, &[MEMBARRIER_CMD_GET_REGISTRATIONS]),
    }
}

/// What a process said.
pub(super) fn of_process(asked: &AskedOfProcess, answers: &Answers) -> ProcessSwitches {
    let number = |call| answers.result(call).unwrap_or(0) as u32;
    ProcessSwitches {
        subreaper: word(answers.bytes(asked.subreaper)) != 0,
        thp_disable: number(asked.thp_disable),
        memory_merge: number(asked.memory_merge) != 0,
        write_or_execute: number(asked.write_or_execute),
        membarrier: number(asked.membarrier),
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b))
}
