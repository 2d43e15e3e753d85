//! The namespaces a resumed tree lives in, and their first process.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::wait::{WaitPidFlag, waitpid};

use crate::model::{Checkpoint, Nanos, Pid};
use crate::proc;
use crate::sys::namespaces::{InitPlan, InitStep, parse_report, start_init};
use crate::sys::{ptrace, stub, tasks};
use crate::tracer::task::{Running, Stopped};

use super::fd::Opened;
use super::view::View;
use super::{Clock, Error, Options, Pids};

pub const CAP_SYS_ADMIN: u32 = 21;
const CAP_CHECKPOINT_RESTORE: u32 = 40;

/// Which namespaces a resume makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// A user namespace: where the privilege for the others comes from, if we have none.
    pub user: bool,
    /// A pid namespace, and mount and ipc namespaces with it.
    pub pid: bool,
    /// A time namespace.
    pub time: bool,
}

/// Whether we may choose pids in our own pid namespace (clone(2), `set_tid`).
pub fn may_choose_pids() -> bool {
    may(CAP_SYS_ADMIN) || may(CAP_CHECKPOINT_RESTORE)
}

/// Whether we have a capability.
pub fn may(capability: u32) -> bool {
    effective_caps() >> capability & 1 == 1
}

fn effective_caps() -> u64 {
    proc::status(std::process::id() as i32).map_or(0, |s| s.caps[2])
}

/// Which namespaces `options` ask for on this host.
pub fn wanted(options: &Options) -> Wanted {
    let privileged = may(CAP_SYS_ADMIN);
    let pid = matches!(options.pids, Pids::Auto | Pids::Private);
    let time = options.clock == Clock::Keep && (pid || privileged);
    Wanted { user: !privileged && pid, pid, time }
}

/// The first process of a resumed tree. Dropped before [`Init::leave`], it dies and everything with it.
#[derive(Debug)]
pub struct Init {
    pid: i32,
    task: Option<Stopped>,
    proceed: Option<File>,
}

impl Init {
    /// Forks it into its namespaces, and waits until they are in place. It dies with the thread that calls this, until it
    /// goes on by itself.
    pub fn start(checkpoint: &Checkpoint, options: &Options, opened: &Opened, view: &View) -> Result<Init, Error> {
        let namespaces = wanted(options);
        let fail = |step| move |e: nix::Error| Error::step(step, 0, e.into());
        let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(fail("a pipe"));
        let (report_read, report_write) = pipe()?;
        let (proceed_read, proceed_write) = pipe()?;
        let mut flags = 0;
        if namespaces.pid {
            flags |= (libc::CLONE_NEWPID | libc::CLONE_NEWIPC) as u64;
        }
        let members = checkpoint.tree.members.iter().map(|m| m.pid);
        let threads = checkpoint.processes.iter().flat_map(|p| p.threads.iter().map(|t| t.tid));
        let last = members.chain(threads).max().unwrap_or(Pid(300));
        let plan = InitPlan {
            flags,
            entrance: view.entrance(),
            time_offsets: if namespaces.time { Some(time_offsets(checkpoint)?) } else { None },
            last_pid: last.to_string().into_bytes(),
            report: report_write.as_fd(),
            proceed: proceed_read.as_fd(),
            ours: [report_read.as_raw_fd(), proceed_write.as_raw_fd()],
            status: opened.status(),
        };
        let pid = start_init(&plan).map_err(|e| namespace_error("making namespaces", &e))?;
        let init = Init { pid, task: None, proceed: Some(proceed_write.into()) };
        drop((report_write, proceed_read));
        let mut report = [0u8; 5];
        File::from(report_read)
            .read_exact(&mut report)
            .map_err(|_| Error::step("starting the first process", pid, io::Error::other("it died")))?;
        match parse_report(report) {
            (Some(InitStep::Ready), _) => {}
            (step, errno) => return Err(step_error(step, &io::Error::from_raw_os_error(errno))),
        }
        Ok(init)
    }

    /// Becomes its tracer, and stops it.
    pub fn seize(&mut self) -> Result<(), Error> {
        let pid = self.pid;
        let task =
            Running::seize(pid, ptrace::OPT_BUILD).map_err(|e| Error::step("seizing the first process", pid, e))?;
        task.interrupt().map_err(|e| Error::tracer("stopping the first process", e))?;
        self.task = Some(task.wait().map_err(|e| Error::tracer("stopping the first process", e))?);
        Ok(())
    }

    /// Its pid as we see it.
    pub fn host(&self) -> i32 {
        self.pid
    }

    /// Has it make a child (with pid `pid` in its namespace, where it may choose), which is stopped at birth.
    pub fn make_child(&mut self, pid: Option<Pid>) -> Result<Running, Error> {
        let me = self.pid;
        let bad = |step| move |e| Error::step(step, me, e);
        let gone = |e| Error::tracer("making the first child", e);
        let own = ptrace::get_regs(me).map_err(bad("reading registers"))?;
        let args_at = (own.rsp - 8192) & !63;
        let args = clone_args(0, 0, pid.map(|p| (p, args_at + 128)));
        crate::sys::mem::write(me, crate::model::Addr(args_at), &args).map_err(bad("writing memory"))?;
        let mut regs = own;
        regs.rip = stub::here().0 + stub::syscall_offset();
        regs.rax = libc::SYS_clone3 as u64;
        (regs.rdi, regs.rsi, regs.orig_rax) = (args_at, CLONE_ARGS_LEN as u64, u64::MAX);
        ptrace::set_regs(me, &regs).map_err(bad("setting registers"))?;
        let mut child = None;
        let mut exits = 0;
        let mut task = self.task.take().ok_or_else(|| bad("using")(io::Error::other("it is running")))?;
        while exits < 2 {
            task = task.cont_to_syscall(0).and_then(Running::wait).map_err(gone)?;
            if task.is_syscall() {
                exits += 1;
            } else if (1..=3).contains(&task.event()) {
                let id = ptrace::event_message(me).map_err(bad("learning of the child"))?;
                child = Some(Running::born(id as i32));
            }
        }
        let result = ptrace::get_regs(me).map_err(bad("reading registers"))?.rax as i64;
        self.task = Some(task.park(|_| ptrace::set_regs(me, &own)).map_err(gone)?);
        if result < 0 {
            return Err(Error::step("making the first child", me, io::Error::from_raw_os_error(-result as i32)));
        }
        child.ok_or_else(|| bad("learning of the child")(io::Error::other("no event")))
    }

    /// Tells it, while it still stands, that it may go on as the adopter of orphans, and of `root` perhaps (a pid as it
    /// sees it).
    pub fn tell(&mut self, root: i32) -> Result<(), Error> {
        match self.proceed.take() {
            Some(mut proceed) => io::Write::write_all(&mut proceed, &root.to_le_bytes())
                .map_err(|e| Error::step("starting", self.pid, e)),
            None => Ok(()),
        }
    }

    /// Lets it go on by itself.
    pub fn go(&mut self) -> Result<(), Error> {
        let task = self.task.take();
        task.map_or(Ok(()), |task| task.detach().map_err(|e| Error::tracer("letting the first process go", e)))
    }

    /// It is to outlive us; its pid.
    pub fn leave(mut self) -> i32 {
        std::mem::take(&mut self.pid)
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        if self.pid > 0 {
            // Everything in its pid namespace dies with it; without one, what it traced dies by EXITKILL.
            let _ = tasks::kill(self.pid, libc::SIGKILL);
            self.task = None;
            // It can't end before its children, nor those before we, who trace them, have taken note of their deaths.
            while let Ok(ended) = waitpid(None, Some(WaitPidFlag::__WALL)) {
                if ended.pid().is_some_and(|pid| pid.as_raw() == self.pid) {
                    break;
                }
            }
        }
    }
}

/// `struct clone_args`: flags and exit signal, and the pid to choose, as an address where it stands and its value.
pub fn clone_args(flags: u64, exit_signal: i32, set_tid: Option<(Pid, u64)>) -> Vec<u8> {
    let (pid, at) = set_tid.map_or((0, 0), |(p, at)| (p.0, at));
    let words = [flags, 0, 0, 0, exit_signal as u64, 0, 0, 0, at, u64::from(at != 0), 0];
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    bytes.resize(128, 0);
    bytes.extend(pid.to_le_bytes());
    bytes
}

/// Bytes of `struct clone_args` that the kernel is told of.
pub const CLONE_ARGS_LEN: usize = 88;

/// Offsets with which the clocks go on from where the program last saw them. They count from the host's clocks, not
/// from those of a time namespace we may be in ourselves.
fn time_offsets(checkpoint: &Checkpoint) -> Result<Vec<u8>, Error> {
    let saved = &checkpoint.manifest.clocks;
    let own = proc::timens_offsets(std::process::id() as i32).unwrap_or_default();
    let offset = |id, own: i64, then: Nanos| -> Result<(i64, i64), Error> {
        let now = tasks::clock(id).map_err(|e| Error::step("reading a clock", 0, e))?;
        Ok(Nanos(then.0.saturating_sub(now.0).saturating_add(own)).parts())
    };
    let (ms, mn) = offset(libc::CLOCK_MONOTONIC, own.monotonic, saved.monotonic)?;
    let (bs, bn) = offset(libc::CLOCK_BOOTTIME, own.boottime, saved.boottime)?;
    Ok(format!("monotonic {ms} {mn}\nboottime {bs} {bn}\n").into_bytes())
}

/// How far the clocks of a process that is being built have gone on since the moment of the image. Nothing where they are
/// the host's: then what was left is left.
pub fn elapsed(host: i32, checkpoint: &Checkpoint, options: &Options) -> Result<Nanos, Error> {
    if !wanted(options).time {
        return Ok(Nanos(0));
    }
    let offset = |pid| proc::timens_offsets(pid).map_err(|e| Error::step("reading a clock", pid, io::Error::other(e)));
    let (its, own) = (offset(host)?, offset(std::process::id() as i32)?);
    let now = tasks::clock(libc::CLOCK_MONOTONIC).map_err(|e| Error::step("reading a clock", 0, e))?;
    let its = now.0.saturating_sub(own.monotonic).saturating_add(its.monotonic);
    Ok(Nanos(its.saturating_sub(checkpoint.manifest.clocks.monotonic.0).max(0)))
}

/// Why namespaces can't be made.
pub fn namespace_error(what: &str, error: &io::Error) -> Error {
    let hint = "user namespaces are off or used up here: see /proc/sys/user/max_user_namespaces, \
                kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns, or resume with \
                --pids fresh (new pids, no namespaces)";
    let hint = match error.raw_os_error() {
        // fork(2).
        Some(libc::EAGAIN) => {
            "this user, or this control group, may have no more processes: see ulimit -u and pids.max"
        }
        _ => hint,
    };
    match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOSPC | libc::EUSERS | libc::EACCES) => {
            Error::NotPermitted { what: format!("{what}: {error}"), hint: hint.to_owned() }
        }
        _ => Error::Host { feature: format!("{what}: {error}"), hint: hint.to_owned() },
    }
}

fn step_error(step: Option<InitStep>, error: &io::Error) -> Error {
    let (what, hint) = match step {
        Some(InitStep::Time) => ("a time namespace", "resume with --clock now"),
        Some(InitStep::Proc) => (
            "mounting /proc in a pid namespace",
            "parts of /proc are hidden here, as containers do; resume with --pids fresh, or outside the container",
        ),
        _ => ("the first process", "`ckpt check` says what this host allows"),
    };
    Error::NotPermitted { what: format!("{what}: {error}"), hint: hint.to_owned() }
}
