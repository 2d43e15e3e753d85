//! Namespaces for a resume, and the first process in them.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::check;

/// What the first process of a resumed tree has to do. Made before the fork: the child allocates nothing.
#[derive(Debug)]
pub struct InitPlan<'a> {
    /// `CLONE_NEW*` flags for the clone itself (pid, ipc).
    pub flags: u64,
    /// A mount namespace that it enters before, its root directory in that, and the user namespace it belongs to if it is not
    /// in that already.
    pub entrance: Option<(BorrowedFd<'a>, BorrowedFd<'a>, Option<BorrowedFd<'a>>)>,
    /// Text for timens_offsets, where there is to be a new time namespace.
    pub time_offsets: Option<Vec<u8>>,
    /// Highest pid in use, for ns_last_pid, as text.
    pub last_pid: Vec<u8>,
    /// A pipe for the report ([`parse_report`]): the write end.
    pub report: BorrowedFd<'a>,
    /// A pipe from which it learns the root's pid (four bytes) and that it is to go on: the read end.
    pub proceed: BorrowedFd<'a>,
    /// Our ends of the two pipes, which the child closes: it must see the end of file when we die.
    pub ours: [RawFd; 2],
    /// A pipe for the root's wait status, in case the root is this process's child: the write end.
    pub status: BorrowedFd<'a>,
}

/// Steps of the first process, in the order taken; it reports the one that failed, or [`InitStep::Ready`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum InitStep {
    /// Everything is in place.
    Ready = 0,
    /// Unsharing the time namespace and setting its offsets.
    Time = 1,
    /// Mounting a /proc for the new pid namespace.
    Proc = 2,
}

/// Reads a report: the step and the errno.
pub fn parse_report(bytes: [u8; 5]) -> (Option<InitStep>, i32) {
    let step = match bytes[0] {
        0 => Some(InitStep::Ready),
        1 => Some(InitStep::Time),
        2 => Some(InitStep::Proc),
        _ => None,
    };
    (step, i32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]))
}

/// Forks the first process of a resumed tree into new namespaces; its pid as we see it. It is in a session and group of
/// its own, led by nobody: out of the terminal's, whose end is not the end of the tree, and outside a new pid
/// namespace, where their ids read as 0 like those of a program that was started from outside of its own.
///
/// Call it while this process has one thread only: the child shares nothing with others, but a lock that another
/// thread holds would stay locked in it for ever.
pub fn start_init(plan: &InitPlan<'_>) -> io::Result<i32> {
    let (told, tell) = nix::unistd::pipe()?;
    // SAFETY: a plain fork (no shared memory, no new stack); the child goes on in `outside_of_sessions` and never returns.
    let between = check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0usize, 0usize, 0usize, 0usize) })?;
    if between == 0 {
        outside_of_sessions(plan, tell.as_fd());
    }
    drop(tell);
    let mut answer = [0u8; 8];
    let read = std::fs::File::from(told).read_exact(&mut answer);
    // Whatever became of it: it has nothing more to do, and is our child.
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(between as i32), None);
    read?;
    match i64::from_le_bytes(answer) {
        pid if pid > 0 => Ok(pid as i32),
        error => Err(io::Error::from_raw_os_error(-error as i32)),
    }
}

/// Starts a session, in which it makes the first process as its sibling, says who that is (or the negative errno), and ends.
fn outside_of_sessions(plan: &InitPlan<'_>, tell: BorrowedFd<'_>) -> ! {
    let flags = plan.flags | (libc::CLONE_PARENT | libc::SIGCHLD) as u64;
    // SAFETY: no pointers but a string literal; a fork as above, whose child goes on in `init` and never returns.
    let pid = unsafe {
        libc::setsid();
        let entered = plan.entrance.is_none_or(|(mounts, root, user)| {
            user.is_none_or(|user| libc::setns(user.as_raw_fd(), libc::CLONE_NEWUSER) == 0)
                && libc::setns(mounts.as_raw_fd(), libc::CLONE_NEWNS) == 0
                && libc::fchdir(root.as_raw_fd()) == 0
                && libc::chroot(c".".as_ptr()) == 0
        });
        if entered { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) } else { -1 }
    };
    if pid == 0 {
        init(plan);
    }
    let answer = if pid < 0 { -i64::from(errno()) } else { pid };
    write(tell.as_raw_fd(), &answer.to_le_bytes());
    exit()
}

fn init(plan: &InitPlan<'_>) -> ! {
    // SAFETY: no pointers; the descriptors are the child's copies.
    unsafe {
        // Until everything is built the tree dies with its maker, also before that traces us.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        for fd in plan.ours {
            libc::close(fd);
        }
    }
    let failure = prepare(plan).err().unwrap_or((InitStep::Ready, 0));
    let mut report = [failure.0 as u8, 0, 0, 0, 0];
    report[1..].copy_from_slice(&failure.1.to_le_bytes());
    write(plan.report.as_raw_fd(), &report);
    if failure.0 != InitStep::Ready {
        exit();
    }
    let mut root = [0u8; 4];
    // Our tracer makes children in our name while we wait here.
    let told = loop {
        // SAFETY: `root` is four bytes.
        let n = unsafe { libc::read(plan.proceed.as_raw_fd(), root.as_mut_ptr().cast(), 4) };
        if n >= 0 || errno() != libc::EINTR {
            break n == 4;
        }
    };
    if !told {
        exit();
    }
    reap_for_ever(plan, i32::from_le_bytes(root))
}

/// What a pid 1 is for: adopts orphans until nobody is left.
fn reap_for_ever(plan: &InitPlan<'_>, root: i32) -> ! {
    if plan.flags & libc::CLONE_NEWPID as u64 != 0 {
        // So that new processes get pids beyond the restored ones. Not worth a failure.
        let _ = put(c"/proc/sys/kernel/ns_last_pid", &plan.last_pid);
    }
    let status_fd = plan.status.as_raw_fd();
    // SAFETY: no pointers but string literals and `status`; descriptors are ours.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, 0);
        libc::chdir(c"/".as_ptr());
        if status_fd > 0 {
            libc::syscall(libc::SYS_close_range, 0, status_fd - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, status_fd + 1, u32::MAX, 0);
        loop {
            let mut status = 0;
            let pid = libc::waitpid(-1, &mut status, libc::__WALL);
            if pid == root {
                write(status_fd, &status.to_le_bytes());
                libc::close(status_fd);
            }
            if pid < 0 && errno() == libc::ECHILD {
                exit();
            }
        }
    }
}

fn prepare(plan: &InitPlan<'_>) -> Result<(), (InitStep, i32)> {
    let at = |step: InitStep| move |e: i32| (step, e);
    // SAFETY: no pointers but string literals.
    unsafe {
        // Children enter the new time namespace, we do not: its offsets must be written before anybody is in it.
        if let Some(offsets) = &plan.time_offsets {
            if libc::unshare(0x80) != 0 {
                return Err((InitStep::Time, errno()));
            }
            put(c"/proc/self/timens_offsets", offsets).map_err(at(InitStep::Time))?;
        }
        if plan.entrance.is_some() {
            let proc = c"proc".as_ptr();
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            if libc::mount(proc, c"/proc".as_ptr(), proc, flags, std::ptr::null()) != 0 {
                return Err((InitStep::Proc, errno()));
            }
        }
        libc::prctl(libc::PR_SET_NAME, c"ckpt-init".as_ptr());
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        // Signals meant for the program's terminal group are not for us; nor may a handler of the supervisor's run.
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
    Ok(())
}

fn put(path: &CStr, text: &[u8]) -> Result<(), i32> {
    // SAFETY: `path` ends in NUL, `text` outlives the write.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(errno());
        }
        let n = libc::write(fd, text.as_ptr().cast(), text.len());
        let error = errno();
        libc::close(fd);
        if n == text.len() as isize { Ok(()) } else { Err(error) }
    }
}

fn write(fd: RawFd, bytes: &[u8]) {
    // SAFETY: `bytes` outlives the call. Nobody is left to tell of a failure.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

fn errno() -> i32 {
    // SAFETY: the address of this thread's errno.
    unsafe { *libc::__errno_location() }
}

fn exit() -> ! {
    // SAFETY: never returns, runs no destructors of the parent's.
    unsafe { libc::_exit(1) }
}
