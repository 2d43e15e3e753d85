//! The signal mask of this thread as the kernel has it. C libraries leave out what they keep for themselves, which with musl is
//! also a signal that others hand to programs (34, the first SIGRTMIN of glibc).
#![allow(unsafe_code)]

use std::io;

use super::check;

/// Bytes of a set of signals.
const SIZE: usize = size_of::<u64>();

/// The signals that are blocked: bit 0 stands for signal 1.
pub fn blocked() -> io::Result<u64> {
    let mut set = 0u64;
    let none = std::ptr::null::<u64>();
    // SAFETY: `set` is live and as long as said; without a new set nothing changes.
    check(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, none, &raw mut set, SIZE) })?;
    Ok(set)
}

/// Blocks these signals and no others.
pub fn block_only(set: u64) -> io::Result<()> {
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: `set` is live and as long as said.
    check(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const set, none, SIZE) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_can_be_blocked_but_two() {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                block_only(u64::MAX).unwrap();
                let kill_and_stop = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);
                assert_eq!(blocked().unwrap(), !kill_and_stop);
            });
        });
    }
}
