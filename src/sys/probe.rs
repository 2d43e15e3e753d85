//! Finding out what this kernel lets us do, by trying it in a child.
//!
//! # Safety
//! Children made here make system calls and then `_exit`: nothing allocates or locks between. The other calls are
//! given arguments that the kernel must refuse, so that only "no such system call" is told from "not like this".
#![allow(unsafe_code)]

use std::io;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

/// The step at which [`namespaces`] got stuck, and the kernel's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stuck {
    /// Which.
    pub step: Step,
    /// Why.
    pub errno: Errno,
}

/// What a resume needs of namespaces, in the order it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A user namespace with our own ids mapped.
    User,
    /// Pid, mount and IPC namespaces inside it.
    Inner,
    /// A time namespace.
    Time,
    /// A process in the new pid namespace.
    Fork,
    /// `/proc` for the new pid namespace.
    Proc,
}

const STEPS: [Step; 5] = [Step::User, Step::Inner, Step::Time, Step::Fork, Step::Proc];

/// Tries everything of namespaces that a resume of an ordinary user needs; `with_user`: in a new user namespace.
///
/// # Errors
/// What fork(2) or pipe(2) say; the inner result is the finding.
pub fn namespaces(with_user: bool) -> io::Result<Result<(), Stuck>> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let uid_map = format!("{uid} {uid} 1");
    let gid_map = format!("{gid} {gid} 1");
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // SAFETY: the child only makes system calls (see the module's note).
    match unsafe { nix::unistd::fork()? } {
        ForkResult::Child => {
            let report = |step: u8, errno: i32| {
                let mut message = [0; 5];
                message[0] = step;
                message[1..].copy_from_slice(&errno.to_le_bytes());
                let _ = nix::unistd::write(&write, &message);
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(0) }
            };
            if let Err((step, errno)) = try_namespaces(with_user, &uid_map, &gid_map) {
                report(step, errno as i32);
            }
            report(u8::MAX, 0);
            unreachable!("the child has ended")
        }
        ForkResult::Parent { child } => {
            drop(write);
            let mut message = [0; 5];
            let got = nix::unistd::read(&read, &mut message);
            waitpid(child, None)?;
            let [step, errno @ ..] = message;
            let errno = Errno::from_raw(i32::from_le_bytes(errno));
            Ok(match (got?, STEPS.get(usize::from(step))) {
                (5, Some(&step)) => Err(Stuck { step, errno }),
                (5, None) => Ok(()),
                _ => Err(Stuck { step: Step::Fork, errno: Errno::ECHILD }),
            })
        }
    }
}

fn try_namespaces(with_user: bool, uid_map: &str, gid_map: &str) -> Result<(), (u8, Errno)> {
    use nix::sched::{CloneFlags, unshare};
    if with_user {
        unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| (0, errno))?;
        for (file, text) in
            [(c"/proc/self/setgroups", "deny"), (c"/proc/self/uid_map", uid_map), (c"/proc/self/gid_map", gid_map)]
        {
            write_file(file, text).map_err(|errno| (0, errno))?;
        }
    }
    let inner = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    unshare(inner).map_err(|errno| (1, errno))?;
    unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME)).map_err(|errno| (2, errno))?;
    // SAFETY: the grandchild mounts, and ends.
    match unsafe { nix::unistd::fork() }.map_err(|errno| (3, errno))? {
        ForkResult::Child => {
            let done = mount_proc();
            // SAFETY: ends the grandchild at once.
            unsafe { libc::_exit(done.err().map_or(0, |errno| (errno as i32).clamp(1, 255))) }
        }
        ForkResult::Parent { child } => match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            Ok(WaitStatus::Exited(_, errno)) => Err((4, Errno::from_raw(errno))),
            Ok(_) => Err((4, Errno::ECHILD)),
            Err(errno) => Err((4, errno)),
        },
    }
}

fn write_file(path: &std::ffi::CStr, text: &str) -> nix::Result<()> {
    let file = nix::fcntl::open(path, nix::fcntl::OFlag::O_WRONLY, nix::sys::stat::Mode::empty())?;
    nix::unistd::write(&file, text.as_bytes()).map(drop)
}

fn mount_proc() -> nix::Result<()> {
    use nix::mount::{MsFlags, mount};
    mount(
        None::<&std::ffi::CStr>,
        c"/",
        None::<&std::ffi::CStr>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&std::ffi::CStr>,
    )?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(c"proc"), c"/proc", Some(c"proc"), flags, None::<&std::ffi::CStr>)
}

/// Whether ptrace(2) is there at all (some containers forbid it): seizes a child of ours.
///
/// # Errors
/// The kernel's reason.
pub fn ptrace() -> io::Result<()> {
    // SAFETY: the child waits to be killed.
    match unsafe { nix::unistd::fork()? } {
        ForkResult::Child => loop {
            // SAFETY: pause(2) has no arguments.
            unsafe { libc::pause() };
        },
        ForkResult::Parent { child } => {
            let seized = nix::sys::ptrace::seize(child, nix::sys::ptrace::Options::PTRACE_O_EXITKILL);
            nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL)?;
            waitpid(child, None)?;
            Ok(seized?)
        }
    }
}

fn known(result: libc::c_long) -> Result<(), Errno> {
    match Errno::last() {
        errno @ (Errno::ENOSYS | Errno::EPERM | Errno::ENOTTY) if result == -1 => Err(errno),
        _ => Ok(()),
    }
}

/// Whether clone3(2) is there and allowed.
///
/// # Errors
/// `ENOSYS` or `EPERM`: it isn't.
pub fn clone3() -> Result<(), Errno> {
    // SAFETY: a size of 0 is refused with EINVAL before anything is read.
    known(unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0_usize) })
}

/// Whether pidfd_getfd(2) is there and allowed.
///
/// # Errors
/// `ENOSYS` or `EPERM`: it isn't.
pub fn pidfd_getfd() -> Result<(), Errno> {
    // SAFETY: descriptor -1 is refused with EBADF.
    known(unsafe { libc::syscall(libc::SYS_pidfd_getfd, -1, 0, 0) })
}

/// Whether kcmp(2) is there and allowed.
///
/// # Errors
/// `ENOSYS` or `EPERM`: it isn't.
pub fn kcmp() -> Result<(), Errno> {
    let me = Pid::this().as_raw();
    const KCMP_FILE: libc::c_int = 0;
    // SAFETY: compares descriptor 0 of this process with itself; reads no memory.
    known(unsafe { libc::syscall(libc::SYS_kcmp, me, me, KCMP_FILE, 0_usize, 0_usize) })
}

/// Whether /proc/PID/pagemap knows PAGEMAP_SCAN (Linux 6.7).
///
/// # Errors
/// `ENOTTY`: it doesn't; or what open(2) says.
pub fn pagemap_scan() -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let pagemap = std::fs::File::open("/proc/self/pagemap")
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    let argument = [0_u64; 12]; // struct pm_scan_arg with a size of 0, which is refused
    const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610u32 as libc::Ioctl; // _IOWR('f', 16, struct pm_scan_arg)
    // SAFETY: the argument is as large as the request's number says (96 bytes) and lives through the call.
    let result = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, argument.as_ptr()) };
    known(libc::c_long::from(result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_answer_and_leave_us_as_we_were() {
        let before = std::fs::read_link("/proc/self/ns/user").unwrap();
        namespaces(true).unwrap().ok();
        ptrace().ok();
        assert_eq!(std::fs::read_link("/proc/self/ns/user").unwrap(), before);
        assert_eq!(clone3(), Ok(()));
        assert_eq!(pidfd_getfd(), Ok(()));
    }
}
