//! Calls of which only we know when they are to end: those that wait on a socket for as long as its SO_RCVTIMEO or
//! SO_SNDTIMEO says, and those that the kernel itself goes on with.
//!
//! A call on a socket reads the time-out once, when it begins (include/net/sock.h, `sock_rcvtimeo`), so one that is made again
//! would wait as if it had not waited before. So it is made again while everybody else still stands: at its entry the
//! socket gets what is left as its time-out, and as soon as the thread sleeps, its own one back. From then on the
//! thread must not be stopped any more, or the call would begin once more: it stays traced until the thread of ours
//! that traces it has ended ([`super::apart`]), and is then let go without being woken.
//!
//! When the call is to end is noted in the thread itself, for the next save: in rcx and r11, which the `syscall`
//! instruction overwrites and nobody can rely on (Intel SDM, SYSCALL), and only for that call, since the next one
//! overwrites them again. A call that the kernel goes on with (restart_syscall(2)) gets nothing but that note: what it was
//! called with is the whole time-out for ever, and what the kernel remembers is to be had from nobody.

use std::cmp::Ordering;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::model::Nanos;
use crate::model::thread::Regs;
use crate::proc;
use crate::sys::tasks::{self, Kcmp};
use crate::sys::{cpu, ptrace, socket};

use super::Error;
use super::frame::{ERESTART_RESTARTBLOCK, ERESTARTNOHAND};
use super::task::{Outcome, Stopped};

/// `struct timeval`: seconds and microseconds.
type Timeval = [u8; 16];

/// What is left of a call that the kernel goes on with is noted only if it is more: a stop of each thread costs more than
/// a later image can be wrong.
const LEAST: Nanos = Nanos(100_000_000);
/// How long a thread may take to fall asleep in its call.
const PATIENCE: Duration = Duration::from_secs(1);

/// A call that waits, and when it is to end.
#[derive(Debug)]
pub struct Patience {
    tid: i32,
    /// Of one that waits on a socket: that, and which of its time-outs counts.
    socket: Option<(OwnedFd, i32)>,
    /// Number and first argument of the call.
    call: (u64, u64),
    /// By our CLOCK_MONOTONIC.
    end: Nanos,
}

/// The descriptors that a call may wait on, each with the option that says how long.
fn waited_on(call: i64, args: &[u64; 6]) -> Vec<(i32, i32)> {
    let (receives, sends) = (libc::SO_RCVTIMEO, libc::SO_SNDTIMEO);
    let first = args[0] as i32;
    match call {
        libc::SYS_read
        | libc::SYS_readv
        | libc::SYS_preadv2
        | libc::SYS_recvfrom
        | libc::SYS_recvmsg
        | libc::SYS_recvmmsg
        | libc::SYS_accept
        | libc::SYS_accept4 => vec![(first, receives)],
        libc::SYS_write
        | libc::SYS_writev
        | libc::SYS_pwritev2
        | libc::SYS_sendto
        | libc::SYS_sendmsg
        | libc::SYS_sendmmsg
        | libc::SYS_sendfile
        | libc::SYS_connect => vec![(first, sends)],
        // From the one to the other; one of them is a pipe.
        libc::SYS_splice => vec![(first, receives), (args[2] as i32, sends)],
        _ => Vec::new(),
    }
}

/// Whether a thread sleeps in such a call, of a socket with a time-out.
pub(super) fn waits(pid: i32, tid: i32, call: i64, args: &[u64; 6]) -> bool {
    // A link tells more cheaply what a copy of the descriptor would.
    let is_socket = |fd| proc::link(&format!("{tid}/fd/{fd}")).is_ok_and(|link| link.starts_with(b"socket:"));
    waited_on(call, args).into_iter().any(|(fd, option)| {
        is_socket(fd) && copy(pid, tid, fd).is_some_and(|socket| time_out(&socket, option).is_some())
    })
}

/// Whether of a call that the kernel goes on with nothing tells what is left.
fn is_forgotten(call: i64, regs: &Regs) -> bool {
    match call {
        libc::SYS_nanosleep => regs.rsi == 0,
        libc::SYS_clock_nanosleep => regs.r10 == 0,
        libc::SYS_futex | libc::SYS_poll => true,
        _ => false,
    }
}

/// Our own descriptor of a thread's file.
pub(super) fn copy(pid: i32, tid: i32, fd: i32) -> Option<OwnedFd> {
    let pidfd = tasks::pidfd_open_thread(tid).or_else(|e| {
        let shared = tid == pid || matches!(tasks::kcmp(pid, tid, Kcmp::Files, 0, 0), Ok(Ordering::Equal));
        if shared { tasks::pidfd_open(pid) } else { Err(e) }
    });
    tasks::pidfd_getfd(pidfd.ok()?.as_fd(), fd).ok()
}

/// What a socket's time-out is set to, and as a time; `None` if it has none.
fn time_out(socket: &OwnedFd, option: i32) -> Option<(Timeval, Nanos)> {
    let mut value = [0; 16];
    let len = socket::option_into(socket.as_fd(), libc::SOL_SOCKET, option, &mut value).ok()?;
    let time = time(&value);
    (len == value.len() && time.0 > 0).then_some((value, time))
}

fn time(value: &Timeval) -> Nanos {
    let word = |at: usize| value.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| i64::from_ne_bytes(*b));
    Nanos::from_parts(word(0), word(8).saturating_mul(1000))
}

/// As a socket takes it, rounded up; never 0, which would mean for ever.
fn timeval(left: Nanos) -> Timeval {
    let (seconds, nanos) = Nanos(left.0.max(1).saturating_add(999)).parts();
    let mut value = [0; 16];
    value[..8].copy_from_slice(&seconds.to_ne_bytes());
    value[8..].copy_from_slice(&(nanos / 1000).to_ne_bytes());
    value
}

/// What stands in r11 beside a time in rcx that we have noted there. Another time namespace has another
/// CLOCK_MONOTONIC.
fn mark(end: u64) -> u64 {
    static NAMESPACE: OnceLock<u64> = OnceLock::new();
    let namespace = NAMESPACE.get_or_init(|| proc::namespace(std::process::id() as i32, "time").unwrap_or(0));
    (end ^ namespace << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x636b_7074_5f77_6169
}

/// When the call is to end, by what an earlier save or the resume has noted.
pub(super) fn noted(regs: &Regs) -> Option<Nanos> {
    (regs.r11 == mark(regs.rcx)).then_some(Nanos(regs.rcx as i64))
}

/// The registers without such a note: those that the instruction itself leaves.
pub(super) fn without_note(regs: &Regs) -> Regs {
    if noted(regs).is_some() { Regs { rcx: regs.rip, r11: regs.eflags, ..*regs } } else { *regs }
}

impl Patience {
    /// Of a thread that was stopped in its `call` at `stood`, after it had `slept` in it, if that is known; `left`: what is
    /// known to be left of it.
    pub(super) fn held(
        ids: (i32, i32),
        (regs, call): (&Regs, i64),
        (slept, left): (Option<Nanos>, Option<Nanos>),
        stood: Nanos,
    ) -> Option<Patience> {
        if let Some(left) = left {
            return Patience::of_restart(ids.1, regs, call, (left, stood));
        }
        let mut patience = Patience::of_socket(ids, regs, Nanos(0))?;
        let (_, total) = patience.time_out()?;
        let latest = stood.0.saturating_add(total.0);
        let noted = noted(regs).filter(|end| end.0 <= latest);
        patience.end = noted.or_else(|| slept.map(|slept| Nanos(latest.saturating_sub(slept.0))))?;
        Some(patience)
    }

    /// Of a thread that is to go on with its interrupted call for what was `left` at `from`, by our CLOCK_MONOTONIC. `None`
    /// if nobody needs to know.
    pub fn with_rest(ids: (i32, i32), regs: &Regs, left: Nanos, from: Nanos) -> Option<Patience> {
        let restarted = Patience::of_restart(ids.1, regs, regs.orig_rax as i64, (left, from));
        restarted.or_else(|| Patience::of_socket(ids, regs, Nanos(left.0.saturating_add(from.0))))
    }

    fn of_restart(tid: i32, regs: &Regs, call: i64, (left, from): (Nanos, Nanos)) -> Option<Patience> {
        let restarted = regs.rax as i64 == ERESTART_RESTARTBLOCK && is_forgotten(call, regs);
        let end = Nanos(left.0.saturating_add(from.0));
        let call = (libc::SYS_restart_syscall as u64, regs.rdi);
        (restarted && left > LEAST && cpu::syscall_overwrites_rcx()).then_some(Patience {
            tid,
            socket: None,
            call,
            end,
        })
    }

    fn of_socket((pid, tid): (i32, i32), regs: &Regs, end: Nanos) -> Option<Patience> {
        if regs.rax as i64 != ERESTARTNOHAND {
            return None;
        }
        let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
        let socket = waited_on(regs.orig_rax as i64, &args).into_iter().find_map(|(fd, option)| {
            let socket = copy(pid, tid, fd)?;
            time_out(&socket, option).map(|_| (socket, option))
        })?;
        Some(Patience { tid, socket: Some(socket), call: (regs.orig_rax, regs.rdi), end })
    }

    fn time_out(&self) -> Option<(Timeval, Nanos)> {
        self.socket.as_ref().and_then(|(socket, option)| time_out(socket, *option))
    }

    /// Whether it is of a call that waits on a socket, and is made again.
    pub(super) fn is_of_socket(&self) -> bool {
        self.socket.is_some()
    }

    /// Another socket has the numbers of the one with this inode.
    pub(super) fn move_to(&mut self, inode: u64, other: BorrowedFd<'_>) -> io::Result<()> {
        if let Some((socket, _)) = &mut self.socket {
            if nix::sys::stat::fstat(&*socket)?.st_ino == inode {
                *socket = other.try_clone_to_owned()?;
            }
        }
        Ok(())
    }

    /// What is left of it at a moment, at least 1 ns.
    pub(super) fn left(&self, at: Nanos) -> Nanos {
        Nanos(self.end.less(at).0.max(1))
    }

    /// Has the thread go on with its call, to wait no longer than it should. It must stand where the kernel restarts an
    /// interrupted call, and whoever else has the socket must stand still. `None`: it waits, traced by this thread
    /// until that ends. Else it stands, and may be let go with the signal it stands for, if any.
    ///
    /// # Errors
    /// If the thread has gone.
    pub fn go_on(&self, task: Stopped) -> Result<Option<Stopped>, Error> {
        let tid = self.tid;
        let bad = |step| move |e| Error::from_io(step, tid, e);
        ptrace::set_options(tid, ptrace::OPT_SYSGOOD).map_err(bad("setting options"))?;
        let mut task = if task.is_parked() { task } else { task.park(|_| Ok(()))? };
        // Without a signal that has come meanwhile, it comes to the entry of its call, and nowhere else. One that is
        // ignored does not end the call; another does, or stops the thread.
        loop {
            let signal = task.pending_signal();
            if signal != 0 && !is_ignored(tid, signal) {
                return Ok(Some(task));
            }
            task = task.cont_to_syscall(signal)?.wait()?;
            if task.is_syscall() || task.is_parked() {
                break;
            }
        }
        let regs = ptrace::get_regs(tid).map_err(bad("reading registers"))?;
        if !task.is_syscall() || (regs.orig_rax, regs.rdi) != self.call {
            return Ok(Some(task));
        }
        if cpu::syscall_overwrites_rcx() {
            let end = self.end.0 as u64;
            let regs = Regs { rcx: end, r11: mark(end), ..regs };
            ptrace::set_regs(tid, &regs).map_err(bad("setting registers"))?;
        }
        let Some((socket, option)) = &self.socket else { return task.cont(0).map(|_| None) };
        let Some((full, _)) = self.time_out() else { return Ok(Some(task)) };
        let now = tasks::clock(libc::CLOCK_MONOTONIC).map_err(bad("reading a clock"))?;
        let set = |value: &Timeval| socket::set_option(socket.as_fd(), libc::SOL_SOCKET, *option, value);
        let shortened = set(&timeval(self.left(now)));
        let waits = until_it_sleeps(task);
        shortened.and_then(|()| set(&full)).map_err(bad("setting a time-out"))?;
        waits
    }
}

/// Lets a thread go on from the entry of its call, until it sleeps in it (`None`) or is at its end.
fn until_it_sleeps(task: Stopped) -> Result<Option<Stopped>, Error> {
    let tid = task.tid();
    let deadline = Instant::now() + PATIENCE;
    let mut running = task.cont_to_syscall(0)?;
    for round in 0u32.. {
        match running.poll()? {
            Outcome::Stopped(task) => return Ok(Some(task)),
            Outcome::Dead => return Err(Error::Vanished { pid: tid }),
            Outcome::Running(task) => running = task,
        }
        // Locks on the way are waited for in state D.
        if proc::stat(tid).is_ok_and(|stat| stat.state == b'S') {
            break;
        }
        if Instant::now() > deadline {
            tracing::debug!(tid, "does not fall asleep in its call, and may wait longer than it should");
            break;
        }
        tasks::back_off(round);
    }
    Ok(None)
}

/// Whether a signal does nothing to a thread.
fn is_ignored(tid: i32, signal: i32) -> bool {
    let by_default = matches!(signal, libc::SIGCHLD | libc::SIGCONT | libc::SIGURG | libc::SIGWINCH);
    let has = |set: u64| set >> (signal - 1) & 1 == 1;
    proc::status(tid).is_ok_and(|s| has(s.sig_ignored) || by_default && !has(s.sig_caught))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regs(call: i64) -> Regs {
        Regs { orig_rax: call as u64, rax: ERESTARTNOHAND as u64, rip: 0x1000, eflags: 0x246, ..Regs::default() }
    }

    #[test]
    fn a_rest_is_never_for_ever_nor_too_short() {
        for (left, micros) in [(-5, 1), (0, 1), (1, 1), (1000, 1), (1001, 2), (2_000_000_001, 2_000_001)] {
            assert_eq!(time(&timeval(Nanos(left))), Nanos(micros * 1000), "{left}");
        }
    }

    #[test]
    fn only_what_is_worth_it_is_noted() {
        let kept = Regs { rax: ERESTART_RESTARTBLOCK as u64, ..regs(libc::SYS_nanosleep) };
        let of = |regs: &Regs, call, left| {
            Patience::of_restart(1, regs, call, (Nanos(left), Nanos(5))).map(|patience| patience.end.0)
        };
        if !cpu::syscall_overwrites_rcx() {
            return;
        }
        assert_eq!(of(&kept, libc::SYS_nanosleep, LEAST.0 + 1), Some(LEAST.0 + 6));
        assert_eq!(of(&kept, libc::SYS_nanosleep, LEAST.0), None);
        // The rest is written there.
        assert_eq!(of(&Regs { rsi: 0x1000, ..kept }, libc::SYS_nanosleep, LEAST.0 + 1), None);
        assert_eq!(of(&kept, libc::SYS_select, LEAST.0 + 1), None);
        assert_eq!(of(&regs(libc::SYS_nanosleep), libc::SYS_nanosleep, LEAST.0 + 1), None);
    }

    #[test]
    fn what_is_noted_is_found_and_taken_away() {
        let plain = Regs { rcx: 0x1000, r11: 0x246, ..regs(libc::SYS_recvfrom) };
        assert_eq!((noted(&plain), without_note(&plain)), (None, plain));
        let with = Regs { rcx: 77, r11: mark(77), ..plain };
        assert_eq!((noted(&with), without_note(&with)), (Some(Nanos(77)), plain));
        assert_eq!(noted(&Regs { rcx: 78, ..with }), None);
    }

    #[test]
    fn a_thread_waits_on_a_socket_with_a_time_out_only() {
        use std::os::fd::AsRawFd;
        let me = (std::process::id() as i32, nix::unistd::gettid().as_raw());
        let socket = socket::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0).unwrap();
        let of = |call: i64, slept: Option<i64>| {
            let regs = Regs { rdi: socket.as_raw_fd() as u64, ..regs(call) };
            Patience::held(me, (&regs, call), (slept.map(Nanos), None), Nanos(1_000_000_000))
                .map(|p| p.left(Nanos(1_000_000_000)).0)
        };
        assert_eq!(of(libc::SYS_recvfrom, Some(5)), None);
        let two_seconds = timeval(Nanos(2_000_000_000));
        socket::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, &two_seconds).unwrap();
        assert_eq!(of(libc::SYS_recvfrom, Some(5)), Some(1_999_999_995));
        assert_eq!(of(libc::SYS_recvfrom, Some(3_000_000_000)), Some(1));
        assert_eq!(of(libc::SYS_recvfrom, None), None);
        assert_eq!(of(libc::SYS_sendto, Some(5)), None);
        assert_eq!(of(libc::SYS_poll, Some(5)), None);
    }
}
