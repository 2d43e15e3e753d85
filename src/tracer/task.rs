//! One traced task, running or stopped: a call that its state does not allow does not compile.

use std::time::Instant;

use crate::sys::wait::{self, Event};
use crate::sys::{self, ptrace};

use super::Error;

/// A seized task that is running (as far as we know).
#[derive(Debug)]
pub struct Running {
    tid: i32,
}

/// A seized task in a ptrace stop.
#[derive(Debug)]
pub struct Stopped {
    tid: i32,
    code: i32,
}

/// What became of a running task.
#[derive(Debug)]
pub enum Outcome {
    /// It stopped.
    Stopped(Stopped),
    /// It is still running.
    Running(Running),
    /// It died. It has been reaped unless it is our own child.
    Dead,
}

impl Running {
    /// Seizes a task; it keeps running.
    pub fn seize(tid: i32, options: usize) -> std::io::Result<Running> {
        ptrace::seize(tid, options)?;
        Ok(Running { tid })
    }

    /// A task the kernel seized for us at its birth (`PTRACE_O_TRACECLONE` and friends).
    pub fn born(tid: i32) -> Running {
        Running { tid }
    }

    /// Its thread id.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Asks it to stop.
    pub fn interrupt(&self) -> Result<(), Error> {
        ptrace::interrupt(self.tid).map_err(|e| Error::from_io("interrupting", self.tid, e))
    }

    /// Whether it has stopped or died by now.
    pub fn poll(self) -> Result<Outcome, Error> {
        match wait::poll(self.tid) {
            Ok(None) => Ok(Outcome::Running(self)),
            Ok(Some(Event::Stopped { code })) => Ok(Outcome::Stopped(Stopped { tid: self.tid, code })),
            Ok(Some(Event::Dead)) => Ok(Outcome::Dead),
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(Outcome::Dead),
            Err(e) => Err(Error::from_io("waiting", self.tid, e)),
        }
    }

    /// Waits for its next stop, for ever. For stops that are certain to come.
    pub fn wait(self) -> Result<Stopped, Error> {
        match wait::wait(self.tid) {
            Ok(Event::Stopped { code }) => Ok(Stopped { tid: self.tid, code }),
            Ok(Event::Dead) => Err(Error::Vanished { pid: self.tid }),
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Err(Error::Vanished { pid: self.tid }),
            Err(e) => Err(Error::from_io("waiting", self.tid, e)),
        }
    }

    /// Waits for its next stop until `deadline`.
    pub fn wait_until(self, deadline: Instant) -> Result<Outcome, Error> {
        let mut task = self;
        for round in 0u32.. {
            match task.poll()? {
                Outcome::Running(t) if Instant::now() < deadline => task = t,
                other => return Ok(other),
            }
            sys::tasks::back_off(round);
        }
        Ok(Outcome::Running(task))
    }
}

impl Stopped {
    /// Its thread id.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// The signal of the stop: SIGTRAP for an interrupt, the stop signal in a group stop, else one to be delivered.
    pub fn signal(&self) -> i32 {
        self.code & 0x7f
    }

    /// The signal about to be delivered to it, or 0.
    pub fn pending_signal(&self) -> i32 {
        if self.event() == 0 && !self.is_syscall() { self.signal() } else { 0 }
    }

    /// The ptrace event; 0 for a signal about to be delivered.
    pub fn event(&self) -> i32 {
        self.code >> 8
    }

    /// Whether this is a stop at the entry or exit of a system call.
    pub fn is_syscall(&self) -> bool {
        self.code == libc::SIGTRAP | 0x80
    }

    /// Whether it stands where an interrupt left it: on its way back to the program, or in a group stop.
    pub fn is_parked(&self) -> bool {
        self.event() == Event::STOP
    }

    /// Lets it run, delivering `signal` (0: none).
    pub fn cont(self, signal: i32) -> Result<Running, Error> {
        ptrace::cont(self.tid, signal).map_err(|e| Error::from_io("continuing", self.tid, e))?;
        Ok(Running { tid: self.tid })
    }

    /// Lets it run on to where an interrupt that was asked for stops it; a signal is delivered. A stop at the end of a
    /// system call has taken the interrupt's place (kernel/signal.c, ptrace_stop): it is asked for again.
    pub fn on_to_interrupt(self) -> Result<Running, Error> {
        if self.is_syscall() {
            return self.interrupted_cont(0);
        }
        let signal = self.pending_signal();
        self.cont(signal)
    }

    /// Delivers `signal`, and stops it again before it comes to the program's code.
    pub fn interrupted_cont(self, signal: i32) -> Result<Running, Error> {
        ptrace::interrupt(self.tid).map_err(|e| Error::from_io("interrupting", self.tid, e))?;
        self.cont(signal)
    }

    /// Lets it run to the next entry or exit of a system call, delivering `signal` (0: none).
    pub fn cont_to_syscall(self, signal: i32) -> Result<Running, Error> {
        ptrace::cont_to_syscall(self.tid, signal).map_err(|e| Error::from_io("continuing", self.tid, e))?;
        Ok(Running { tid: self.tid })
    }

    /// Lets it do one instruction.
    pub fn step(self) -> Result<Running, Error> {
        ptrace::step(self.tid).map_err(|e| Error::from_io("stepping", self.tid, e))?;
        Ok(Running { tid: self.tid })
    }

    /// Stops tracing it; it runs on.
    pub fn detach(self) -> Result<(), Error> {
        self.detach_delivering(0)
    }

    /// The same, delivering `signal` (0: none).
    pub fn detach_delivering(self, signal: i32) -> Result<(), Error> {
        ptrace::detach(self.tid, signal).map_err(|e| Error::from_io("detaching", self.tid, e))
    }

    /// Stops it again on its way to the program, in the kind of stop from which the kernel itself restarts an
    /// interrupted system call by the registers it finds. `before` sets those registers.
    ///
    /// The interrupt is asked for first: from then on the thread cannot reach the program without passing the
    /// kernel's signal handling, even if we die (arch/x86/kernel/signal.c, arch_do_signal_or_restart).
    pub fn park(self, before: impl FnOnce(&Stopped) -> std::io::Result<()>) -> Result<Stopped, Error> {
        let tid = self.tid;
        ptrace::interrupt(tid).map_err(|e| Error::from_io("interrupting", tid, e))?;
        before(&self).map_err(|e| Error::from_io("setting registers", tid, e))?;
        let mut task = self.cont(0)?.wait()?;
        // A stop signal may come between (nothing else: signals are blocked or go on waiting): let it act.
        while !task.is_parked() {
            let signal = task.pending_signal();
            task = task.cont(signal)?.wait()?;
        }
        Ok(task)
    }
}
