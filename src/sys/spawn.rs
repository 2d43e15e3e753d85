//! Starting a program exactly as this process was started, and ending as a program ended.
//!
//! # Safety
//! The unsafe parts are: a function the loader runs before `main` (only system calls and atomics in it), code between
//! `fork` and `exec` (only async-signal-safe calls, nothing allocated), `sigaction` with handlers that are themselves
//! async-signal-safe, and `fork` in a process that still has one thread.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::unistd::ForkResult;

use super::sigmask;

/// What the Rust runtime changes before `main` (it ignores SIGPIPE and opens /dev/null over closed standard streams),
/// and SIGCHLD, which a supervisor needs at its default: how they were when the process started.
static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);
static CHLD_IGNORED: AtomicBool = AtomicBool::new(false);
static CLOSED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

extern "C" fn record() {
    for (signal, ignored) in [(libc::SIGPIPE, &PIPE_IGNORED), (libc::SIGCHLD, &CHLD_IGNORED)] {
        // SAFETY: an all-zero `sigaction` is a valid value, and the call only fills it in.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: a null new action only asks; `action` is ours and of the right type.
        let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
        ignored.store(asked == 0 && action.sa_sigaction == libc::SIG_IGN, Ordering::Relaxed);
    }
    for (fd, closed) in (0..).zip(&CLOSED) {
        // SAFETY: F_GETFD has no argument and changes nothing.
        closed.store(unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1, Ordering::Relaxed);
    }
}

#[used]
// SAFETY: the loader calls the functions of this section before `main` with the C ABI; `record` takes no arguments
// and needs nothing of the runtime.
#[unsafe(link_section = ".init_array")]
static RECORD: extern "C" fn() = record;

/// Whether our standard output was closed when we started: what is written to it now is lost in /dev/null.
pub fn output_was_closed() -> bool {
    CLOSED[1].load(Ordering::Relaxed)
}

/// Makes `command` start with the signal mask `mask`, and with the signal dispositions and closed standard streams
/// that this process itself was started with.
pub fn as_we_were_started(command: &mut Command, mask: u64) {
    let state = (PIPE_IGNORED.load(Ordering::Relaxed), CHLD_IGNORED.load(Ordering::Relaxed));
    let closed = CLOSED.each_ref().map(|closed| closed.load(Ordering::Relaxed));
    let set = move |signal, ignored| {
        let handler = if ignored { SigHandler::SigIgn } else { SigHandler::SigDfl };
        // SAFETY: neither disposition runs code of ours.
        unsafe { sigaction(signal, &SigAction::new(handler, SaFlags::empty(), SigSet::empty())) }
    };
    let prepare = move || {
        set(Signal::SIGPIPE, state.0)?;
        set(Signal::SIGCHLD, state.1)?;
        for (fd, closed) in (0..).zip(closed) {
            if closed {
                // SAFETY: the number was closed when we started; only the runtime's /dev/null can be behind it.
                unsafe { libc::close(fd) };
            }
        }
        sigmask::block_only(mask)
    };
    // SAFETY: the closure makes system calls only; it neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// Puts SIGCHLD at its default, so that children wait to be reaped even if we were started with it ignored.
pub fn keep_children() -> io::Result<()> {
    child_signal(SaFlags::empty())
}

/// While this lives, SIGCHLD does not tell of stops: each one that ptrace brings about would wake whoever reads the
/// signal. Who needs to know of others looks once it is gone. For a process that has called [`keep_children`].
#[derive(Debug)]
pub struct UntoldStops(());

impl UntoldStops {
    /// Begins with it.
    pub fn begin() -> io::Result<Self> {
        child_signal(SaFlags::SA_NOCLDSTOP).map(Self)
    }
}

impl Drop for UntoldStops {
    fn drop(&mut self) {
        let _ = child_signal(SaFlags::empty());
    }
}

fn child_signal(flags: SaFlags) -> io::Result<()> {
    // SAFETY: the default disposition runs no code of ours.
    unsafe { sigaction(Signal::SIGCHLD, &SigAction::new(SigHandler::SigDfl, flags, SigSet::empty()))? };
    Ok(())
}

/// Ends this process the way `signal` (1..=64) ends one, without a core dump; where the signal doesn't end a process,
/// with the status a shell would show for it.
pub fn die_of(signal: i32) -> ! {
    // No core of ours: the program has left its own, if it wanted one.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    // What the kernel calls a sigaction: SIG_DFL, no flags, no restorer, an empty mask. The C library would refuse signals that
    // it keeps for itself.
    let default = [0u64; 4];
    // SAFETY: `default` outlives the call and is as long as the kernel's; the others have no pointers.
    unsafe {
        libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), size_of::<u64>());
        let _ = sigmask::blocked().and_then(|set| sigmask::block_only(set & !(1 << (signal - 1))));
        libc::raise(signal);
    }
    std::process::exit(128_i32.saturating_add(signal))
}

/// Takes the default action of a stop signal (SIGTSTP, SIGTTIN, SIGTTOU) once, blocked or not; returns after SIGCONT.
/// The kernel leaves out the stop where no shell could ever continue us (an orphaned process group).
pub fn stop_by(signal: Signal) -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default disposition runs no code of ours.
    let before = unsafe { sigaction(signal, &default)? };
    let mask = SigSet::thread_get_mask()?;
    let mut only = SigSet::empty();
    only.add(signal);
    only.thread_block()?;
    raise(signal)?;
    only.thread_unblock()?; // here we stop
    mask.thread_set_mask()?;
    // SAFETY: what was there before is put back.
    unsafe { sigaction(signal, &before)? };
    Ok(())
}

/// How a process ended, or that it stopped, taken from a `wait(2)` status. (nix would lose real-time signals.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
    /// Job control stopped it by this signal.
    Stopped(i32),
}

impl Change {
    /// From the number that `wait(2)` gives; `None` for one that says something else (continued).
    pub fn from_wait_status(status: i32) -> Option<Change> {
        if libc::WIFEXITED(status) {
            Some(Change::Exited(libc::WEXITSTATUS(status)))
        } else if libc::WIFSIGNALED(status) {
            Some(Change::Killed(libc::WTERMSIG(status)))
        } else if libc::WIFSTOPPED(status) {
            Some(Change::Stopped(libc::WSTOPSIG(status)))
        } else {
            None
        }
    }
}

/// One ended or stopped child of the calling thread, without waiting; `None`: nothing new, or no child at all.
pub fn next_child() -> Option<(i32, Change)> {
    loop {
        let mut status = 0;
        // SAFETY: writes to `status` only.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::WUNTRACED | libc::__WNOTHREAD) };
        match pid {
            0 => return None,
            -1 if nix::errno::Errno::last() == nix::errno::Errno::EINTR => {}
            -1 => return None,
            pid => {
                if let Some(change) = Change::from_wait_status(status) {
                    return Some((pid, change));
                }
            }
        }
    }
}

static CANCEL: AtomicBool = AtomicBool::new(false);
static CANCELLED_BY: AtomicI32 = AtomicI32::new(0);

extern "C" fn cancel(signal: libc::c_int) {
    CANCELLED_BY.store(signal, Ordering::Relaxed);
    CANCEL.store(true, Ordering::Relaxed);
}

/// Has SIGINT, SIGTERM and SIGHUP set the returned flag from now on, instead of ending us. A signal that was ignored
/// when we were started stays ignored.
pub fn cancel_by_signal() -> io::Result<&'static AtomicBool> {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let action = SigAction::new(SigHandler::Handler(cancel), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler stores to atomics only.
        let before = unsafe { sigaction(signal, &action)? };
        if before.handler() == SigHandler::SigIgn {
            // SAFETY: what was there before is put back.
            unsafe { sigaction(signal, &before)? };
        }
    }
    Ok(&CANCEL)
}

/// The signal that set the flag of [`cancel_by_signal`], if one did.
pub fn cancelled_by() -> Option<Signal> {
    Signal::try_from(CANCELLED_BY.load(Ordering::Relaxed)).ok()
}

/// Which side of [`to_background`] this is.
pub enum Background {
    /// The command a person typed; `outcome` delivers one byte, the exit status to end with, or nothing if the
    /// background side died.
    Command {
        /// Read end.
        outcome: OwnedFd,
    },
    /// The background side, in a session of its own; it must write that byte.
    Job {
        /// Write end.
        outcome: OwnedFd,
    },
}

/// Splits off a process in a session of its own, without a controlling terminal and not our child (forked twice).
///
/// # Errors
/// What pipe(2), fork(2) or setsid(2) say; also [`io::ErrorKind::Unsupported`] if this process has several threads.
pub fn to_background() -> io::Result<Background> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "more than one thread"));
    }
    let (outcome, report) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // SAFETY: there is one thread only (checked above), so no lock can be held by another.
    match unsafe { nix::unistd::fork()? } {
        ForkResult::Parent { child } => {
            drop(report);
            nix::sys::wait::waitpid(child, None)?;
            Ok(Background::Command { outcome })
        }
        ForkResult::Child => {
            drop(outcome);
            let second = nix::unistd::setsid().and_then(|_| {
                // SAFETY: as above; the child of a one-threaded process has one thread.
                unsafe { nix::unistd::fork() }
            });
            match second {
                Ok(ForkResult::Child) => Ok(Background::Job { outcome: report }),
                // SAFETY: ends the middle process without running anything that belongs to its parent.
                _ => unsafe { libc::_exit(0) },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn started_programs_get_default_sigpipe_and_their_mask() {
        // And one that C libraries take for theirs.
        let mask = 1 << (libc::SIGUSR2 - 1) | 1 << (34 - 1);
        let mut command = Command::new("/bin/cat");
        command.arg("/proc/self/status");
        as_we_were_started(&mut command, mask);
        let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
        };
        assert_eq!(field("SigBlk:"), mask);
        let pipe = 1 << (libc::SIGPIPE - 1);
        assert_eq!(field("SigIgn:") & pipe != 0, PIPE_IGNORED.load(Ordering::Relaxed));
    }
}
