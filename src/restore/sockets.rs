//! Sockets: made in the template, before anybody else is born, by helpers that for the moment have the pids which
//! SO_PEERCRED and messages are to show. Everybody inherits them from there; what was in them we put back ourselves.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crate::image::Image;
use crate::model::fd::Kind;
use crate::model::sockets::{Credentials, Family, Message, Socket};
use crate::model::unix::UnixSocket;
use crate::model::{Addr, Checkpoint, Pid, Refusal};
use crate::net::options;
use crate::sys::{fds, tasks};

use super::build::clone_into;
use super::fd::{Sources, source};
use super::stub::{Expect, Puppet};
use super::{Error, Options, Pids, stdio, unix};

const CLONE_FILES: u64 = 0x400;
const WALL: u64 = 0x4000_0000;

/// The sockets of a checkpoint by their index among the descriptions.
pub fn all(checkpoint: &Checkpoint) -> impl Iterator<Item = (u32, &Socket)> {
    let files = checkpoint.files.iter().zip(0u32..);
    files.filter_map(|(file, index)| if let Kind::Socket(socket) = &file.kind { Some((index, socket)) } else { None })
}

/// The UNIX sockets among them.
fn unix(checkpoint: &Checkpoint) -> impl Iterator<Item = (u32, &Socket, &UnixSocket)> {
    all(checkpoint).filter_map(|(index, socket)| match &socket.family {
        Family::Unix(unix) => Some((index, socket, unix)),
        Family::Tcp(_) => None,
    })
}

/// Pids that helpers will have for a moment.
pub fn pids(checkpoint: &Checkpoint) -> BTreeSet<Pid> {
    let messages = all(checkpoint).flat_map(|(_, s)| &s.queue).filter_map(|m| m.credentials);
    all(checkpoint).filter_map(|(_, s)| unix::maker(s)).chain(messages).map(|c| c.pid).collect()
}

/// What this host will not give a socket.
pub fn conflicts(checkpoint: &Checkpoint, conflicts: &mut Vec<Refusal>) {
    for (index, socket) in all(checkpoint) {
        let holder =
            checkpoint.processes.iter().find_map(|p| Some((p.pid, p.fds.iter().find(|d| d.file == index)?.fd)));
        let (pid, object) =
            holder.map_or((checkpoint.tree.root, "socket".to_owned()), |(pid, fd)| (pid, format!("fd {fd} (socket)")));
        if let Some((sysctl, needed)) = options::too_large(&socket.options) {
            conflicts.push(Refusal {
                pid,
                object,
                reason: format!("its buffer is larger than {sysctl} allows"),
                hint: format!("set {sysctl} to {needed}, or resume as root"),
            });
        }
    }
}

/// Makes all sockets in `template`, under the numbers of their sources. `notes` gets what differs from before.
pub fn make(
    template: &mut Puppet,
    image: &Image,
    sources: &Sources,
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    let checkpoint = image.checkpoint();
    if unix(checkpoint).next().is_none() {
        return Ok(());
    }
    let host = template.host();
    let pidfd = tasks::pidfd_open(host).map_err(|e| Error::step("opening", host, e))?;
    // Streams that a wish on the command line replaces are closed, for their peers.
    let replaced: HashSet<u32> = stdio::overrides(checkpoint, options).into_keys().collect();
    let fresh = options.pids == Pids::Fresh;
    let mut work = Work {
        checkpoint,
        image,
        sources,
        fresh,
        replaced,
        template,
        pidfd,
        helper: None,
        made: HashMap::new(),
        notes,
    };
    unix::make(&mut work)?;
    for (index, socket, unix) in unix(checkpoint) {
        unix::fill(&mut work, index, socket, unix)?;
    }
    work.leave()?;
    for (index, socket, _) in unix(checkpoint) {
        let copy = work.copy(Which::File(index))?;
        unix::shut(copy, socket.shutdown).map_err(|e| Error::step("shutting down a socket", host, e))?;
        options::set_late(copy, &socket.options).map_err(|e| Error::step("setting a socket's options", host, e))?;
        let flags = checkpoint.files.get(index as usize).map_or(0, |f| f.flags);
        fds::fcntl(copy, libc::F_SETFL, flags.into()).map_err(|e| Error::step("setting file flags", host, e))?;
    }
    for index in work.replaced.clone() {
        work.close(Which::File(index))?;
    }
    Ok(())
}

/// A socket under construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Which {
    /// A description of the image.
    File(u32),
    /// The peer of one, which is to be closed.
    PeerOf(u32),
}

/// A socket that was made.
struct Made {
    /// Its number in the template.
    number: i32,
    /// Our own descriptor of it.
    copy: OwnedFd,
}

/// A process that shares the template's descriptors and has a pid for the moment.
struct Helper {
    who: Option<Credentials>,
    puppet: Puppet,
    /// Its pid as the template sees it.
    pid: u64,
}

/// Everything the making of sockets needs.
pub struct Work<'a> {
    pub checkpoint: &'a Checkpoint,
    image: &'a Image,
    sources: &'a Sources,
    /// Pids can't be chosen.
    fresh: bool,
    replaced: HashSet<u32>,
    template: &'a mut Puppet,
    pidfd: OwnedFd,
    helper: Option<Helper>,
    made: HashMap<Which, Made>,
    notes: &'a mut Vec<String>,
}

impl Work<'_> {
    /// Takes over a socket that has number `fd` in the template; one of the image gets the number of its source.
    pub fn settle(&mut self, which: Which, fd: i32) -> Result<(), Error> {
        let host = self.template.host();
        let copy = tasks::pidfd_getfd(self.pidfd.as_fd(), fd).map_err(|e| Error::step("sharing a socket", host, e))?;
        let number = match which {
            Which::File(index) if !self.replaced.contains(&index) => {
                let number = source(self.sources, index)?;
                let mut batch = self.template.batch();
                batch.call("dup3", libc::SYS_dup3, &[fd as u64, number as u64, 0]);
                batch.call("close", libc::SYS_close, &[fd as u64]);
                self.template.run(batch)?;
                number
            }
            _ => fd,
        };
        self.made.insert(which, Made { number, copy });
        Ok(())
    }

    /// Closes a socket, so that its peer sees it closed.
    pub fn close(&mut self, which: Which) -> Result<(), Error> {
        let Some(made) = self.made.remove(&which) else { return Ok(()) };
        let mut batch = self.template.batch();
        batch.call("close", libc::SYS_close, &[made.number as u64]);
        self.template.run(batch).map(drop)
    }

    /// Our own descriptor of a socket.
    pub fn copy(&self, which: Which) -> Result<BorrowedFd<'_>, Error> {
        self.get(which).map(|made| made.copy.as_fd())
    }

    fn get(&self, which: Which) -> Result<&Made, Error> {
        let missing = || Error::step("finding a socket", 0, io::Error::other("it was not made"));
        self.made.get(&which).ok_or_else(missing)
    }

    /// A process that is `who`, until another is asked for.
    pub fn helper(&mut self, who: Option<Credentials>) -> Result<&mut Puppet, Error> {
        let who = who.filter(|_| !self.fresh);
        if self.helper.as_ref().is_none_or(|h| h.who != who) {
            self.leave()?;
            self.helper = Some(self.hire(who)?);
        }
        let gone = || Error::step("making a helper", 0, io::ErrorKind::NotFound.into());
        self.helper.as_mut().map(|h| &mut h.puppet).ok_or_else(gone)
    }

    fn hire(&mut self, who: Option<Credentials>) -> Result<Helper, Error> {
        let chosen = who.map(|w| w.pid).filter(|p| p.0 > 0);
        let mut born = self.bear(chosen);
        if let (Some(pid), Err(Error::Step { .. })) = (chosen, &born) {
            self.notes.push(format!("a socket shows another pid than {pid} as its peer's (SO_PEERCRED)"));
            born = self.bear(None);
        }
        let (pid, mut puppet) = born?;
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        if let Some(who) = who.filter(|w| (w.uid, w.gid) != (uid, gid)) {
            let mut batch = puppet.batch();
            for (name, call, id) in
                [("setresgid", libc::SYS_setresgid, who.gid), ("setresuid", libc::SYS_setresuid, who.uid)]
            {
                batch.call_expecting(Expect::Anything, name, call, &[id.into(), id.into(), id.into()]);
            }
            if puppet.run(batch)?.iter().any(|&result| result != 0) {
                let Credentials { uid: wanted, .. } = who;
                self.notes.push(format!("a socket shows user {uid} instead of {wanted} as its peer's (SO_PEERCRED)"));
            }
        }
        Ok(Helper { who, puppet, pid })
    }

    /// A child of the template, and its pid as the template sees it.
    fn bear(&mut self, pid: Option<Pid>) -> Result<(u64, Puppet), Error> {
        let base = Addr(self.template.data().0 - 4096);
        let mut batch = self.template.batch();
        clone_into(&mut batch, CLONE_FILES, 0, pid);
        let (results, births) = self.template.run_with_births(batch)?;
        let none = || Error::step("making a helper", 0, io::Error::other("no birth"));
        let (pid, task) = results.last().copied().zip(births.into_iter().next()).ok_or_else(none)?;
        Ok((pid, Puppet::adopt(task, base)?))
    }

    /// The helper ends.
    fn leave(&mut self) -> Result<(), Error> {
        let Some(helper) = self.helper.take() else { return Ok(()) };
        helper.puppet.exit(0)?;
        let mut batch = self.template.batch();
        batch.call("wait4", libc::SYS_wait4, &[helper.pid, 0, WALL, 0]);
        self.template.run(batch).map(drop)
    }

    /// Sends all that waits in the queue of `to` from `from`.
    pub fn refill(&mut self, socket: &Socket, from: Which, to: Which) -> Result<(), Error> {
        let failed = |e| Error::step("filling a socket", 0, e);
        let (mut at, size) = match &socket.content {
            Some(content) => {
                self.image.blob(content.id).ok_or_else(|| failed(io::Error::other("its content is missing")))?
            }
            None => (0, 0),
        };
        let end = at.saturating_add(size);
        let before = options::send_buffer(self.copy(from)?).map_err(failed)?;
        options::widen(self.copy(from)?).map_err(failed)?;
        for message in &socket.queue {
            if message.size > end.saturating_sub(at) {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            match message.credentials {
                Some(who) => {
                    // The kernel notes the sender where the receiver wants to know. Not where the sender does: that
                    // would give it a name (net/unix/af_unix.c, unix_autobind).
                    pass_credentials(self.copy(to)?, true).map_err(failed)?;
                    self.send_as(who, from, message, at)?;
                    pass_credentials(self.copy(to)?, false).map_err(failed)?;
                }
                None => self.send(from, message, at, socket.kind == libc::SOCK_STREAM).map_err(failed)?,
            }
            at += message.size;
        }
        options::reset_send_buffer(self.copy(from)?, before).map_err(failed)
    }

    fn send(&self, from: Which, message: &Message, at: u64, stream: bool) -> io::Result<()> {
        const PIECE: u64 = 128 * 1024;
        let from = self.copy(from).map_err(io::Error::other)?;
        let mut buf = Vec::new();
        let mut done = 0;
        loop {
            let len = if stream { (message.size - done).min(PIECE) } else { message.size };
            buf.resize(len as usize, 0);
            self.image.file().read_exact_at(&mut buf, at + done)?;
            done += crate::sys::socket::send(from, &buf, None, &[])? as u64;
            if done >= message.size {
                return Ok(());
            }
        }
    }

    /// The same by a process that is its sender.
    fn send_as(&mut self, who: Credentials, from: Which, message: &Message, at: u64) -> Result<(), Error> {
        let (image, number, size) = (self.sources.image as u64, self.get(from)?.number as u64, message.size);
        let helper = self.helper(Some(who))?;
        let mut batch = helper.batch();
        // PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS
        batch.call("mmap", libc::SYS_mmap, &[0, size.max(1), 3, 0x22, u64::MAX, 0]);
        let buffer = helper.run(batch)?.last().copied().unwrap_or(0);
        let mut batch = helper.batch();
        batch.call_expecting(Expect::Exactly(size), "pread64", libc::SYS_pread64, &[image, buffer, size, at]);
        let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u64;
        let send = [number, buffer, size, flags, 0, 0];
        batch.call_expecting(Expect::Exactly(size), "sendto", libc::SYS_sendto, &send);
        batch.call("munmap", libc::SYS_munmap, &[buffer, size.max(1)]);
        helper.run(batch).map(drop)
    }
}

fn pass_credentials(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    crate::sys::socket::set_option(fd, libc::SOL_SOCKET, libc::SO_PASSCRED, &i32::from(on).to_ne_bytes())
}
