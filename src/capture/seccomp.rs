//! Seccomp filters: only root may read them, and have our calls pass them by.

use crate::model::Hex;
use crate::model::seccomp::{Filter, Seccomp};
use crate::sys::ptrace;
use crate::tracer::{HeldProcess, HeldThread};

use super::Error;
use super::refusals::Refusals;

const MODE_STRICT: u32 = 1;
/// Its filter has just condemned it (kernel/seccomp.c, SECCOMP_MODE_DEAD).
const MODE_DEAD: u32 = 3;

/// It is gone in a moment.
pub(super) const CONDEMNED: &str = "its seccomp filter is ending it";
const RET_K: u16 = 0x06;
const ACTION: u32 = 0xffff_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;

/// The filters of a process, and what each of its threads is under.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub filters: Vec<Filter>,
    pub threads: Vec<Option<Seccomp>>,
}

/// Reads the filters of every thread, and sees to it that our own calls will not be judged by them.
pub(super) fn look(p: &HeldProcess, refusals: &mut Refusals) -> Result<Seen, Error> {
    let mut seen = Seen::default();
    for t in &p.threads {
        let mode = match t.status.seccomp {
            0 => None,
            mode => one(p, t, mode, &mut seen.filters, refusals)?,
        };
        seen.threads.push(mode);
    }
    Ok(seen)
}

/// The way out where even root can't save a filter.
const WITHOUT: &str = "run the program without its sandbox";

fn one(
    p: &HeldProcess,
    t: &HeldThread,
    mode: u32,
    filters: &mut Vec<Filter>,
    refusals: &mut Refusals,
) -> Result<Option<Seccomp>, Error> {
    let failed = |e| Error::of(t.host, "reading the seccomp filters")(e);
    let mut refuse = |reason: &str, hint: &str| {
        refusals.add(p.pid, format!("thread {}", t.tid), reason, hint);
        Ok(None)
    };
    let privilege = "it is under seccomp, which only root (and not itself under seccomp) can save";
    match t.suspend_seccomp() {
        Ok(()) => {}
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
            return refuse(privilege, "save it as root");
        }
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            return refuse("it is under seccomp, and this kernel lacks CONFIG_CHECKPOINT_RESTORE", WITHOUT);
        }
        Err(e) => return Err(failed(e)),
    }
    if mode == MODE_DEAD {
        return refuse(CONDEMNED, "save again when it has ended");
    }
    if mode == MODE_STRICT {
        return Ok(Some(Seccomp::Strict));
    }
    let mut chain = Vec::new();
    for nth in 0.. {
        let program = match ptrace::seccomp_filter(t.host, nth) {
            Ok(program) => program,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => break,
            Err(e) if e.raw_os_error() == Some(libc::EMEDIUMTYPE) => {
                return refuse("it has a seccomp filter that the kernel does not give away", WITHOUT);
            }
            Err(e) => return Err(failed(e)),
        };
        if asks_somebody(&program) {
            let reason = "its seccomp filter asks another process (SECCOMP_RET_USER_NOTIF): not supported";
            return refuse(reason, WITHOUT);
        }
        let log = ptrace::seccomp_logs(t.host, nth).map_err(failed)?;
        let filter = Filter { log, program: Hex(program) };
        let index = filters.iter().position(|f| *f == filter).unwrap_or(filters.len());
        if index == filters.len() {
            filters.push(filter);
        }
        chain.push(index as u32);
    }
    Ok(Some(Seccomp::Filters(chain)))
}

/// Whether the program returns `SECCOMP_RET_USER_NOTIF` as a constant. Its answers come through a descriptor that
/// somebody holds.
fn asks_somebody(program: &[u8]) -> bool {
    program.chunks_exact(8).any(|i| match *i {
        [a, b, _, _, k0, k1, k2, k3] => {
            u16::from_le_bytes([a, b]) == RET_K && u32::from_le_bytes([k0, k1, k2, k3]) & ACTION == RET_USER_NOTIF
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_asks_is_told_from_others() {
        let ret = |k: u32| [&RET_K.to_le_bytes()[..], &[0, 0], &k.to_le_bytes()].concat();
        let allow = ret(0x7fff_0000);
        assert!(!asks_somebody(&allow));
        assert!(asks_somebody(&[allow, ret(RET_USER_NOTIF | 5)].concat()));
        assert!(!asks_somebody(&[1, 2, 3]));
    }
}
