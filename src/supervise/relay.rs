//! The two terminals of a resumed program: ours, at which somebody types, and its own, whose master we hold. While we
//! are in the foreground of ours, it hands through every byte (termios(3), "Raw mode"), and the program's own does all
//! the rest: echo, lines, signals, job control.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

use crate::restore::Terminal;
use crate::sys::tty::{self, Termios};

/// Bytes at a time, and about how many wait for a side that takes no more.
const ROOM: usize = 4096;
/// How often we look whether we are in the foreground: nobody tells.
const LOOK: u16 = 200;
/// How long the program may take to begin to draw on a taller terminal, and how long it has for that.
const BEGINS: Duration = Duration::from_millis(500);
const DRAWS: Duration = Duration::from_millis(50);
/// How long our terminal may take for what the program has written last.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Both terminals.
#[derive(Debug)]
pub struct Relay {
    terminal: Terminal,
    /// Settings of ours before we came; none of one that was hung up.
    before: Option<Termios>,
    /// Whether ours is handed through to the program.
    on: bool,
    /// Ours was hung up, and is nobody's any more.
    gone: bool,
    /// Until when the program's is a row taller than ours.
    taller: Option<Instant>,
    typed: Vec<u8>,
    shown: Vec<u8>,
}

impl Relay {
    /// The program is running.
    pub fn new(terminal: Terminal) -> Relay {
        let before = tty::settings(terminal.ours.as_fd()).ok();
        let gone = before.is_none();
        let (typed, shown) = (Vec::new(), Vec::new());
        let mut relay = Relay { terminal, before, on: false, gone, taller: None, typed, shown };
        // What is on the screen is not what the program has left there: it may want to draw it anew. Many draw all of
        // it only where the size is another one (resizeterm(3X) of curses), and lose nothing by a row too many.
        if tty::settings(relay.master()).is_ok_and(|settings| !tty::by_lines(&settings)) {
            relay.taller = Some(Instant::now() + BEGINS);
            relay.resize();
        } else {
            relay.signal(Signal::SIGWINCH);
        }
        relay
    }

    fn ours(&self) -> BorrowedFd<'_> {
        self.terminal.ours.as_fd()
    }

    fn master(&self) -> BorrowedFd<'_> {
        self.terminal.master.as_fd()
    }

    fn in_foreground(&self) -> bool {
        tcgetpgrp(self.ours()) == Ok(getpgrp())
    }

    /// What to wait for, and how long at most.
    pub fn waits(&self) -> (Vec<(BorrowedFd<'_>, PollFlags)>, PollTimeout) {
        let of = |reads, writes| {
            let read = if reads { PollFlags::POLLIN } else { PollFlags::empty() };
            read | if writes { PollFlags::POLLOUT } else { PollFlags::empty() }
        };
        let ours = of(self.on && self.typed.len() < ROOM, !self.shown.is_empty());
        let master = of(self.shown.len() < ROOM, !self.typed.is_empty());
        let mut timeout = if self.on || self.gone { PollTimeout::NONE } else { PollTimeout::from(LOOK) };
        if let Some(end) = self.taller {
            // A millisecond more, so that it is over then.
            let left = end.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            timeout = PollTimeout::try_from(left).unwrap_or(timeout);
        }
        // Of one that was hung up poll(2) would tell again and again.
        let ours = (!self.gone).then(|| (self.ours(), ours));
        (ours.into_iter().chain([(self.master(), master)]).collect(), timeout)
    }

    /// Brings to each side what can be brought without waiting.
    pub fn serve(&mut self) {
        self.gone |= is_hung_up(self.ours());
        self.on &= !self.gone;
        if !self.on && !self.gone && self.in_foreground() {
            self.begin();
        }
        if self.on && self.typed.len() < ROOM {
            match take(&self.terminal.ours, &mut self.typed) {
                Ok(()) => {}
                // We are in the background, or it was hung up: begin anew where it turns out that we are not.
                Err(_) => self.on = false,
            }
        }
        give(&self.terminal.master, &mut self.typed);
        if self.shown.len() < ROOM {
            let before = self.shown.len();
            let _ = take(&self.terminal.master, &mut self.shown);
            if self.shown.len() > before {
                self.taller = self.taller.map(|end| end.min(Instant::now() + DRAWS));
            }
        }
        give(&self.terminal.ours, &mut self.shown);
        if self.taller.take_if(|end| *end <= Instant::now()).is_some() {
            self.resize();
        }
    }

    fn begin(&mut self) {
        if let Ok(before) = tty::settings(self.ours()) {
            // Our own of before are nobody's: it was taken from us without notice.
            let before = self.before.filter(|old| before == tty::raw(old)).unwrap_or(before);
            self.before = Some(before);
            self.on = tty::set(self.ours(), &tty::raw(&before)).is_ok();
        }
        self.resize();
    }

    /// Gives our terminal back as it was.
    pub fn rest(&mut self) {
        // From the background to set it would stop us, and it is somebody else's anyway.
        let on = std::mem::take(&mut self.on);
        if let Some(before) = self.before.filter(|_| on && self.in_foreground()) {
            let _ = tty::set(self.ours(), &before);
        }
    }

    /// We were stopped, and whoever had our terminal meanwhile has set it as they liked.
    pub fn begin_anew(&mut self) {
        self.on = false;
    }

    /// The program's terminal gets the size of ours, of which the kernel tells those in its foreground.
    pub fn resize(&self) {
        if let Ok(size) = tty::size(self.ours()) {
            let size = if self.taller.is_some() { tty::taller(&size) } else { size };
            let _ = tty::set_size(self.master(), &size);
        }
    }

    /// Sends a signal to those in the foreground of the program's terminal.
    pub fn signal(&self, signal: Signal) {
        if let Some((_, group @ 1..)) = tty::session(self.master()) {
            let _ = killpg(Pid::from_raw(group), signal);
        }
    }

    /// The program has ended: shows what it has written last, and gives our terminal back.
    pub fn finish(mut self) {
        let end = Instant::now() + LAST_WORDS;
        loop {
            let _ = take(&self.terminal.master, &mut self.shown);
            give(&self.terminal.ours, &mut self.shown);
            if self.shown.is_empty() || Instant::now() > end {
                break;
            }
            let wait = nix::poll::PollFd::new(self.ours(), PollFlags::POLLOUT);
            let _ = nix::poll::poll(&mut [wait], PollTimeout::from(LOOK));
        }
    }
}

/// However we end, our terminal is given back.
impl Drop for Relay {
    fn drop(&mut self) {
        self.rest();
    }
}

/// Whether a terminal was hung up.
fn is_hung_up(terminal: BorrowedFd<'_>) -> bool {
    let mut look = [nix::poll::PollFd::new(terminal, PollFlags::empty())];
    nix::poll::poll(&mut look, PollTimeout::ZERO).is_ok_and(|n| n > 0)
        && look.iter().any(|fd| fd.revents().is_some_and(|r| r.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)))
}

/// Our terminal, which a program that we start uses as it likes.
#[derive(Debug)]
pub struct Lent {
    before: Termios,
}

impl Lent {
    /// As it is now, if our standard input is in our foreground.
    pub fn to_program() -> Option<Lent> {
        let input = io::stdin();
        let ours = tcgetpgrp(&input) == Ok(getpgrp());
        ours.then(|| tty::settings(input.as_fd()).ok()).flatten().map(|before| Lent { before })
    }

    /// A program that was ended by a save has not put the settings back itself; nor, if it was a shell with job control, the
    /// foreground, which is left to a group that has nobody.
    pub fn give_back(self) {
        let input = io::stdin();
        let Ok(foreground) = tcgetpgrp(&input) else { return };
        if foreground != getpgrp() {
            if killpg(foreground, None) != Err(Errno::ESRCH) {
                return;
            }
            // Not stopped for it, though in the background: tcsetpgrp(3).
            let stops = SigSet::from_iter([Signal::SIGTTOU]);
            if stops.thread_block().is_err() || tcsetpgrp(&input, getpgrp()).is_err() {
                return;
            }
        }
        let _ = tty::set(input.as_fd(), &self.before);
    }
}

/// Reads once, if there is something.
fn take(mut from: &File, into: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; ROOM];
    match from.read(&mut buffer) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(n) => {
            into.extend(buffer.iter().take(n));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes what is taken. What can't be shown or typed any more is lost.
fn give(mut to: &File, from: &mut Vec<u8>) {
    while !from.is_empty() {
        match to.write(from) {
            Ok(n) => drop(from.drain(..n.min(from.len()))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => from.clear(),
        }
    }
}
