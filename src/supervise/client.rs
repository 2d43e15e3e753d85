//! Asking supervisors: the other end of the control socket.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg, sockopt};
use nix::sys::stat::fstat;

use super::directory::Directory;
use super::protocol::{LONGEST_REPLY, Reply, Request, Status, line};
use super::{Error, members};

/// How long a supervisor may take to answer what needs no work.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who is at the other end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// The process at the other end of a connected UNIX socket.
///
/// # Errors
/// What getsockopt(2) says.
pub fn peer_of(stream: &UnixStream) -> io::Result<Peer> {
    let peer = getsockopt(stream, sockopt::PeerCredentials)?;
    Ok(Peer { pid: peer.pid(), uid: peer.uid() })
}

/// A connection to a job's supervisor.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    name: String,
    /// The supervisor.
    pub supervisor: i32,
    /// The inode of our end: that of a resumed process is another one.
    inode: Option<u64>,
    received: Vec<u8>,
}

impl Connection {
    /// Connects to the job `name`.
    ///
    /// # Errors
    /// [`Error::NoSuchJob`], or [`Error::NoAnswer`] if its supervisor is stopped.
    pub fn to(name: &str) -> Result<Connection, Error> {
        let found = Directory::all().into_iter().find_map(|directory| directory.connect(name));
        let stream = found.ok_or_else(|| Error::NoSuchJob { name: name.to_owned() })?;
        Connection::over(stream, name)
    }

    fn over(stream: UnixStream, name: &str) -> Result<Connection, Error> {
        let peer = peer_of(&stream).map_err(Error::io("ask who serves the socket of", name))?;
        if members::is_stopped(peer.pid) {
            return Err(Error::NoAnswer {
                name: name.to_owned(),
                pid: peer.pid,
                reason: "it is stopped, as by ^Z".into(),
                hint: format!("let it go on first: fg in its shell, or kill -CONT {}", peer.pid),
            });
        }
        let (name, inode) = (name.to_owned(), inode(&stream));
        Ok(Connection { stream, name, supervisor: peer.pid, inode, received: Vec::new() })
    }

    /// Asks something that is answered at once.
    ///
    /// # Errors
    /// [`Error::Remote`] if the answer is a failure, [`Error::NoAnswer`].
    pub fn ask(&mut self, request: &Request) -> Result<Reply, Error> {
        self.send(request, None)?;
        match self.receive(Some(Instant::now() + PATIENCE), None)? {
            Some(reply) => Ok(reply),
            None => Err(self.no_answer("it took too long")),
        }
    }

    /// Asks for something that takes its time; SIGINT, SIGTERM and SIGHUP meanwhile ask the supervisor to give it up,
    /// and its answer to that is returned.
    ///
    /// # Errors
    /// As [`Connection::ask`]; [`Error::Resumed`] where the program that was saved had asked for it itself.
    pub fn ask_patiently(&mut self, request: &Request, stream: Option<BorrowedFd<'_>>) -> Result<Reply, Error> {
        match self.ask_until_signalled(request, stream) {
            Err(Error::NoAnswer { .. }) if self.is_resumed() => Err(Error::Resumed { name: self.name.clone() }),
            answered => answered,
        }
    }

    fn ask_until_signalled(&mut self, request: &Request, stream: Option<BorrowedFd<'_>>) -> Result<Reply, Error> {
        let mut set = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| set.add(signal));
        set.thread_block().map_err(Error::io("block", "signals"))?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(Error::io("watch for", "signals"))?;
        self.send(request, stream)?;
        if let Some(reply) = self.receive(None, Some(signals.as_fd()))? {
            return Ok(reply);
        }
        self.send(&Request::Cancel, None)?;
        match self.receive(Some(Instant::now() + PATIENCE), None)? {
            Some(reply) => Ok(reply),
            None => Err(self.no_answer("it did not give up the save in time")),
        }
    }

    fn send(&mut self, request: &Request, fd: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        let line = line(request);
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control: &[ControlMessage] = if fds.is_empty() { &[] } else { &rights };
        let parts = [IoSlice::new(&line)];
        let mut sent = || -> io::Result<()> {
            let flags = MsgFlags::MSG_NOSIGNAL;
            let sent = sendmsg::<()>(self.stream.as_raw_fd(), &parts, control, flags, None)?;
            self.stream.write_all(line.get(sent..).unwrap_or_default())
        };
        match sent() {
            Ok(()) => Ok(()),
            Err(error) if is_hang_up(&error) => Err(self.no_answer("it closed the connection")),
            Err(error) => Err(Error::io("ask the supervisor of", &self.name)(error)),
        }
    }

    /// The next reply; `None` when the deadline passed or `interrupt` became readable.
    fn receive(
        &mut self,
        deadline: Option<Instant>,
        interrupt: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Reply>, Error> {
        loop {
            if let Some(end) = self.received.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return match serde_json::from_slice(&line) {
                    Ok(Reply::Failed(failure)) => Err(Error::Remote(failure)),
                    Ok(reply) => Ok(Some(reply)),
                    Err(error) => Err(self.no_answer(&format!("its reply makes no sense ({error})"))),
                };
            }
            let mut fds = vec![PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
            fds.extend(interrupt.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            let timeout = match deadline {
                None => PollTimeout::NONE,
                // Rounded up, so that it never spins on the last fraction.
                Some(at) => PollTimeout::try_from(at.saturating_duration_since(Instant::now()).as_millis() + 1)
                    .unwrap_or(PollTimeout::MAX),
            };
            match poll(&mut fds, timeout) {
                Ok(0) if deadline.is_some_and(|at| at <= Instant::now()) => return Ok(None),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(Error::io("wait for the supervisor of", &self.name)(errno)),
            }
            let ready = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| fd.any() == Some(true));
            let (answered, interrupted) = (ready(fds.first()), ready(fds.get(1)));
            if answered {
                let mut buf = [0; 16 << 10];
                let got = match self.stream.read(&mut buf) {
                    Ok(0) => return Err(self.no_answer("it has ended")),
                    Ok(got) => got,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                    Err(error) if is_hang_up(&error) => {
                        return Err(self.no_answer("it closed the connection"));
                    }
                    Err(error) => return Err(Error::io("read from the supervisor of", &self.name)(error)),
                };
                self.received.extend_from_slice(buf.get(..got).unwrap_or_default());
                if self.received.len() > LONGEST_REPLY {
                    return Err(self.no_answer("its reply is too long"));
                }
            } else if interrupted {
                return Ok(None);
            }
        }
    }

    /// Waits until the supervisor has closed the connection, as it does at its end; `false`: not within `limit`.
    pub fn closed_within(&mut self, limit: Duration) -> bool {
        loop {
            match self.receive(Some(Instant::now() + limit), None) {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Whether we are part of the job, and brought back by a resume since we asked.
    fn is_resumed(&self) -> bool {
        let ours = std::env::var_os("CKPT_NAME").is_some_and(|name| name == self.name.as_str());
        ours && inode(&self.stream) != self.inode
    }

    fn no_answer(&self, reason: &str) -> Error {
        let (name, reason) = (self.name.clone(), reason.to_owned());
        Error::NoAnswer { name, pid: self.supervisor, reason, hint: "`ckpt ls` shows the jobs that are running".into() }
    }
}

fn inode(stream: &UnixStream) -> Option<u64> {
    fstat(stream).ok().map(|stat| stat.st_ino)
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// A job that was found.
#[derive(Debug)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// How it is; or why its supervisor doesn't say.
    pub status: Result<Status, Error>,
    /// Its supervisor; 0 if even that isn't known.
    pub supervisor: i32,
}

impl Found {
    /// `running`, `saving`, `stopped`, or `not answering`.
    pub fn state(&self) -> &str {
        match &self.status {
            Ok(status) => &status.state,
            // Its terminal stops a supervisor along with its program.
            Err(_) if members::is_stopped(self.supervisor) => "stopped",
            Err(_) => "not answering",
        }
    }
}

/// All living jobs of this user, in the order of their names. Sockets of dead supervisors are removed.
pub fn jobs() -> Vec<Found> {
    let mut found = Vec::new();
    for directory in Directory::all() {
        for name in directory.names() {
            let Some(stream) = directory.connect(&name) else { continue };
            let supervisor = peer_of(&stream).map_or(0, |peer| peer.pid);
            let status = Connection::over(stream, &name).and_then(|mut it| status(&mut it));
            found.push(Found { name, status, supervisor });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Asks how a job is.
///
/// # Errors
/// As [`Connection::ask`].
pub fn status(connection: &mut Connection) -> Result<Status, Error> {
    match connection.ask(&Request::Status)? {
        Reply::Status(status) => Ok(status),
        _ => Err(connection.no_answer("its reply is to something else")),
    }
}

/// The job that a process belongs to, and whether the process stands for the whole job (its root or supervisor).
pub fn job_of(pid: i32) -> Option<(String, bool)> {
    let line = members::ancestry(pid);
    let jobs = jobs();
    // The nearest one: a job may run inside another.
    line.iter().find_map(|&ancestor| {
        let job = jobs
            .iter()
            .find(|job| job.supervisor == ancestor || job.status.as_ref().is_ok_and(|status| status.pid == ancestor))?;
        let whole = pid == job.supervisor || job.status.as_ref().is_ok_and(|status| status.pid == pid);
        Some((job.name.clone(), whole))
    })
}
