//! Standard streams: what stands in for them.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::model::Checkpoint;
use crate::model::fd::Kind;
use crate::model::pty::Session;
use crate::sys::fds;
use crate::sys::tty::{self, Termios};

use super::{Error, Options, Stdio, namespaces, pty};

/// What of a slave's flags open(2) may set.
const FLAGS: i32 = fds::ACCESS | libc::O_NONBLOCK | libc::O_APPEND;

/// The descriptions that a wish on the command line replaces, though the image has them, and the role of each.
pub fn overrides(checkpoint: &Checkpoint, options: &Options) -> HashMap<u32, i32> {
    let root = checkpoint.processes.iter().find(|p| p.pid == checkpoint.tree.root);
    let mut out = HashMap::new();
    for d in root.map_or(&[][..], |p| &p.fds) {
        let wished = usize::try_from(d.fd).ok().and_then(|fd| options.stdio.get(fd));
        let from_image = checkpoint.files.get(d.file as usize).is_some_and(|f| !matches!(f.kind, Kind::Stdio(_)));
        if from_image && wished.is_some_and(|w| *w != Stdio::Image) {
            // The lowest number counts for a description that serves as two streams.
            out.entry(d.file).or_insert(d.fd);
        }
    }
    out
}

/// A terminal that takes the place of the one the program had: ours belongs to our session for ever, and who is in another
/// has neither job control nor signals from it. What is typed at ours must be brought to its master, and what that gives
/// to ours.
#[derive(Debug)]
pub struct Terminal {
    /// The master, which does not block.
    pub master: File,
    /// A slave, so that the master is never without.
    pub slave: OwnedFd,
    /// Our own terminal, opened for us alone; it does not block.
    pub ours: File,
    /// Whose controlling terminal it becomes.
    pub session: Session,
    device: u64,
    /// Slaves that were opened, with their flags.
    opened: Vec<(i32, OwnedFd)>,
}

impl Terminal {
    /// Makes one, if the program had one and its standard input is to be our controlling terminal.
    pub fn make(checkpoint: &Checkpoint, options: &Options) -> Result<Option<Terminal>, Error> {
        let Some((session, settings)) = had(checkpoint) else { return Ok(None) };
        let from_us = options.terminal && !matches!(options.stdio, [Stdio::File(_), ..]);
        if !from_us || !namespaces::wanted(options).pid {
            return Ok(None);
        }
        let nonblocking = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/tty");
        let (Ok(ours), Ok(device)) = (nonblocking, tty::device(io::stdin().as_fd())) else { return Ok(None) };
        if tty::device(ours.as_fd()).ok() != Some(device) {
            return Ok(None);
        }
        let made = (|| {
            let master = pty::new()?;
            tty::set_lock(master.as_fd(), false)?;
            tty::set(master.as_fd(), &settings.map_or_else(|| tty::settings(ours.as_fd()), Ok)?)?;
            tty::set_size(master.as_fd(), &tty::size(ours.as_fd())?)?;
            fds::fcntl(master.as_fd(), libc::F_SETFL, libc::O_NONBLOCK.into())?;
            let slave = tty::open_slave(master.as_fd(), libc::O_RDWR)?;
            Ok(Terminal { master: File::from(master), slave, ours, session, device, opened: Vec::new() })
        })();
        made.map(Some).map_err(|e| Error::step("making a terminal", 0, e))
    }

    /// A slave in the place of one of our streams, if that is the terminal. Those with the same flags share them, as
    /// the program's own mostly did.
    fn instead_of(&mut self, stream: BorrowedFd<'_>, flags: i32) -> io::Result<Option<OwnedFd>> {
        if tty::device(stream).ok() != Some(self.device) {
            return Ok(None);
        }
        let flags = flags & FLAGS;
        if let Some((_, slave)) = self.opened.iter().find(|(its, _)| *its == flags) {
            return slave.try_clone().map(Some);
        }
        let slave = tty::open_slave(self.master.as_fd(), flags)?;
        let copy = slave.try_clone()?;
        self.opened.push((flags, slave));
        Ok(Some(copy))
    }
}

/// The session at the terminal that the program had as a standard stream, and the terminal's settings.
fn had(c: &Checkpoint) -> Option<(Session, Option<Termios>)> {
    let streams = c.files.iter().filter_map(|file| if let Kind::Stdio(s) = &file.kind { Some(s) } else { None });
    let (stream, session) = streams.filter_map(|stream| Some((stream, stream.session?))).next()?;
    let settings = stream.settings.as_ref().and_then(|settings| settings.0.as_slice().try_into().ok());
    // In the foreground we are one job with the program, which for that is in the foreground, too.
    let root = c.tree.members.iter().find(|m| m.pid == c.tree.root && m.sid == session.leader);
    let foreground = session.foreground.or_else(|| root.map(|root| root.pgid));
    Some((Session { foreground, ..session }, settings))
}

/// The stream that stands in for `role` (0, 1 or 2).
pub fn open(role: i32, wishes: &[Stdio; 3], flags: u32, terminal: Option<&mut Terminal>) -> Result<OwnedFd, Error> {
    let wish = usize::try_from(role).ok().and_then(|r| wishes.get(r));
    if let Some(Stdio::File(path)) = wish {
        let access = flags as i32 & fds::ACCESS;
        let mut options = OpenOptions::new();
        match role {
            0 => options.read(true).write(access == libc::O_RDWR),
            _ => options.append(true).create(true).read(access == libc::O_RDWR),
        };
        return options.open(path).map(OwnedFd::from).map_err(|e| Error::file("opening", &path.as_path().into(), e));
    }
    let clone = match role {
        0 => io::stdin().as_fd().try_clone_to_owned(),
        1 => io::stdout().as_fd().try_clone_to_owned(),
        _ => io::stderr().as_fd().try_clone_to_owned(),
    };
    // A stream we were started without is /dev/null for the program.
    clone
        .and_then(|stream| match terminal {
            Some(terminal) => Ok(terminal.instead_of(stream.as_fd(), flags as i32)?.unwrap_or(stream)),
            None => Ok(stream),
        })
        .or_else(|_| OpenOptions::new().read(true).write(true).open("/dev/null").map(OwnedFd::from))
        .map_err(|e| Error::step("sharing a standard stream", 0, e))
}
