//! Single system calls in a held process.

use std::io;

use crate::model::Addr;
use crate::model::thread::Regs;
use crate::sys::ptrace;

use super::gadgets::Gadgets;
use super::hold::HeldProcess;
use super::task::Stopped;
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
    /// The scratch mapping: [`SCRATCH_LEN`] bytes for results, then room for a frame.
    scratch: Addr,
    scratch_len: u64,
    /// What is in the scratch memory's place if it is lent, too: where the program may map no more.
    lent: Option<Vec<u8>>,
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

    fn call(&self, task: &mut Option<Stopped>, nr: i64, args: [u64; 6]) -> Result<u64, Error> {
        let gone = || Error::Vanished { pid: self.tid };
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
        ptrace::set_regs(self.tid, &regs).map_err(|e| Error::from_io("borrowing registers", self.tid, e))?;
        // To the entry, then to the exit. SIGSTOP may arrive in between; it is let through, acts on the group, and
        // the call goes on.
        for _ in 0..2 {
            let mut now = task.take().ok_or_else(gone)?.cont_to_syscall(0)?.wait()?;
            while !now.is_syscall() {
                let signal = if now.event() == 0 { now.signal() } else { 0 };
                now = now.cont_to_syscall(signal)?.wait()?;
            }
            *task = Some(now);
        }
        ptrace::get_regs(self.tid).map(|r| r.rax).map_err(|e| Error::from_io("reading registers", self.tid, e))
    }
}

impl HeldProcess {
    /// Borrows the registers of one of its threads (an index into `threads`) for system calls.
    ///
    /// The first call for a process also maps a few scratch pages in it, which go when it is released.
    pub fn remote(&mut self, thread: usize) -> Result<Remote<'_>, Error> {
        if self.ground.is_none() {
            self.ground = Some(self.prepare_ground()?);
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

    fn prepare_ground(&mut self) -> Result<Ground, Error> {
        let pid = self.live();
        let maps = super::maps(pid).map_err(|e| Error::from_proc("reading maps", pid, e))?;
        let gadgets = self.finder.lock().ok().and_then(|mut f| f.find(pid, &maps));
        let frame_len = frame::len(self.threads.first().map_or(0, |t| t.xstate.len())) as u64;
        let stack = super::stack::frame_place(self, &maps, frame_len).and_then(|at| {
            let mut bytes = vec![0u8; frame_len as usize];
            self.read(at, &mut bytes).ok().map(|()| (at, bytes))
        });
        let syscall = match gadgets {
            Some(g) => g.syscall_ret,
            None => super::gadgets::any_syscall(pid, &maps)
                .ok_or(Error::Unsupported { pid, what: "no system call instruction in its text" })?,
        };
        if gadgets.is_none() || stack.is_none() {
            tracing::debug!(pid, "no place or bytes for a signal frame: a kill of this tool would harm the program");
        }
        let scratch_len = SCRATCH_LEN + frame_len.next_multiple_of(4096);
        let mut ground = Ground { gadgets, syscall, stack, scratch: Addr(0), scratch_len, lent: None };
        // mmap(NULL, len, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS)
        let raw = self.bare_call(&ground, libc::SYS_mmap, [0, scratch_len, 3, 0x22, u64::MAX, 0])?;
        match decode(raw) {
            Ok(at) => ground.scratch = Addr(at),
            // Its own limits (RLIMIT_AS, DATA, MEMLOCK) forbid it. A frame at the same place is never needed meanwhile.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOMEM | libc::EAGAIN)) => {
                let what = "its limits leave no room for our calls, and its stack has none to lend";
                let at = super::stack::frame_place(self, &maps, scratch_len).ok_or(Error::Unsupported { pid, what })?;
                let mut bytes = vec![0u8; scratch_len as usize];
                self.read(at, &mut bytes).map_err(|e| Error::from_io("reading the stack", pid, e))?;
                (ground.scratch, ground.lent) = (at, Some(bytes));
            }
            Err(source) => return Err(Error::Call { pid, call: "mmap", source }),
        }
        Ok(ground)
    }

    /// One call in the first thread, with the frame on the stack: before there is scratch memory, and when it goes.
    fn bare_call(&mut self, ground: &Ground, nr: i64, args: [u64; 6]) -> Result<u64, Error> {
        let (rip, sigreturn, at) = match (ground.gadgets, &ground.stack) {
            (Some(g), Some((at, _))) => (g.syscall_ret, Some(g.sigreturn), Some(*at)),
            _ => (ground.syscall, None, None),
        };
        let lent = self.lend(0, rip, sigreturn, at)?;
        let result = lent.call(&mut self.threads[0].task, nr, args);
        self.give_back(0)?;
        if let Some((at, bytes)) = &ground.stack {
            // At once: another process may share this memory, and lend us the same place.
            self.write(*at, bytes).map_err(|e| Error::from_io("wiping a signal frame", self.host, e))?;
        }
        result
    }

    /// Puts a thread's registers and mask back and leaves it where the kernel restarts its system call itself.
    fn give_back(&mut self, thread: usize) -> Result<(), Error> {
        let pid = self.host;
        let t = self.threads.get_mut(thread).ok_or(Error::Vanished { pid })?;
        if !std::mem::take(&mut t.borrowed) {
            return Ok(());
        }
        let (regs, mask, tid) = (t.regs, t.sigmask, t.host);
        let task = t.task.take().ok_or(Error::Vanished { pid })?;
        t.task = Some(task.park(|_| {
            ptrace::set_sigmask(tid, mask)?;
            ptrace::set_regs(tid, &regs)
        })?);
        Ok(())
    }

    /// Takes the scratch memory away.
    pub(super) fn clear_ground(&mut self) -> Result<(), Error> {
        let Some(ground) = self.ground.take() else { return Ok(()) };
        match &ground.lent {
            Some(bytes) => {
                self.write(ground.scratch, bytes).map_err(|e| Error::from_io("clearing up", self.host, e))?
            }
            None => {
                self.bare_call(&ground, libc::SYS_munmap, [ground.scratch.0, ground.scratch_len, 0, 0, 0, 0])?;
            }
        }
        Ok(())
    }
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

    /// Whether the scratch memory is a part of the program's stack, because it may map no more.
    pub fn scratch_is_lent(&self) -> bool {
        self.process.ground.as_ref().is_some_and(|g| g.lent.is_some())
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
