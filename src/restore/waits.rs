//! Calls that the kernel itself goes on with after an interruption, where only the kernel knows when they are to end
//! (restart_syscall(2)). A new thread makes such a call with the time that is left, and is interrupted in it at once:
//! then the kernel knows again, and the program's registers and memory stay as they were. Calls that are made again in the
//! program itself only need their time-outs changed.

use crate::model::Nanos;
use crate::model::thread::{Regs, Thread};
use crate::tracer;

use super::Error;
use super::stub::Puppet;

const ERESTART_RESTARTBLOCK: i64 = -516;

/// The registers to leave the thread with: those of the image, or as an interruption that the kernel remembers leaves them.
/// `elapsed`: how far the clocks have gone on since that time was left.
pub fn renew(puppet: &mut Puppet, thread: &Thread, elapsed: Nanos) -> Result<Regs, Error> {
    // A filter that allows the call may not allow restart_syscall.
    let Some(left) = thread.left.filter(|l| l.0 > 0 && thread.seccomp.is_none()) else { return Ok(thread.regs) };
    let left = Nanos(left.less(elapsed).0.max(1));
    let r = &thread.regs;
    let at = puppet.data();
    let mut args = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
    let nr = r.orig_rax as i64;
    match nr {
        libc::SYS_nanosleep => args[0] = at.0,
        libc::SYS_clock_nanosleep => args[2] = at.0,
        libc::SYS_futex => args[3] = at.0,
        libc::SYS_poll => args[2] = milliseconds(left),
        _ => {
            let Some(again) = tracer::waits::again(r, nr, left) else { return Ok(thread.regs) };
            if let Some((at, bytes)) = again.memory {
                puppet.write(at, &bytes)?;
            }
            return Ok(again.regs);
        }
    }
    let (seconds, nanos) = left.parts();
    puppet.write(at, &[seconds.to_le_bytes(), nanos.to_le_bytes()].concat())?;
    // Where there is nothing to wait for any more, the call is over at once: it will be when it is issued again, too.
    Ok(match puppet.interrupted("a call to go on with", nr, args)? as i64 {
        ERESTART_RESTARTBLOCK => Regs { rax: ERESTART_RESTARTBLOCK as u64, ..thread.regs },
        _ => thread.regs,
    })
}

/// As poll takes them, rounded up.
fn milliseconds(left: Nanos) -> u64 {
    const MILLISECOND: i64 = 1_000_000;
    (left.0.saturating_add(MILLISECOND - 1) / MILLISECOND).clamp(1, i64::from(i32::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_never_rounded_down() {
        assert_eq!([1, 1_000_000, 1_000_001, i64::MAX].map(|ns| milliseconds(Nanos(ns))), [1, 1, 2, 0x7fff_ffff]);
    }
}
