//! A tree that stands still: what is known of its processes and threads, and how they are let go.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use crate::model::thread::{Regs, Rseq};
use crate::model::tree::State;
use crate::model::{Addr, Name, Nanos, Pid};
use crate::proc::{many::Awake, smaps::Mapping, stat::Stat, status::Status};
use crate::sys::{self, ptrace, wait};

use super::gadgets::Finder;
use super::hold::is_own_child;
use super::patience::Patience;
use super::remote::Ground;
use super::task::Stopped;
use super::{Error, frame, takers, waits};

/// A tree that stands still. Dropped or released, it goes on as if nothing had been.
#[derive(Debug)]
pub struct Held {
    /// Its processes, parents before children, zombies included.
    pub processes: Vec<HeldProcess>,
    /// When the first of them was stopped.
    pub since: Instant,
    /// When all of them stood still, by our CLOCK_MONOTONIC.
    pub stood: Nanos,
    /// Help to look at it. Gone before it does something for us or goes on: then it wants the processors.
    pub(super) awake: Option<Awake>,
}

/// One process of a held tree.
#[derive(Debug)]
pub struct HeldProcess {
    /// Its pid as we see it.
    pub host: i32,
    /// Its parent's pid as we see it.
    pub host_ppid: i32,
    /// Its pid as it sees it.
    pub pid: Pid,
    /// Its parent's pid as it sees it; 0 if the parent is out of its sight.
    pub ppid: Pid,
    /// Its process group as it sees it.
    pub pgid: Pid,
    /// Its session as it sees it.
    pub sid: Pid,
    /// Its command name.
    pub comm: Name,
    /// Alive, stopped by job control, or a zombie.
    pub state: State,
    /// The signal its parent gets when it dies.
    pub exit_signal: i32,
    /// The wait(2) status of its main thread, if that has ended before others.
    pub ended_leader: Option<i32>,
    /// A handle that cannot come to mean another process.
    pub pidfd: OwnedFd,
    /// Its living threads, the leader first; none for a zombie.
    pub threads: Vec<HeldThread>,
    /// What /proc says of [`HeldProcess::live`].
    pub stat: Stat,
    /// What is mapped in it, once that has been read; our own scratch memory is not among it.
    pub maps: OnceLock<Vec<Mapping>>,
    /// Signals (bit n-1 for signal n) that it has a handler for, and that it ignores.
    pub(super) caught: u64,
    pub(super) ignored: u64,
    pub(super) ground: Option<Ground>,
    /// Second mappings of shared memory: where, and how many bytes.
    pub(super) views: Vec<(Addr, u64)>,
    pub(super) finder: Arc<Mutex<Finder>>,
    pub(super) mem: OnceLock<File>,
}

/// One thread of a held process.
#[derive(Debug)]
pub struct HeldThread {
    /// Its tid as we see it.
    pub host: i32,
    /// Its tid as it sees it.
    pub tid: Pid,
    /// Its registers as the kernel has them, out of any restartable sequence. See [`super::frame::for_image`].
    pub regs: Regs,
    /// What /proc says of it while it stands still. Signals that wait for it may become more.
    pub status: Status,
    /// Its blocked signals.
    pub sigmask: u64,
    /// Its xsave area.
    pub xstate: Vec<u8>,
    /// Its rseq registration.
    pub rseq: Option<Rseq>,
    /// The system call it is in, also where the kernel only remembers that one is to be restarted; -1: none.
    pub call: i64,
    /// What is left of that call's time-out at [`Held::stood`], if that is known and a new process could not know it
    /// otherwise.
    pub left: Option<Nanos>,
    /// Until when it waits on a socket, if that is why there is something left.
    pub(super) patience: Option<Patience>,
    pub(super) task: Option<Stopped>,
    pub(super) borrowed: bool,
}
impl Held {
    /// Lets the tree go on.
    pub fn release(mut self) -> Result<(), Error> {
        self.let_go()
    }

    /// A socket has been given the numbers of another, which those who wait on that for as long as its time-out says are
    /// to know.
    ///
    /// # Errors
    /// If it can't be shared.
    pub fn replace_socket(&mut self, inode: u64, by: BorrowedFd<'_>) -> io::Result<()> {
        let threads = self.processes.iter_mut().flat_map(|p| &mut p.threads);
        threads.filter_map(|thread| thread.patience.as_mut()).try_for_each(|patience| patience.move_to(inode, by))
    }

    fn let_go(&mut self) -> Result<(), Error> {
        self.awake = None;
        let mut result = self.clear_grounds();
        self.shorten_waits();
        let mut signals = HashMap::new();
        for thread in self.processes.iter_mut().flat_map(|p| &mut p.threads) {
            // Here and now, while everybody else stands.
            if let (Some(patience), true) = (&thread.patience, thread.task.is_some()) {
                match thread.task.take().map(|task| patience.go_on(task)) {
                    Some(Ok(Some(task))) => {
                        signals.insert(thread.host, task.pending_signal());
                        thread.task = Some(task);
                    }
                    Some(Err(error)) => result = result.and(Err(error)),
                    Some(Ok(None)) | None => {}
                }
            }
        }
        let takers: Vec<i32> = self.processes.iter().flat_map(HeldProcess::takers).collect();
        let mut ended = HashSet::new();
        result = result.and(self.detach(&signals, &mut ended, |thread| takers.contains(&thread.host)));
        takers::wait_until_taken(&takers);
        // Those last that will not sleep again at once: they would run where we do, and the others wait for it.
        result = result.and(self.detach(&signals, &mut ended, |thread| frame::interrupted(&thread.regs)));
        result = result.and(self.detach(&signals, &mut ended, |_| true));
        self.bury(&ended);
        match result {
            // Somebody killed it meanwhile: it is let go all the same.
            Err(Error::Vanished { .. }) => Ok(()),
            other => other,
        }
    }

    /// Lets those threads go that are still held and that `which` names, delivering the signals given by their tids.
    fn detach(
        &mut self,
        signals: &HashMap<i32, i32>,
        ended: &mut HashSet<i32>,
        which: impl Fn(&HeldThread) -> bool,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        for thread in self.processes.iter_mut().flat_map(|p| &mut p.threads).filter(|thread| which(thread)) {
            if let Some(task) = thread.task.take() {
                let signal = signals.get(&thread.host).copied().unwrap_or(0);
                match task.detach_delivering(signal) {
                    Err(Error::Vanished { .. }) => drop(ended.insert(thread.host)),
                    other => result = result.and(other),
                }
            }
        }
        result
    }

    /// Those who went first may have ended others before we came to them (exit_group, a signal). Nobody else hears of their
    /// death before we have, and of their process's: its leader ends last, and stands before its threads.
    fn bury(&self, ended: &HashSet<i32>) {
        for process in self.processes.iter().rev() {
            for tid in process.threads.iter().map(|t| t.host).rev().filter(|tid| ended.contains(tid)) {
                if tid != process.host || !is_own_child(tid) {
                    let _ = wait::wait(tid).and_then(|_| wait::reap(tid));
                }
            }
        }
    }

    /// Calls that are issued again wait for what is left now: the program's clocks have not stood still. Where that can't be
    /// set, they wait for what was left then.
    fn shorten_waits(&self) {
        let Ok(now) = sys::tasks::clock(libc::CLOCK_MONOTONIC) else { return };
        for t in self.processes.iter().flat_map(|p| &p.threads).filter(|t| t.task.is_some()) {
            let left = t.left.map(|left| Nanos(left.less(now.less(self.stood)).0.max(1)));
            if let Some(again) = left.and_then(|left| waits::again(&t.regs, t.call, left)) {
                let _ = again.set(t.host);
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = self.let_go() {
            tracing::warn!(%error, "letting the program go");
        }
    }
}

impl HeldThread {
    /// Has system calls run in the thread pass its seccomp filters by, as long as it is held. Wants CAP_SYS_ADMIN in the
    /// first user namespace, and that we are under no filter (ptrace(2), `PTRACE_O_SUSPEND_SECCOMP`).
    pub fn suspend_seccomp(&self) -> io::Result<()> {
        ptrace::set_options(self.host, ptrace::OPT_SYSGOOD | ptrace::OPT_SUSPEND_SECCOMP)
    }
}

impl HeldProcess {
    /// A living thread, the leader if that lives: of a dead leader /proc and ptrace show next to nothing.
    pub fn live(&self) -> i32 {
        self.threads.first().map_or(self.host, |t| t.host)
    }

    /// The threads that are to go before the others, to take the signals that wait.
    fn takers(&self) -> Vec<i32> {
        if self.state != State::Alive {
            return Vec::new();
        }
        let stopped = self.threads.iter().filter(|t| t.task.is_some());
        takers::takers(&stopped.map(|t| (t.host, t.sigmask)).collect::<Vec<_>>())
    }

    /// Our own descriptor (close-on-exec) of the file that `fd` is in it, or in the table of its own that a thread has, by its
    /// index. For those, and where the leader is dead and has none, that is possible from Linux 6.9 on.
    pub fn descriptor(&self, thread: Option<usize>, fd: i32) -> io::Result<OwnedFd> {
        let thread = thread.or(self.ended_leader.map(|_| 0)).map(|index| self.threads.get(index));
        match thread {
            None => sys::tasks::pidfd_getfd(self.pidfd.as_fd(), fd),
            Some(None) => Err(io::ErrorKind::NotFound.into()),
            Some(Some(t)) => sys::tasks::pidfd_getfd(sys::tasks::pidfd_open_thread(t.host)?.as_fd(), fd),
        }
    }

    /// Copies `buf.len()` bytes from its memory, also from where the program itself may not read.
    pub fn read(&self, addr: Addr, buf: &mut [u8]) -> io::Result<()> {
        self.mem()?.read_exact_at(buf, addr.0)
    }

    /// As [`HeldProcess::read`], faster by a third, for pages that are mapped nowhere else. One that is shared with
    /// another process since a fork would be copied for this one: process_vm_readv(2) pins what it reads, and only
    /// exclusive pages can be pinned (mm/internal.h, gup_must_unshare).
    pub fn read_exclusive(&self, addr: Addr, buf: &mut [u8]) -> io::Result<()> {
        match sys::mem::read(self.live(), addr, buf) {
            Ok(n) if n == buf.len() => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(e),
            _ => self.read(addr, buf),
        }
    }

    /// Copies bytes to its memory, also to where the program itself may not write.
    pub fn write(&self, addr: Addr, bytes: &[u8]) -> io::Result<()> {
        match sys::mem::write(self.live(), addr, bytes) {
            Ok(n) if n == bytes.len() => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(e),
            _ => self.mem()?.write_all_at(bytes, addr.0),
        }
    }

    /// Its /proc/PID/mem, open for reading and writing.
    pub fn mem(&self) -> io::Result<&File> {
        if let Some(file) = self.mem.get() {
            return Ok(file);
        }
        let file = OpenOptions::new().read(true).write(true).open(format!("/proc/{}/mem", self.live()))?;
        Ok(self.mem.get_or_init(|| file))
    }
}
