//! Running tables of system calls in a process that is being built.

use std::io;

use crate::model::Addr;
use crate::model::thread::Regs;
use crate::sys::{self, ptrace, stub};
use crate::tracer::Patience;
use crate::tracer::task::{Running, Stopped};

use super::Error;

/// Bytes of the data pages behind the stub's code: a table and what its calls point to.
pub const DATA_LEN: u64 = 256 * 1024;
/// Code and data.
pub const LEN: u64 = 4096 + DATA_LEN;
const ENTRY: usize = 64;
/// Bytes at the end of the data pages left to stand-ins, which keep a status there.
const TAIL: u64 = 64;

/// A process or thread that is being built: stopped, with the stub mapped, all signals blocked.
#[derive(Debug)]
pub struct Puppet {
    task: Option<Stopped>,
    tid: i32,
    /// Where the stub is mapped.
    base: Addr,
    regs: Regs,
}

/// System calls to run in one go, and the bytes they point to.
#[derive(Debug)]
pub struct Batch {
    data: Addr,
    calls: Vec<(&'static str, [u64; 7], Expect)>,
    bytes: Vec<u8>,
}

/// What a call must return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything but an error.
    Success,
    /// This very number.
    Exactly(u64),
    /// Whatever it is.
    Anything,
}

impl Batch {
    /// Whether another call with `bytes` of data still fits.
    fn fits(&self, calls: usize, bytes: usize) -> bool {
        (self.calls.len() + calls + 1) * ENTRY + self.bytes.len() + bytes + 64 + TAIL as usize <= DATA_LEN as usize
    }

    fn address_of(&self, offset: usize) -> Addr {
        // Data grows from the front, the table follows it when the batch is run.
        Addr(self.data.0 + offset as u64)
    }

    /// How many calls there are.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Puts bytes where calls of this batch can point to them.
    pub fn data(&mut self, bytes: &[u8]) -> Addr {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let at = self.address_of(self.bytes.len());
        self.bytes.extend_from_slice(bytes);
        at
    }

    /// Puts other bytes where [`Batch::data`] has put some: for structures that say where they are.
    pub fn replace(&mut self, at: Addr, bytes: &[u8]) -> Addr {
        let offset = (at.0 - self.data.0) as usize;
        if let Some(room) = self.bytes.get_mut(offset..offset + bytes.len()) {
            room.copy_from_slice(bytes);
        }
        at
    }

    /// Puts a path, with its NUL.
    pub fn path(&mut self, path: &crate::model::Name) -> Addr {
        let mut bytes = path.0.clone();
        bytes.push(0);
        self.data(&bytes)
    }

    /// Adds a call that must succeed.
    pub fn call(&mut self, name: &'static str, nr: i64, args: &[u64]) {
        self.call_expecting(Expect::Success, name, nr, args);
    }

    /// Adds a call with what it must return.
    pub fn call_expecting(&mut self, expect: Expect, name: &'static str, nr: i64, args: &[u64]) {
        let mut words = [0u64; 7];
        words[0] = nr as u64;
        for (to, from) in words[1..].iter_mut().zip(args) {
            *to = *from;
        }
        self.calls.push((name, words, expect));
    }
}

fn to_syscall_stop(name: &'static str, task: Stopped) -> Result<Stopped, Error> {
    let failed = |e| Error::tracer(name, e);
    let mut task = task.cont_to_syscall(0).and_then(Running::wait).map_err(failed)?;
    while !task.is_syscall() {
        task = task.cont_to_syscall(0).and_then(Running::wait).map_err(failed)?;
    }
    Ok(task)
}

impl Puppet {
    /// Takes over a process that the kernel stopped for us at birth, a copy of one in which the stub is at `base`.
    pub fn adopt(task: Running, base: Addr) -> Result<Puppet, Error> {
        let tid = task.tid();
        let mut task = task.wait().map_err(|e| Error::tracer("starting", e))?;
        while !task.is_parked() {
            task = task.cont(0).and_then(Running::wait).map_err(|e| Error::tracer("starting", e))?;
        }
        let regs = ptrace::get_regs(tid).map_err(|e| Error::step("reading registers", tid, e))?;
        Ok(Puppet { task: Some(task), tid, base, regs })
    }

    /// The pid or tid as we see it.
    pub fn host(&self) -> i32 {
        self.tid
    }

    /// Where the data pages are.
    pub fn data(&self) -> Addr {
        Addr(self.base.0 + 4096)
    }

    /// From now on the stub is at `base`.
    pub fn rebase(&mut self, base: Addr) {
        self.base = base;
    }

    /// An empty batch for this process.
    pub fn batch(&self) -> Batch {
        Batch { data: self.data(), calls: Vec::new(), bytes: Vec::new() }
    }

    /// Makes room in a batch: runs it if fewer than `calls` calls and `bytes` bytes would fit.
    pub fn flush_for(&mut self, batch: &mut Batch, calls: usize, bytes: usize) -> Result<(), Error> {
        if batch.fits(calls, bytes) {
            return Ok(());
        }
        let full = std::mem::replace(batch, self.batch());
        self.run(full).map(drop)
    }

    /// Runs a batch to its end; the results of its calls.
    pub fn run(&mut self, batch: Batch) -> Result<Vec<u64>, Error> {
        self.run_with_births(batch).map(|(results, _)| results)
    }

    /// As [`Puppet::run`], with the processes and threads its calls gave birth to.
    pub fn run_with_births(&mut self, batch: Batch) -> Result<(Vec<u64>, Vec<Running>), Error> {
        if batch.calls.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let table_at = batch.bytes.len().next_multiple_of(64);
        let mut image = batch.bytes;
        image.resize(table_at, 0);
        for (_, words, _) in &batch.calls {
            image.extend(words.iter().flat_map(|w| w.to_le_bytes()));
            image.extend([0u8; 8]);
        }
        image.extend([0xffu8; ENTRY]);
        if image.len() > (DATA_LEN - TAIL) as usize {
            return Err(Error::step("a table of calls", self.tid, io::Error::other("too long")));
        }
        self.write(self.data(), &image)?;
        let table = Addr(self.data().0 + table_at as u64);
        let mut regs = Regs { rip: self.base.0, rbx: table.0, rsp: self.tail().0, orig_rax: u64::MAX, ..self.regs };
        regs.eflags &= !0x500;
        ptrace::set_regs(self.tid, &regs).map_err(|e| Error::step("setting registers", self.tid, e))?;
        let mut births = Vec::new();
        let mut results = Vec::with_capacity(batch.calls.len());
        loop {
            self.go_to_trap(&mut births)?;
            // The stub's place in the table tells how many calls have run.
            let now = ptrace::get_regs(self.tid).map_err(|e| Error::step("reading registers", self.tid, e))?;
            let done = (now.rbx.wrapping_sub(table.0) as usize / ENTRY).min(batch.calls.len());
            let mut raw = vec![0u8; done * ENTRY];
            self.read(table, &mut raw)?;
            for entry in raw.chunks_exact(ENTRY).skip(results.len()) {
                let (name, words, expect) = &batch.calls[results.len()];
                let result = entry.last_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
                self.judge(name, words, *expect, result)?;
                results.push(result);
            }
            if results.len() == batch.calls.len() {
                return Ok((results, births));
            }
        }
    }

    fn judge(&self, name: &'static str, words: &[u64; 7], expect: Expect, result: u64) -> Result<(), Error> {
        let fine = match expect {
            Expect::Anything => true,
            Expect::Success => !(-4095..0).contains(&(result as i64)),
            Expect::Exactly(wanted) => wanted == result,
        };
        if fine {
            return Ok(());
        }
        let source = match result as i64 {
            e @ -4095..0 => io::Error::from_raw_os_error(-e as i32),
            n => io::Error::other(format!("unexpected result {n:#x}")),
        };
        let args: Vec<String> = words[1..].iter().map(|w| format!("{w:#x}")).collect();
        Err(Error::Step { step: name, object: format!("pid {} ({})", self.tid, args.join(", ")), source })
    }

    /// Continues to the stub's int3, noting births on the way.
    fn go_to_trap(&mut self, births: &mut Vec<Running>) -> Result<(), Error> {
        let failed = |e| Error::tracer("running the stub", e);
        let mut task = self.take()?.cont(0).and_then(Running::wait).map_err(failed)?;
        loop {
            match (task.event(), task.signal()) {
                (0, libc::SIGTRAP) if !task.is_syscall() => break,
                (0, signal) => {
                    self.task = Some(task);
                    let what = io::Error::other(format!("died of signal {signal}"));
                    return Err(Error::step("running the stub", self.tid, what));
                }
                // PTRACE_EVENT_FORK, VFORK, CLONE
                (1..=3, _) => {
                    let child =
                        ptrace::event_message(self.tid).map_err(|e| Error::step("learning of a child", self.tid, e))?;
                    births.push(Running::born(child as i32));
                }
                _ => {}
            }
            task = task.cont(0).and_then(Running::wait).map_err(failed)?;
        }
        self.task = Some(task);
        Ok(())
    }

    /// One call by stops at its entry and exit alone: no trap that would touch SIGTRAP's action, and no code of ours
    /// has to be there when it returns. The task stays at the exit.
    pub fn single(&mut self, name: &'static str, nr: i64, args: &[u64]) -> Result<u64, Error> {
        let mut words = [0u64; 6];
        words.iter_mut().zip(args).for_each(|(to, from)| *to = *from);
        self.enter(name, nr, words)?;
        let task = self.take()?;
        self.task = Some(to_syscall_stop(name, task)?);
        let result = ptrace::get_regs(self.tid).map_err(|e| Error::step("reading registers", self.tid, e))?.rax;
        let all = [nr as u64, words[0], words[1], words[2], words[3], words[4], words[5]];
        self.judge(name, &all, Expect::Success, result)?;
        Ok(result)
    }

    /// One call that is interrupted as soon as it waits; its raw result. The task stays where the interrupt left it.
    pub fn interrupted(&mut self, name: &'static str, nr: i64, args: [u64; 6]) -> Result<u64, Error> {
        self.enter(name, nr, args)?;
        let failed = |e| Error::tracer(name, e);
        let mut task = self.take()?.interrupted_cont(0).and_then(Running::wait).map_err(failed)?;
        while !task.is_parked() {
            task = task.cont(0).and_then(Running::wait).map_err(failed)?;
        }
        self.task = Some(task);
        ptrace::get_regs(self.tid).map(|r| r.rax).map_err(|e| Error::step("reading registers", self.tid, e))
    }

    /// Goes to the entry of a call.
    fn enter(&mut self, name: &'static str, nr: i64, args: [u64; 6]) -> Result<(), Error> {
        let [rdi, rsi, rdx, r10, r8, r9] = args;
        let rip = self.base.0 + stub::syscall_offset();
        let rsp = self.tail().0;
        let regs = Regs { rip, rax: nr as u64, rdi, rsi, rdx, r10, r8, r9, rsp, orig_rax: u64::MAX, ..self.regs };
        ptrace::set_regs(self.tid, &regs).map_err(|e| Error::step("setting registers", self.tid, e))?;
        let task = self.take()?;
        self.task = Some(to_syscall_stop(name, task)?);
        Ok(())
    }

    /// A call that does not return: the process ends.
    pub fn exit(self, code: i32) -> Result<(), Error> {
        self.end(libc::SYS_exit_group, code)
    }

    /// Ends a thread that is not its process's leader.
    pub fn end_thread(self) -> Result<(), Error> {
        self.end(libc::SYS_exit, 0)
    }

    fn end(mut self, nr: i64, code: i32) -> Result<(), Error> {
        let regs = Regs {
            rip: self.base.0 + stub::syscall_offset(),
            rax: nr as u64,
            rdi: code as u64,
            orig_rax: u64::MAX,
            ..self.regs
        };
        ptrace::set_regs(self.tid, &regs).map_err(|e| Error::step("setting registers", self.tid, e))?;
        let task = self.take()?.cont(0).map_err(|e| Error::tracer("ending a process", e))?;
        self.bury(task)
    }

    /// Ends the thread alone. It must be the leader of others that live: the kernel then tells nobody of its end, so that
    /// it is let go at the entry of the call, and seen to be dead.
    pub fn leave(mut self, code: i32) -> Result<(), Error> {
        let failed = |e| Error::tracer("ending a main thread", e);
        let regs = Regs {
            rip: self.base.0 + stub::syscall_offset(),
            rax: libc::SYS_exit as u64,
            rdi: code as u64,
            orig_rax: u64::MAX,
            ..self.regs
        };
        ptrace::set_regs(self.tid, &regs).map_err(|e| Error::step("setting registers", self.tid, e))?;
        let mut task = self.take()?.cont_to_syscall(0).and_then(Running::wait).map_err(failed)?;
        while !task.is_syscall() {
            task = task.cont_to_syscall(0).and_then(Running::wait).map_err(failed)?;
        }
        task.detach().map_err(failed)?;
        for round in 0..10_000 {
            let stat = crate::proc::stat(self.tid)
                .map_err(|e| Error::step("ending a main thread", self.tid, io::Error::other(e)))?;
            if stat.state == b'Z' {
                return Ok(());
            }
            sys::tasks::back_off(round);
        }
        Err(Error::step("ending a main thread", self.tid, io::ErrorKind::TimedOut.into()))
    }

    /// Ends the process by a signal.
    pub fn die(mut self, signal: i32) -> Result<(), Error> {
        let failed = |e| Error::tracer("ending a process", e);
        // Delivered at the next stop for a signal: send it one first, unblocked.
        ptrace::set_sigmask(self.tid, !(1u64 << (signal - 1))).map_err(|e| Error::step("unblocking", self.tid, e))?;
        let regs = Regs { rip: self.base.0, orig_rax: u64::MAX, ..self.regs };
        ptrace::set_regs(self.tid, &regs).map_err(|e| Error::step("setting registers", self.tid, e))?;
        sys::tasks::kill(self.tid, signal).map_err(|e| Error::step("signalling", self.tid, e))?;
        let task = self.take()?;
        if signal == libc::SIGKILL {
            // This one needs no stop to be delivered: the task is dying already and can't be let go on.
            let end = sys::wait::wait(self.tid).map_err(|e| Error::step("ending a process", self.tid, e))?;
            return match end {
                sys::wait::Event::Dead => {
                    sys::wait::reap(self.tid).map_err(|e| Error::step("ending a process", self.tid, e))
                }
                sys::wait::Event::Stopped { .. } => {
                    Err(Error::step("ending a process", self.tid, io::Error::other("it lives on")))
                }
            };
        }
        let task = task.cont(0).map_err(failed)?;
        let task = task.wait().map_err(failed)?.cont(signal).map_err(failed)?;
        self.bury(task)
    }

    /// Stops it by a job-control signal whose action is the default; whether that has worked.
    pub fn stop(&mut self, signal: i32) -> Result<bool, Error> {
        let tid = self.tid;
        let bad = |step: &'static str| move |e| Error::step(step, tid, e);
        let failed = |e| Error::tracer("stopping", e);
        ptrace::set_sigmask(tid, !(1u64 << (signal - 1))).map_err(bad("unblocking"))?;
        let regs = Regs { rip: self.base.0, orig_rax: u64::MAX, ..self.regs };
        ptrace::set_regs(tid, &regs).map_err(bad("setting registers"))?;
        sys::tasks::kill(tid, signal).map_err(bad("signalling"))?;
        let mut task = self.take()?.cont(0).and_then(Running::wait).map_err(failed)?;
        while task.event() != 0 || task.signal() != signal {
            task = task.cont(0).and_then(Running::wait).map_err(failed)?;
        }
        // Where the signal is not heeded, the interrupt stops it before it runs anything.
        task = task.interrupted_cont(signal).and_then(Running::wait).map_err(failed)?;
        let stopped = task.signal() == signal;
        self.task = Some(task);
        ptrace::set_sigmask(tid, u64::MAX).map_err(bad("blocking"))?;
        Ok(stopped)
    }

    /// Waits for the end of a process and tells its parent.
    fn bury(&mut self, task: Running) -> Result<(), Error> {
        match task.wait() {
            Err(crate::tracer::Error::Vanished { .. }) => {
                let _ = sys::wait::reap(self.tid);
                Ok(())
            }
            Ok(task) => {
                self.task = Some(task);
                Err(Error::step("ending a process", self.tid, io::Error::other("it lives on")))
            }
            Err(e) => Err(Error::tracer("ending a process", e)),
        }
    }

    /// Leaves it parked with its final registers and mask.
    pub fn park(&mut self, regs: &Regs, mask: u64) -> Result<(), Error> {
        let tid = self.tid;
        let task = self.take()?;
        self.task = Some(
            task.park(|_| {
                ptrace::set_sigmask(tid, mask)?;
                ptrace::set_regs(tid, regs)
            })
            .map_err(|e| Error::tracer("parking", e))?,
        );
        Ok(())
    }

    /// Has it make the call on a socket again in which it is to wait; once it waits there, it is on its own.
    pub fn go_on(&mut self, patience: &Patience) -> Result<(), Error> {
        match patience.go_on(self.take()?) {
            Ok(task) => self.task = task,
            // Somebody has killed it.
            Err(crate::tracer::Error::Vanished { .. }) => {}
            Err(e) => return Err(Error::tracer("going on with a call", e)),
        }
        Ok(())
    }

    /// It no longer dies with us. One that is on its own does not, either.
    pub fn outlive_us(&self) -> Result<(), Error> {
        if self.task.is_none() {
            return Ok(());
        }
        ptrace::set_options(self.tid, 0).map_err(|e| Error::step("letting go", self.tid, e))
    }

    /// Lets it go, unless it is on its own; whether it was still there.
    pub fn detach(self) -> Result<bool, Error> {
        let Some(task) = self.task else { return Ok(true) };
        let signal = task.pending_signal();
        match task.detach_delivering(signal) {
            Ok(()) => Ok(true),
            Err(crate::tracer::Error::Vanished { .. }) => Ok(false),
            Err(e) => Err(Error::tracer("letting go", e)),
        }
    }

    /// Turns it into a stand-in: `child`'s wait status goes to descriptor `fd`; an idle one waits for nobody.
    pub fn stand_in(&mut self, child: Option<(i32, i32)>, idle: bool) -> Result<(), Error> {
        let (child, fd) = child.unwrap_or((0, -1));
        let regs = Regs {
            rip: self.base.0 + stub::standin_offset(),
            rsp: self.tail().0,
            r12: child as u64,
            r13: fd as u64,
            r14: u64::from(idle),
            orig_rax: u64::MAX,
            ..self.regs
        };
        self.park(&regs, u64::MAX)
    }

    fn tail(&self) -> Addr {
        Addr(self.data().0 + DATA_LEN - TAIL)
    }

    fn take(&mut self) -> Result<Stopped, Error> {
        self.task.take().ok_or_else(|| Error::step("using a process", self.tid, io::Error::other("it is running")))
    }

    /// Copies bytes to its memory.
    pub fn write(&self, addr: Addr, bytes: &[u8]) -> Result<(), Error> {
        match sys::mem::write(self.tid, addr, bytes) {
            Ok(n) if n == bytes.len() => Ok(()),
            Ok(_) => Err(Error::step("writing memory", self.tid, io::Error::other("short write"))),
            Err(e) => Err(Error::step("writing memory", self.tid, e)),
        }
    }

    /// Copies bytes from its memory.
    pub fn read(&self, addr: Addr, bytes: &mut [u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        match sys::mem::read(self.tid, addr, bytes) {
            Ok(n) if n == bytes.len() => Ok(()),
            Ok(_) => Err(Error::step("reading memory", self.tid, io::Error::other("short read"))),
            Err(e) => Err(Error::step("reading memory", self.tid, e)),
        }
    }
}
