//! ptrace(2), as far as a supervisor that only seizes needs it.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;

use crate::model::thread::{Regs, Rseq};
use crate::model::{Addr, signals::Pending};

use super::check;

/// Size of the largest xsave area that is taken (AMX needs 11 KiB; the ABI leaves room to grow).
const XSTATE_MAX: usize = 64 * 1024;
/// It is smaller than this where there are no tile registers (AMX).
const XSTATE_MOSTLY: usize = 4096;
const NT_PRSTATUS: usize = 1;
const NT_386_IOPERM: usize = 0x201;
const NT_X86_XSTATE: usize = 0x202;
const PTRACE_GETSIGMASK: Request = 0x420a;
const PTRACE_SETSIGMASK: Request = 0x420b;
const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: Request = 0x4211;
const PTRACE_SECCOMP_GET_FILTER: Request = 0x420c;
const PTRACE_SECCOMP_GET_METADATA: Request = 0x420d;
const PTRACE_GET_RSEQ_CONFIGURATION: Request = 0x420f;

/// `PTRACE_O_TRACESYSGOOD`: system call stops are told from signals.
pub const OPT_SYSGOOD: usize = 1;
/// `PTRACE_O_TRACEFORK | TRACEVFORK | TRACECLONE`: children are seized at birth.
pub const OPT_CHILDREN: usize = 2 | 4 | 8;
/// `PTRACE_O_TRACEEXEC`: a stop after exec.
pub const OPT_EXEC: usize = 0x10;
/// `PTRACE_O_EXITKILL`: the task dies with its tracer.
pub const OPT_EXITKILL: usize = 1 << 20;
/// `PTRACE_O_SUSPEND_SECCOMP`: filters do not judge the task's calls.
pub const OPT_SUSPEND_SECCOMP: usize = 1 << 21;
/// For a process under construction.
pub const OPT_BUILD: usize = OPT_SYSGOOD | OPT_CHILDREN | OPT_EXITKILL;

/// A request's number: C libraries differ in its type.
#[cfg(target_env = "musl")]
type Request = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;

fn request(op: Request, tid: i32, addr: usize, data: usize) -> io::Result<u64> {
    // SAFETY: callers pass requests whose addr and data are numbers, or pointers to live buffers of the right size.
    check(unsafe { libc::syscall(libc::SYS_ptrace, op as usize, tid as usize, addr, data) })
}

/// PTRACE_SEIZE: becomes the tracer without stopping the task.
pub fn seize(tid: i32, options: usize) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, tid, 0, options).map(drop)
}

/// PTRACE_SETOPTIONS.
pub fn set_options(tid: i32, options: usize) -> io::Result<()> {
    request(libc::PTRACE_SETOPTIONS, tid, 0, options).map(drop)
}

/// PTRACE_INTERRUPT: asks a seized task to stop.
pub fn interrupt(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0, 0).map(drop)
}

/// PTRACE_CONT with a signal to deliver, or 0.
pub fn cont(tid: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, tid, 0, signal as usize).map(drop)
}

/// PTRACE_SINGLESTEP: on by one instruction.
pub fn step(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_SINGLESTEP, tid, 0, 0).map(drop)
}

/// PTRACE_SYSCALL: on to the next system call entry or exit, with a signal to deliver, or 0.
pub fn cont_to_syscall(tid: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL, tid, 0, signal as usize).map(drop)
}

/// PTRACE_DETACH with a signal to deliver, or 0.
pub fn detach(tid: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH, tid, 0, signal as usize).map(drop)
}

/// PTRACE_GETEVENTMSG: the new child's tid after a clone event.
pub fn event_message(tid: i32) -> io::Result<u64> {
    let mut message = 0u64;
    request(libc::PTRACE_GETEVENTMSG, tid, 0, &raw mut message as usize)?;
    Ok(message)
}

fn get_regset(tid: i32, kind: usize, buf: &mut [u8]) -> io::Result<usize> {
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    request(libc::PTRACE_GETREGSET, tid, kind, &raw mut iov as usize)?;
    Ok(iov.iov_len)
}

fn set_regset(tid: i32, kind: usize, buf: &[u8]) -> io::Result<()> {
    let mut iov = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
    request(libc::PTRACE_SETREGSET, tid, kind, &raw mut iov as usize).map(drop)
}

/// General registers. A 32-bit task gives an error.
pub fn get_regs(tid: i32) -> io::Result<Regs> {
    let mut bytes = [0u8; size_of::<libc::user_regs_struct>()];
    if get_regset(tid, NT_PRSTATUS, &mut bytes)? != bytes.len() {
        return Err(io::Error::other("not a 64-bit register set"));
    }
    let mut words = bytes.chunks_exact(8).map(|w| u64::from_ne_bytes(w.try_into().unwrap_or_default()));
    let mut next = || words.next().unwrap_or_default();
    Ok(Regs {
        r15: next(),
        r14: next(),
        r13: next(),
        r12: next(),
        rbp: next(),
        rbx: next(),
        r11: next(),
        r10: next(),
        r9: next(),
        r8: next(),
        rax: next(),
        rcx: next(),
        rdx: next(),
        rsi: next(),
        rdi: next(),
        orig_rax: next(),
        rip: next(),
        cs: next(),
        eflags: next(),
        rsp: next(),
        ss: next(),
        fs_base: next(),
        gs_base: next(),
        ds: next(),
        es: next(),
        fs: next(),
        gs: next(),
    })
}

/// Sets the general registers.
pub fn set_regs(tid: i32, r: &Regs) -> io::Result<()> {
    let words = [
        r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx, r.rdx, r.rsi, r.rdi,
        r.orig_rax, r.rip, r.cs, r.eflags, r.rsp, r.ss, r.fs_base, r.gs_base, r.ds, r.es, r.fs, r.gs,
    ];
    let mut bytes = [0u8; 27 * 8];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    set_regset(tid, NT_PRSTATUS, &bytes)
}

/// The xsave area.
pub fn get_xstate(tid: i32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; XSTATE_MOSTLY];
    let mut len = get_regset(tid, NT_X86_XSTATE, &mut bytes)?;
    if len == bytes.len() {
        bytes.resize(XSTATE_MAX, 0);
        len = get_regset(tid, NT_X86_XSTATE, &mut bytes)?;
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Sets the xsave area.
pub fn set_xstate(tid: i32, area: &[u8]) -> io::Result<()> {
    set_regset(tid, NT_X86_XSTATE, area)
}

/// The blocked signals (inside a call like sigsuspend: those it will put back).
pub fn get_sigmask(tid: i32) -> io::Result<u64> {
    let mut mask = 0u64;
    request(PTRACE_GETSIGMASK, tid, 8, &raw mut mask as usize)?;
    Ok(mask)
}

/// Sets the blocked signals.
pub fn set_sigmask(tid: i32, mask: u64) -> io::Result<()> {
    request(PTRACE_SETSIGMASK, tid, 8, &raw const mask as usize).map(drop)
}

/// The rseq registration, if there is one (Linux ≥ 5.13).
pub fn get_rseq(tid: i32) -> io::Result<Option<Rseq>> {
    #[repr(C)]
    #[derive(Default)]
    struct Config {
        pointer: u64,
        size: u32,
        signature: u32,
        flags: u32,
        pad: u32,
    }
    let mut config = Config::default();
    request(PTRACE_GET_RSEQ_CONFIGURATION, tid, size_of::<Config>(), &raw mut config as usize)?;
    Ok((config.pointer != 0).then_some(Rseq {
        area: Addr(config.pointer),
        len: config.size,
        signature: config.signature,
    }))
}

/// PTRACE_SECCOMP_GET_FILTER: the `nth` filter of a task, the first installed first; `NotFound` past the last.
pub fn seccomp_filter(tid: i32, nth: usize) -> io::Result<Vec<u8>> {
    const INSTRUCTION: usize = 8;
    let count = request(PTRACE_SECCOMP_GET_FILTER, tid, nth, 0)? as usize;
    let mut program = vec![0u8; count * INSTRUCTION];
    request(PTRACE_SECCOMP_GET_FILTER, tid, nth, program.as_mut_ptr() as usize)?;
    Ok(program)
}

/// PTRACE_SECCOMP_GET_METADATA: whether that filter was installed with `SECCOMP_FILTER_FLAG_LOG` (not known before
/// Linux 4.16).
pub fn seccomp_logs(tid: i32, nth: usize) -> io::Result<bool> {
    const FLAG_LOG: u64 = 2;
    let mut metadata = [nth as u64, 0];
    match request(PTRACE_SECCOMP_GET_METADATA, tid, size_of_val(&metadata), metadata.as_mut_ptr() as usize) {
        Ok(_) => Ok(metadata[1] & FLAG_LOG != 0),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: whether a task's system calls may become signals. Not known before Linux 6.4.
pub fn dispatches_syscalls(tid: i32) -> io::Result<bool> {
    let mut config = [0u64; 4];
    match request(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tid, size_of_val(&config), config.as_mut_ptr() as usize) {
        Ok(_) => Ok(config[0] != 0),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether a thread has a bitmap of I/O ports it may use (ioperm(2)).
pub fn has_io_ports(tid: i32) -> io::Result<bool> {
    let mut bitmap = [0u8; 8192];
    match get_regset(tid, NT_386_IOPERM, &mut bitmap) {
        Ok(len) => Ok(len > 0),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENXIO | libc::ENODEV | libc::EINVAL | libc::EIO)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// PTRACE_PEEKSIGINFO: the queued signals of the thread, or (`shared`) of its process, in order.
pub fn pending(tid: i32, shared: bool) -> io::Result<Vec<Pending>> {
    #[repr(C)]
    struct Args {
        off: u64,
        flags: u32,
        nr: i32,
    }
    const BATCH: usize = 64;
    let mut out = Vec::new();
    loop {
        let args = Args { off: out.len() as u64, flags: u32::from(shared), nr: BATCH as i32 };
        let mut infos = [[0u8; 128]; BATCH];
        let got = request(0x4209, tid, &raw const args as usize, infos.as_mut_ptr() as usize)? as usize;
        for info in &infos[..got.min(BATCH)] {
            let signal = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            out.push(Pending { signal, info: crate::model::Hex(info.to_vec()) });
        }
        if got < BATCH {
            return Ok(out);
        }
    }
}
