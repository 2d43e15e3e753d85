//! The signal frame that makes borrowed registers heal themselves.
//!
//! While a thread's registers are ours, its stack pointer stands on this frame and its instruction pointer on a
//! `syscall; ret`. If we die, the call ends, `ret` takes the frame's return address, which is a `mov $15,%eax; syscall`
//! of the program's own (rt_sigreturn), and the kernel puts the true state back.
//! Layout: arch/x86/include/asm/sigframe.h, include/uapi/asm/{ucontext,sigcontext}.h.

use crate::model::Addr;
use crate::model::thread::Regs;
use crate::sys::cpu;

/// Errors that ask for a restart of the interrupted call (include/linux/errno.h).
const ERESTARTSYS: i64 = -512;
/// The kernel goes on with it by itself, by what it remembers (`restart_syscall`).
pub const ERESTART_RESTARTBLOCK: i64 = -516;
/// Restart unless a handler runs.
pub const ERESTARTNOHAND: i64 = -514;

/// Offset of the siginfo behind the return address and the ucontext.
const SIGINFO: usize = 8 + 304;
/// Up to the place where the xsave area may start.
const FIXED: usize = SIGINFO + 128;

/// Bytes a frame takes for an xsave area of `xstate` bytes, with room to align both.
pub fn len(xstate: usize) -> usize {
    (FIXED + 64 + xstate + 4).next_multiple_of(64) + 64
}

/// The frame for a thread, to be written at `at`, which becomes the stack pointer; `sigreturn` is its return address.
pub fn build(at: Addr, sigreturn: Addr, regs: &Regs, call: i64, sigmask: u64, xstate: &[u8]) -> Vec<u8> {
    let xstate = without_unused_tiles(xstate);
    const UC_FP_XSTATE: u64 = 1;
    const UC_SIGCONTEXT_SS: u64 = 2;
    const UC_STRICT_RESTORE_SS: u64 = 4;
    const MAGIC1: u32 = 0x4650_5853;
    const MAGIC2: u32 = 0x4650_5845;
    let fp = (at.0 + FIXED as u64).next_multiple_of(64);
    let fp_at = (fp - at.0) as usize;
    let mut frame = vec![0u8; fp_at + xstate.len() + 4];
    let mut put = |offset: usize, value: u64| frame[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    let r = wound_back(regs, call);
    put(0, sigreturn.0);
    put(8, UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS);
    // uc_stack with flags that sigaltstack refuses: the alternate stack stays as it is.
    put(8 + 16 + 8, 0xffff_ffff);
    let words = [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax, r.rcx, r.rsp,
        r.rip, r.eflags,
    ];
    let context = 8 + 40;
    for (i, word) in words.into_iter().enumerate() {
        put(context + 8 * i, word);
    }
    put(context + 144, (r.cs & 0xffff) | (r.ss & 0xffff) << 48);
    put(context + 184, fp);
    put(context + 256, sigmask);
    frame[fp_at..fp_at + xstate.len()].copy_from_slice(xstate);
    // sw_reserved: what the kernel looks for to know that this is more than an fxsave area. The regset keeps XCR0
    // in its first word, which is where the frame has its magic.
    let xcr0 = xfeatures(xstate).to_le_bytes();
    let sw = fp_at + 464;
    if frame.len() >= sw + 48 {
        frame[sw..sw + 4].copy_from_slice(&MAGIC1.to_le_bytes());
        frame[sw + 4..sw + 8].copy_from_slice(&(xstate.len() as u32 + 4).to_le_bytes());
        frame[sw + 8..sw + 16].copy_from_slice(&xcr0);
        frame[sw + 16..sw + 20].copy_from_slice(&(xstate.len() as u32).to_le_bytes());
    }
    let end = fp_at + xstate.len();
    frame[end..end + 4].copy_from_slice(&MAGIC2.to_le_bytes());
    frame
}

/// The kernel takes no frame larger than the thread's own state (arch/x86/kernel/fpu/signal.c, check_xstate_in_sigframe),
/// and a thread that never asked for AMX has no room for tiles, though the register set always has.
fn without_unused_tiles(xstate: &[u8]) -> &[u8] {
    const TILES: u64 = 1 << 17 | 1 << 18;
    let in_use = xstate.get(512..520).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    if xfeatures(xstate) & TILES == 0 || in_use & TILES != 0 {
        return xstate;
    }
    let end = (2..17).filter(|c| xfeatures(xstate) & (1 << c) != 0).map(cpu::xsave_component_end).max();
    xstate.get(..end.unwrap_or(xstate.len())).unwrap_or(xstate)
}

/// XCR0 as the `NT_X86_XSTATE` regset has it: the state components the area can hold.
pub fn xfeatures(xstate: &[u8]) -> u64 {
    xstate.get(464..472).and_then(|b| b.try_into().ok()).map_or(3, u64::from_le_bytes)
}

/// Registers that issue an interrupted system call, `call`, again by themselves, without the kernel's help.
pub fn wound_back(regs: &Regs, call: i64) -> Regs {
    let mut r = *regs;
    if interrupted(regs) {
        r.rax = call as u64;
        r.rip -= 2;
    }
    r.orig_rax = u64::MAX;
    r
}

/// Registers for an image: a call whose restart depends on what the kernel remembers (`restart_syscall`) becomes one
/// that is issued again; everything else is left to the kernel, which restarts it when the thread is let go.
pub fn for_image(regs: &Regs, call: i64) -> Regs {
    let mut r = *regs;
    if interrupted(regs) {
        r.orig_rax = call as u64;
        if r.rax as i64 == ERESTART_RESTARTBLOCK {
            r.rax = ERESTARTNOHAND as u64;
        }
    } else {
        r.orig_rax = u64::MAX;
    }
    r
}

/// Some calls end with EINTR at any stop, though no handler runs (signal(7), "Interruption of system calls by stop
/// signals"): those the program must not see. As registers from which the kernel restarts the call, unless there is a
/// signal to handle; `None` where nothing needs to be changed.
pub fn without_false_eintr(regs: &Regs) -> Option<Regs> {
    const EINTR: i64 = -4;
    let ends = matches!(
        regs.orig_rax as i64,
        libc::SYS_epoll_wait
            | libc::SYS_epoll_pwait
            | libc::SYS_epoll_pwait2
            | libc::SYS_rt_sigtimedwait
            | libc::SYS_semop
            | libc::SYS_semtimedop
            | libc::SYS_io_getevents
            | libc::SYS_io_uring_enter
            // With a time-out in memory that can't be written (fs/select.c, poll_select_finish).
            | libc::SYS_select
            | libc::SYS_pselect6
            | libc::SYS_ppoll
            // Sockets with a time-out; what has been transferred before is returned instead of EINTR.
            | libc::SYS_read
            | libc::SYS_readv
            | libc::SYS_write
            | libc::SYS_writev
            | libc::SYS_accept
            | libc::SYS_accept4
            | libc::SYS_connect
            | libc::SYS_recvfrom
            | libc::SYS_recvmsg
            | libc::SYS_recvmmsg
            | libc::SYS_sendto
            | libc::SYS_sendmsg
            | libc::SYS_sendmmsg
            | libc::SYS_preadv2
            | libc::SYS_pwritev2
            | libc::SYS_sendfile
            | libc::SYS_splice
    );
    (ends && regs.rax as i64 == EINTR).then_some(Regs { rax: ERESTARTNOHAND as u64, ..*regs })
}

/// The call that `restart_syscall` stands for. The kernel goes on with an interrupted sleep by that call, and forgets
/// the number of the first one; a new process has nothing to go on with and must issue the first one again. Only four
/// calls do so (nanosleep, clock_nanosleep, poll, futex), and their arguments are still in the registers. The number
/// is mostly in the code before the `syscall`; where it isn't, the arguments tell. `read` copies from the program.
pub fn true_call(regs: &Regs, read: impl Fn(u64, &mut [u8]) -> bool) -> i64 {
    const CALLS: [i64; 4] = [libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_poll, libc::SYS_futex];
    if regs.orig_rax as i64 != libc::SYS_restart_syscall {
        return regs.orig_rax as i64;
    }
    let mut code = [0u8; 32];
    if read(regs.rip.wrapping_sub(2 + code.len() as u64), &mut code) {
        // mov $nr,%eax or mov $nr,%rax, the last one before the call.
        let number = |at: usize| {
            let bytes = code.get(at..)?;
            let rest = bytes.strip_prefix(&[0xb8]).or_else(|| bytes.strip_prefix(&[0x48, 0xc7, 0xc0]))?;
            let nr = i64::from(i32::from_le_bytes(*rest.first_chunk::<4>()?));
            CALLS.contains(&nr).then_some(nr)
        };
        if let Some(nr) = (0..code.len()).rev().find_map(number) {
            return nr;
        }
    }
    let time = |at: u64| {
        let mut spec = [0u8; 16];
        at >= 4096
            && read(at, &mut spec)
            && u64::from_le_bytes([8, 9, 10, 11, 12, 13, 14, 15].map(|i| spec[i])) < 1_000_000_000
    };
    // FUTEX_WAIT, WAIT_BITSET and WAIT_REQUEUE_PI, private or not, by either clock.
    let waits_for_futex = matches!(regs.rsi & !0x180, 0 | 9 | 11);
    if regs.rdi < 16 && regs.rsi <= 1 && time(regs.rdx) {
        libc::SYS_clock_nanosleep
    } else if waits_for_futex && regs.rdi >= 4096 && regs.rdi % 4 == 0 && time(regs.r10) {
        libc::SYS_futex
    } else if (regs.rsi == 0 || regs.rsi >= 4096) && time(regs.rdi) {
        libc::SYS_nanosleep
    } else {
        libc::SYS_poll
    }
}

/// Whether the thread stands in a system call that the kernel means to restart.
pub fn interrupted(regs: &Regs) -> bool {
    regs.orig_rax as i64 >= 0 && matches!(regs.rax as i64, ERESTART_RESTARTBLOCK | ERESTARTNOHAND..=ERESTARTSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regs(orig_rax: i64, rax: i64) -> Regs {
        Regs { orig_rax: orig_rax as u64, rax: rax as u64, rip: 0x1002, rsp: 0x7000, ..Regs::default() }
    }

    #[test]
    fn only_restarts_are_wound_back() {
        for error in [-512, -513, -514, -516] {
            let r = wound_back(&regs(0, error), 0);
            assert_eq!((r.rax, r.rip, r.orig_rax), (0, 0x1000, u64::MAX), "{error}");
        }
        for (orig, rax) in [(0, -4), (0, 17), (0, -515), (-1, -512), (0, -511), (0, -517)] {
            let r = wound_back(&regs(orig, rax), orig);
            assert_eq!((r.rax as i64, r.rip), (rax, 0x1002), "{orig} {rax}");
        }
    }

    #[test]
    fn an_image_never_relies_on_the_kernels_restart_block() {
        let r = for_image(&regs(219, -516), 35);
        assert_eq!((r.rax as i64, r.rip, r.orig_rax), (-514, 0x1002, 35));
        assert_eq!(for_image(&regs(35, 0), 35).orig_rax, u64::MAX);
    }

    #[test]
    fn the_first_call_behind_a_restart_is_found() {
        let memory = |at: u64, out: &mut [u8]| {
            // A timespec of 5 s and 7 ns at 0x7000; elsewhere nothing.
            let spec = [5u64.to_le_bytes(), 7u64.to_le_bytes()].concat();
            (at == 0x7000).then(|| out.copy_from_slice(&spec[..out.len()])).is_some()
        };
        let r = Regs { orig_rax: 219, rip: 0x1002, ..Regs::default() };
        let call = |r: Regs| true_call(&r, memory);
        assert_eq!(call(Regs { rdi: 0x7000, ..r }), libc::SYS_nanosleep);
        assert_eq!(call(Regs { rdi: 1, rdx: 0x7000, ..r }), libc::SYS_clock_nanosleep);
        assert_eq!(call(Regs { rdi: 0x5000, rsi: 0x189, r10: 0x7000, ..r }), libc::SYS_futex);
        assert_eq!(call(Regs { rdi: 0x5000, rsi: 3, rdx: 1000, ..r }), libc::SYS_poll);
        assert_eq!(call(Regs { orig_rax: 1, ..r }), 1);
        // mov $7,%eax among other bytes, right before the call.
        let code = |_: u64, out: &mut [u8]| {
            out.fill(0x90);
            let at = out.len() - 9;
            out[at..at + 5].copy_from_slice(&[0xb8, 7, 0, 0, 0]);
            true
        };
        assert_eq!(true_call(&Regs { rdi: 0x7000, ..r }, code), libc::SYS_poll);
    }

    #[test]
    fn a_stop_is_no_reason_for_eintr() {
        let r = without_false_eintr(&regs(libc::SYS_epoll_wait, -4)).unwrap();
        assert_eq!((r.rax as i64, r.orig_rax as i64, r.rip), (-514, libc::SYS_epoll_wait, 0x1002));
        assert!(without_false_eintr(&regs(libc::SYS_epoll_wait, 0)).is_none());
        assert!(without_false_eintr(&regs(libc::SYS_close, -4)).is_none());
        assert!(without_false_eintr(&regs(-1, -4)).is_none());
    }

    #[test]
    fn the_xsave_area_is_aligned_and_marked() {
        for base in [0x7f00_0000_0000u64, 0x7f00_0000_0008, 0x7f00_0000_0038] {
            let xstate = vec![7u8; 2696];
            let frame = build(Addr(base), Addr(0x1234), &regs(-1, 0), -1, 5, &xstate);
            assert!(frame.len() <= len(xstate.len()));
            let fp = u64::from_le_bytes(frame[8 + 40 + 184..][..8].try_into().unwrap());
            assert_eq!(fp % 64, 0);
            let at = (fp - base) as usize;
            assert_eq!(frame[at + 464..at + 468], 0x4650_5853u32.to_le_bytes());
            assert_eq!(frame[frame.len() - 4..], 0x4650_5845u32.to_le_bytes());
            assert_eq!(u64::from_le_bytes(frame[8 + 40 + 256..][..8].try_into().unwrap()), 5);
        }
    }
}
