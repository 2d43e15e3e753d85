//! Single system calls in a held process.

use std::cmp::Ordering;
use std::io;

use crate::model::Addr;
use crate::model::thread::Regs;
use crate::sys::ptrace;
use crate::sys::tasks::{Kcmp, kcmp};

use super::gadgets::Gadgets;
use super::held::{Held, HeldProcess};
use super::task::{Running, Stopped};
use super::{Error, decode, frame};

/// Bytes of the page range lent to remote calls for their results.
pub const SCRATCH_LEN: u64 = 64 * 1024;

/// How a process lends us its registers; made at the first remote call.
#[derive(Debug)]
pub(super) struct Ground {
    gadgets: Option<Gadgets>,
    /// A `syscall` instruction.
    syscall: Addr,
    /// Where a frame may stand before there is a scratch mapping: unused stack, and what is there.
    stack: Option<(Addr, Vec<u8>)>,
    /// The scratch mapping: [`SCRATCH_LEN`] bytes for results, room for a frame, then what [`super::calls`] asked for.
    scratch: Addr,
    scratch_len: u64,
    /// What is in the scratch memory's place if it is lent, too: where the program may map no more.
    lent: Option<Vec<u8>>,
    /// Whether code may run in it.
    executable: bool,
}

impl Ground {
    /// The room that [`super::calls`] asked for: where it begins, how long it is.
    pub fn extra(&self, frame_len: u64) -> (Addr, u64) {
        let taken = base_len(frame_len);
        (Addr(self.scratch.0 + taken), self.scratch_len.saturating_sub(taken))
    }

    /// Whether code may run there.
    pub fn executable(&self) -> bool {
        self.executable
    }
}

/// The registers of one thread, borrowed; dropping it gives them back.
#[derive(Debug)]
pub struct Remote<'a> {
    process: &'a mut HeldProcess,
    thread: usize,
    lent: Lent,
    scratch: Addr,
}

/// A stopped task whose registers stand ready for system calls.
#[derive(Debug)]
struct Lent {
    tid: i32,
    regs: Regs,
}

impl Lent {
    /// Registers first, then the mask: if we die in between, the frame heals both.
    fn take(task: &Stopped, own: &Regs, rip: Addr, frame_at: Option<Addr>) -> Result<Lent, Error> {
        let tid = task.tid();
        let regs = Regs {
            rip: rip.0,
            rsp: frame_at.map_or(own.rsp, |a| a.0),
            orig_rax: u64::MAX,
            // A direction or single-step flag of the program's must not follow us.
            eflags: own.eflags & !0x500,
            ..*own
        };
        ptrace::set_regs(tid, &regs).map_err(|e| Error::from_io("borrowing registers", tid, e))?;
        ptrace::set_sigmask(tid, u64::MAX).map_err(|e| Error::from_io("blocking signals", tid, e))?;
        Ok(Lent { tid, regs })
    }

    fn prepare(&self, nr: i64, args: [u64; 6]) -> Result<(), Error> {
        let regs = Regs {
            rax: nr as u64,
            rdi: args[0],
            rsi: args[1],
            rdx: args[2],
            r10: args[3],
            r8: args[4],
            r9: args[5],
            ..self.regs
        };
        ptrace::set_regs(self.tid, &regs).map_err(|e| Error::from_io("borrowing registers", self.tid, e))
    }

    fn call(&self, task: &mut Option<Stopped>, nr: i64, args: [u64; 6]) -> Result<u64, Error> {
        self.prepare(nr, args)?;
        // To the entry, then to the exit.
        for _ in 0..2 {
            let gone = Error::Vanished { pid: self.tid };
            *task = Some(to_syscall_stop(task.take().ok_or(gone)?.cont_to_syscall(0)?)?);
        }
        self.result()
    }

    fn result(&self) -> Result<u64, Error> {
        ptrace::get_regs(self.tid).map(|r| r.rax).map_err(|e| Error::from_io("reading registers", self.tid, e))
    }
}

impl HeldProcess {
    /// Borrows the registers of one of its threads (an index into `threads`) for system calls.
    ///
    /// The first call for a process also maps a few scratch pages in it, which go when it is released.
    pub fn remote(&mut self, thread: usize) -> Result<Remote<'_>, Error> {
        if self.ground.is_none() {
            self.survey_ground(0)?;
            map_grounds(&mut [&mut *self])?;
        }
        let ground = self.ground.as_ref().ok_or(Error::Vanished { pid: self.host })?;
        let scratch = ground.scratch;
        let (rip, sigreturn) = match ground.gadgets {
            Some(g) => (g.syscall_ret, Some(g.sigreturn)),
            None => (ground.syscall, None),
        };
        let frame_at = sigreturn.map(|_| Addr(scratch.0 + SCRATCH_LEN));
        let lent = self.lend(thread, rip, sigreturn, frame_at)?;
        Ok(Remote { process: self, thread, lent, scratch })
    }

    /// Where the scratch mapping is; `None` if there is none, or scratch memory is a part of the program's stack, because
    /// it may map no more.
    pub fn scratch(&self) -> Option<Addr> {
        self.ground.as_ref().filter(|g| g.lent.is_none()).map(|g| g.scratch)
    }

    /// Maps a piece of shared memory a second time, until the process is let go: guard pages are of a mapping, not of what
    /// is behind it.
    ///
    /// # Errors
    /// If the process may not map so much.
    pub fn map_again(&mut self, addr: Addr, len: u64) -> Result<Addr, Error> {
        // An old length of 0 leaves the first mapping as it is (mremap(2)).
        let args = [addr.0, 0, len, libc::MREMAP_MAYMOVE as u64, 0, 0];
        let at = Addr(self.remote(0)?.call("mremap", libc::SYS_mremap, args)?);
        self.views.push((at, len));
        Ok(at)
    }

    /// Takes such mappings away.
    fn close_views(&mut self) -> Result<(), Error> {
        let views = std::mem::take(&mut self.views);
        let mut unmap = |(at, len): (Addr, u64)| {
            self.remote(0)?.call("munmap", libc::SYS_munmap, [at.0, len, 0, 0, 0, 0]).map(drop)
        };
        // All of them, also after one that failed.
        let mut done = Ok(());
        for view in views {
            done = done.and(unmap(view));
        }
        done
    }

    /// Bytes that a signal frame of any of its threads takes.
    pub(super) fn frame_len(&self) -> u64 {
        frame::len(self.threads.iter().map(|t| t.xstate.len()).max().unwrap_or(0)) as u64
    }

    /// Lays the frame and sets the registers.
    fn lend(
        &mut self,
        thread: usize,
        rip: Addr,
        sigreturn: Option<Addr>,
        frame_at: Option<Addr>,
    ) -> Result<Lent, Error> {
        let pid = self.host;
        if let (Some(at), Some(sigreturn)) = (frame_at, sigreturn) {
            let t = self.threads.get(thread).ok_or(Error::Vanished { pid })?;
            let bytes = frame::build(at, sigreturn, &t.regs, t.call, t.sigmask, &t.xstate);
            self.write(at, &bytes).map_err(|e| Error::from_io("laying a signal frame", pid, e))?;
        }
        let t = self.threads.get_mut(thread).ok_or(Error::Vanished { pid })?;
        t.borrowed = true;
        let task = t.task.as_ref().ok_or(Error::Vanished { pid })?;
        Lent::take(task, &t.regs, rip, frame_at)
    }

    /// Finds the bytes and the place that the first remote call needs. Nothing is mapped yet; when it is, there will be
    /// `extra` bytes more.
    pub(super) fn survey_ground(&mut self, extra: u64) -> Result<(), Error> {
        let pid = self.live();
        if self.maps.get().is_none() {
            let maps = super::maps(pid).map_err(|e| Error::from_proc("reading maps", pid, e))?;
            let _ = self.maps.set(maps);
        }
        let maps = self.maps.get().map_or(&[][..], Vec::as_slice);
        let gadgets = self.finder.lock().ok().and_then(|mut f| f.find(pid, maps));
        let frame_len = self.frame_len();
        let stack = super::stack::frame_place(self, maps, frame_len).and_then(|at| {
            let mut bytes = vec![0u8; frame_len as usize];
            self.read(at, &mut bytes).ok().map(|()| (at, bytes))
        });
        let syscall = match gadgets {
            Some(g) => g.syscall_ret,
            None => super::gadgets::any_syscall(pid, maps)
                .ok_or(Error::Unsupported { pid, what: "no system call instruction in its text" })?,
        };
        if gadgets.is_none() || stack.is_none() {
            tracing::debug!(pid, "no place or bytes for a signal frame: a kill of this tool would harm the program");
        }
        let scratch_len = base_len(frame_len) + extra.next_multiple_of(4096);
        let executable = extra > 0;
        self.ground = Some(Ground { gadgets, syscall, stack, scratch: Addr(0), scratch_len, lent: None, executable });
        Ok(())
    }

    /// Lends the stack where the program's own limits (RLIMIT_AS, DATA, MEMLOCK) forbid a scratch mapping. A frame at the
    /// same place is never needed meanwhile.
    fn lend_stack(&mut self, len: u64) -> Result<(), Error> {
        let pid = self.host;
        let what = "its limits leave no room for our calls, and its stack has none to lend";
        let none = || Error::Unsupported { pid, what };
        let maps = super::maps(self.live()).map_err(|e| Error::from_proc("reading maps", pid, e))?;
        let at = super::stack::frame_place(self, &maps, len).ok_or_else(none)?;
        let mut bytes = vec![0u8; len as usize];
        self.read(at, &mut bytes).map_err(|e| Error::from_io("reading the stack", pid, e))?;
        let ground = self.ground.as_mut().ok_or_else(none)?;
        (ground.scratch, ground.lent) = (at, Some(bytes));
        Ok(())
    }

    /// Puts back what was where the frame on the stack stood: at once, since another process may share this memory, and
    /// lend us the same place.
    fn wipe_frame(&self) -> Result<(), Error> {
        let Some((at, bytes)) = self.ground.as_ref().and_then(|g| g.stack.as_ref()) else { return Ok(()) };
        self.write(*at, bytes).map_err(|e| Error::from_io("wiping a signal frame", self.host, e))
    }

    /// Lends the first thread's registers with the frame on the stack: before there is scratch memory, and when it goes.
    fn lend_bare(&mut self) -> Result<Lent, Error> {
        let ground = self.ground.as_ref().ok_or(Error::Vanished { pid: self.host })?;
        let (rip, sigreturn, at) = match (ground.gadgets, &ground.stack) {
            (Some(g), Some((at, _))) => (g.syscall_ret, Some(g.sigreturn), Some(*at)),
            _ => (ground.syscall, None, None),
        };
        self.lend(0, rip, sigreturn, at)
    }

    /// Puts a thread's registers and mask back. From any ptrace stop the kernel handles signals on the way to the program
    /// when it is let go, or when we die, and so restarts an interrupted call itself by the registers it finds
    /// (kernel/ptrace.c, `__ptrace_unlink`: it wakes the thread as a signal would).
    pub(super) fn give_back(&mut self, thread: usize) -> Result<(), Error> {
        let pid = self.host;
        let t = self.threads.get_mut(thread).ok_or(Error::Vanished { pid })?;
        if !std::mem::take(&mut t.borrowed) {
            return Ok(());
        }
        // The mask first: until the registers are its own the frame would heal both.
        ptrace::set_sigmask(t.host, t.sigmask)
            .and_then(|()| ptrace::set_regs(t.host, &t.regs))
            .map_err(|e| Error::from_io("giving registers back", t.host, e))
    }
}

/// One call in the first thread of each process, in all at the same time; `None` leaves a process out.
fn bare_calls(
    processes: &mut [&mut HeldProcess],
    call: impl Fn(&Ground) -> Option<(i64, [u64; 6])>,
) -> Vec<Option<Result<u64, Error>>> {
    let mut results: Vec<Option<Result<u64, Error>>> = Vec::new();
    results.resize_with(processes.len(), || None);
    let turns = turns(processes);
    for turn in 0..=turns.iter().copied().max().unwrap_or(0) {
        let mut now: Vec<(usize, &mut HeldProcess, Result<Lent, Error>)> = Vec::new();
        for (index, (p, _)) in processes.iter_mut().zip(&turns).enumerate().filter(|(_, (_, t))| **t == turn) {
            let Some((nr, args)) = p.ground.as_ref().and_then(&call) else { continue };
            let lent = p.lend_bare().and_then(|lent| lent.prepare(nr, args).map(|()| lent));
            now.push((index, p, lent));
        }
        // To the entry, then to the exit.
        for _ in 0..2 {
            let mut running = Vec::with_capacity(now.len());
            for (_, p, lent) in &mut now {
                let task = p.threads.first_mut().and_then(|t| t.task.take_if(|_| lent.is_ok()));
                let gone = Error::Vanished { pid: p.host };
                running.push(match (task.ok_or(gone).and_then(|task| task.cont_to_syscall(0)), lent.is_ok()) {
                    (Ok(running), _) => Some(running),
                    (Err(e), true) => {
                        *lent = Err(e);
                        None
                    }
                    _ => None,
                });
            }
            for ((_, p, lent), running) in now.iter_mut().zip(running) {
                match (running.map(to_syscall_stop), p.threads.first_mut()) {
                    (Some(Ok(stopped)), Some(t)) => t.task = Some(stopped),
                    (Some(Err(e)), _) => *lent = Err(e),
                    _ => {}
                }
            }
        }
        for (index, p, lent) in now {
            let result = lent.and_then(|lent| lent.result());
            let result = p.give_back(0).and(p.wipe_frame()).and(result);
            if let Some(room) = results.get_mut(index) {
                *room = Some(result);
            }
        }
    }
    results
}

/// When each process has its turn: those that share memory may lend us the same place on a stack, and come one after the
/// other.
fn turns(processes: &[&mut HeldProcess]) -> Vec<usize> {
    let place = |i: usize| processes.get(i).and_then(|p| p.ground.as_ref()?.stack.as_ref()).map_or(0, |(at, _)| at.0);
    let memory = |a: usize, b: usize| match (processes.get(a), processes.get(b)) {
        (Some(a), Some(b)) => kcmp(a.live(), b.live(), Kcmp::Vm, 0, 0).unwrap_or(Ordering::Equal),
        _ => Ordering::Equal,
    };
    let order = |a: usize, b: usize| place(a).cmp(&place(b)).then_with(|| memory(a, b));
    let mut sorted: Vec<usize> = (0..processes.len()).collect();
    sorted.sort_by(|&a, &b| order(a, b));
    let mut turns = vec![0; processes.len()];
    for pair in sorted.windows(2) {
        if let [a, b] = *pair {
            turns[b] = if order(a, b).is_eq() { turns[a] + 1 } else { 0 };
        }
    }
    turns
}

/// Bytes of scratch memory without what [`super::calls`] asks for.
fn base_len(frame_len: u64) -> u64 {
    SCRATCH_LEN + frame_len.next_multiple_of(4096)
}

/// Maps scratch memory in processes that have been surveyed, in all at the same time.
pub(super) fn map_grounds(processes: &mut [&mut HeldProcess]) -> Result<(), Error> {
    // With room for code, and PROT_EXEC, which the kernel may refuse (PR_SET_MDWE, SELinux); else without.
    let mut failed = Vec::new();
    for _ in 0..2 {
        // mmap(NULL, len, prot, MAP_PRIVATE|MAP_ANONYMOUS)
        let results = bare_calls(processes, |g| {
            let prot = if g.executable { 7 } else { 3 };
            (g.scratch.0 == 0).then_some((libc::SYS_mmap, [0, g.scratch_len, prot, 0x22, u64::MAX, 0]))
        });
        failed.clear();
        for (index, (p, result)) in processes.iter_mut().zip(results).enumerate() {
            let len = base_len(p.frame_len());
            let (Some(ground), Some(result)) = (p.ground.as_mut(), result) else { continue };
            match result.map(decode) {
                Ok(Ok(addr)) => ground.scratch = Addr(addr),
                Ok(Err(source)) => failed.push((index, source)),
                Err(e) => return Err(abandon(processes, e)),
            }
            if ground.scratch.0 == 0 {
                (ground.executable, ground.scratch_len) = (false, len);
            }
        }
    }
    for (index, source) in failed {
        let Some(p) = processes.get_mut(index) else { continue };
        let (pid, len) = (p.host, base_len(p.frame_len()));
        let lent = match source.raw_os_error() {
            Some(libc::ENOMEM | libc::EAGAIN) => p.lend_stack(len),
            _ => Err(Error::Call { pid, call: "mmap", source }),
        };
        lent.map_err(|e| abandon(processes, e))?;
    }
    Ok(())
}

/// What has not been mapped can't be unmapped.
fn abandon(processes: &mut [&mut HeldProcess], error: Error) -> Error {
    for p in processes {
        p.ground.take_if(|g| g.scratch.0 == 0);
    }
    error
}

impl Held {
    /// Takes all scratch memory away, and gives all registers back.
    pub(super) fn clear_grounds(&mut self) -> Result<(), Error> {
        let mut done = Ok(());
        for p in &mut self.processes {
            done = done.and(p.close_views());
            for thread in 0..p.threads.len() {
                done = done.and(p.give_back(thread));
            }
        }
        let mut processes: Vec<&mut HeldProcess> = self.processes.iter_mut().filter(|p| p.ground.is_some()).collect();
        let mapped = |g: &Ground| {
            let ours = g.scratch.0 != 0 && g.lent.is_none();
            ours.then_some((libc::SYS_munmap, [g.scratch.0, g.scratch_len, 0, 0, 0, 0]))
        };
        for result in bare_calls(&mut processes, mapped).into_iter().flatten() {
            done = done.and(result.map(drop));
        }
        for p in processes {
            let Some(ground) = p.ground.take() else { continue };
            if let Some(bytes) = ground.lent {
                let cleared = p.write(ground.scratch, &bytes);
                done = done.and(cleared.map_err(|e| Error::from_io("clearing up", p.host, e)));
            }
        }
        done
    }
}

/// Waits for the entry or the exit of a system call. SIGSTOP may arrive before; it is let through, acts on the group, and
/// the call goes on.
fn to_syscall_stop(running: Running) -> Result<Stopped, Error> {
    let mut now = running.wait()?;
    while !now.is_syscall() {
        let signal = if now.event() == 0 { now.signal() } else { 0 };
        now = now.cont_to_syscall(signal)?.wait()?;
    }
    Ok(now)
}

impl Remote<'_> {
    /// Runs one system call; the outer error is ours, the inner the call's.
    pub fn try_call(&mut self, nr: i64, args: [u64; 6]) -> Result<io::Result<u64>, Error> {
        let task = &mut self.process.threads[self.thread].task;
        self.lent.call(task, nr, args).map(decode)
    }

    /// Runs one system call that is expected to succeed; `name` is for the message if it does not.
    pub fn call(&mut self, name: &'static str, nr: i64, args: [u64; 6]) -> Result<u64, Error> {
        let pid = self.lent.tid;
        self.try_call(nr, args)?.map_err(|source| Error::Call { pid, call: name, source })
    }

    /// [`SCRATCH_LEN`] writable bytes in the program for results; undefined content.
    pub fn scratch(&self) -> Addr {
        self.scratch
    }

    /// Copies from the program's memory.
    pub fn read(&self, addr: Addr, buf: &mut [u8]) -> Result<(), Error> {
        self.process.read(addr, buf).map_err(|e| Error::from_io("reading memory", self.process.host, e))
    }

    /// Copies to the program's memory.
    pub fn write(&self, addr: Addr, bytes: &[u8]) -> Result<(), Error> {
        self.process.write(addr, bytes).map_err(|e| Error::from_io("writing memory", self.process.host, e))
    }
}

impl Drop for Remote<'_> {
    fn drop(&mut self) {
        // Fails only when the thread is dead.
        let _ = self.process.give_back(self.thread);
    }
}
