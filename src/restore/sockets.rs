//! Sockets: made in the template, before anybody else is born, by helpers that for the moment have the pids which
//! SO_PEERCRED and messages are to show. Everybody inherits them from there; what was in them we put back ourselves.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crate::image::Image;
use crate::model::fd::Kind;
use crate::model::files::Content;
use crate::model::process::Process;
use crate::model::sockets::{Credentials, Family, Message, Socket};
use crate::model::unix::{Early, UnixSocket};
use crate::model::{Addr, Checkpoint, Name, Pid, Refusal};
use crate::net::options;
use crate::sys::{self, fds, tasks};

use super::build::clone_into;
use super::fd::{Sources, source};
use super::socketfiles::{self, Elsewhere, Files};
use super::stub::{Expect, Puppet};
use super::{Error, Options, Pids, datagram, netlink, packet, stdio, tcp, unix};

const CLONE_FILES: u64 = 0x400;
const WALL: u64 = 0x4000_0000;

/// The sockets of a checkpoint by their index among the descriptions.
pub fn all(checkpoint: &Checkpoint) -> impl Iterator<Item = (u32, &Socket)> {
    let files = checkpoint.files.iter().zip(0u32..);
    files.filter_map(|(file, index)| if let Kind::Socket(socket) = &file.kind { Some((index, socket)) } else { None })
}

/// The UNIX sockets among them.
pub fn unix(checkpoint: &Checkpoint) -> impl Iterator<Item = (u32, &Socket, &UnixSocket)> {
    all(checkpoint).filter_map(|(index, socket)| match &socket.family {
        Family::Unix(unix) => Some((index, socket, unix)),
        _ => None,
    })
}

/// Pids that helpers will have for a moment.
pub fn pids(checkpoint: &Checkpoint) -> BTreeSet<Pid> {
    let gone = || unix(checkpoint).flat_map(|(.., unix)| &unix.listening).flat_map(|l| &l.gone);
    let early = unix(checkpoint).filter_map(|(.., unix)| unix.early.as_ref()).chain(gone().map(|gone| &gone.early));
    let messages = all(checkpoint).flat_map(|(_, s)| &s.queue).chain(early.flat_map(|early| &early.messages));
    let makers = all(checkpoint).filter_map(|(_, s)| unix::maker(s)).chain(gone().filter_map(|g| g.peer));
    makers.chain(messages.filter_map(|m| m.credentials)).map(|c| c.pid).collect()
}

/// Gives a socket that was made the status flags of its description.
pub fn with_flags(checkpoint: &Checkpoint, index: u32, fd: OwnedFd) -> io::Result<OwnedFd> {
    let flags = checkpoint.files.get(index as usize).map_or(0, |f| f.flags);
    fds::fcntl(fd.as_fd(), libc::F_SETFL, flags.into()).map(|_| fd)
}

/// Who has a description, and as what.
pub fn holder(checkpoint: &Checkpoint, index: u32) -> (Pid, String) {
    let of = |p: &Process| Some((p.pid, format!("fd {}", p.descriptors().find(|d| d.file == index)?.fd)));
    let nobody = || (checkpoint.tree.root, "a descriptor on its way".to_owned());
    checkpoint.processes.iter().find_map(of).unwrap_or_else(nobody)
}

/// What this host will not give a socket.
pub fn conflicts(checkpoint: &Checkpoint, conflicts: &mut Vec<Refusal>) {
    let mut largest = None;
    for (index, socket) in all(checkpoint) {
        let largest = largest.get_or_insert_with(options::Largest::read);
        if let Some((sysctl, needed)) = largest.exceeded(&socket.options) {
            let (pid, fd) = holder(checkpoint, index);
            conflicts.push(Refusal {
                pid,
                object: format!("{fd} (socket)"),
                reason: format!("its buffer is larger than {sysctl} allows"),
                hint: format!("set {sysctl} to {needed}, or resume as root"),
            });
        }
    }
    socketfiles::conflicts(checkpoint, conflicts);
}

/// Who has a socket, and how to call it.
pub fn object(checkpoint: &Checkpoint, index: u32, what: &str) -> (Pid, String) {
    let (pid, fd) = holder(checkpoint, index);
    (pid, format!("{fd} ({what})"))
}

/// Makes all that belong to a network, by their index among the descriptions. `notes` gets what is lost.
pub fn networked(image: &Image, options: &Options, notes: &mut Vec<String>) -> Result<HashMap<u32, OwnedFd>, Error> {
    let mut made = tcp::make(image, options.sockets)?;
    made.extend(datagram::make(image, notes)?);
    made.extend(netlink::make(image.checkpoint())?);
    made.extend(packet::make(image.checkpoint())?);
    Ok(made)
}

/// The one at this index, which was made before.
pub fn take(made: &mut HashMap<u32, OwnedFd>, index: u32) -> Result<OwnedFd, Error> {
    made.remove(&index).ok_or_else(|| Error::step("finding a socket", 0, io::ErrorKind::NotFound.into()))
}

/// Makes all sockets in `template`, under the numbers of their sources. `notes` gets what differs from before. The files
/// of sockets that were made go with the result.
pub fn make(
    template: &mut Puppet,
    image: &Image,
    sources: &Sources,
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<Files, Error> {
    let checkpoint = image.checkpoint();
    if unix(checkpoint).next().is_none() {
        return Ok(Files::default());
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
        addresses: HashMap::new(),
        strangers: Vec::new(),
        elsewhere: None,
        rooted: None,
        files: Files::default(),
        notes,
    };
    unix::make(&mut work)?;
    work.leave()?;
    if let Some(helper) = work.rooted.take() {
        work.end(helper)?;
    }
    for (index, socket, _) in unix(checkpoint) {
        let copy = work.copy(Which::File(index))?;
        sys::socket::shut(copy, socket.shutdown).map_err(|e| Error::step("shutting down a socket", host, e))?;
        options::set_early(copy, &socket.options)
            .and_then(|()| options::set_late(copy, &socket.options))
            .map_err(|e| Error::step("setting a socket's options", host, e))?;
        let flags = checkpoint.files.get(index as usize).map_or(0, |f| f.flags);
        fds::fcntl(copy, libc::F_SETFL, flags.into()).map_err(|e| Error::step("setting file flags", host, e))?;
    }
    for index in work.replaced.clone() {
        work.close(Which::File(index))?;
    }
    Ok(std::mem::take(&mut work.files))
}

/// A socket under construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Which {
    /// A description of the image.
    File(u32),
    /// The peer of one, which is to be closed.
    PeerOf(u32),
    /// The sender of messages who is gone, by its place among [`Work::strangers`].
    Stranger(u32),
    /// One of ours for the moment.
    Door,
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
    /// Where sockets with a name are found.
    pub addresses: HashMap<Which, Vec<u8>>,
    /// The names of senders who are gone.
    strangers: Vec<Option<Name>>,
    elsewhere: Option<Elsewhere>,
    /// A helper whose root that is.
    rooted: Option<Helper>,
    /// Files made for sockets.
    pub files: Files,
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
        self.addresses.remove(&which);
        let mut batch = self.template.batch();
        batch.call("close", libc::SYS_close, &[made.number as u64]);
        self.template.run(batch).map(drop)
    }

    /// Our own descriptor of a socket.
    pub fn copy(&self, which: Which) -> Result<BorrowedFd<'_>, Error> {
        self.get(which).map(|made| made.copy.as_fd())
    }

    /// Whether a socket was made.
    pub fn has(&self, which: Which) -> bool {
        self.made.contains_key(&which)
    }

    /// Its number in the template.
    pub fn number(&self, which: Which) -> Result<i32, Error> {
        self.get(which).map(|made| made.number)
    }

    /// Tells a person something.
    pub fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The place of a sender who is gone.
    pub fn strangers(&mut self, name: Option<&Name>) -> u32 {
        let known = self.strangers.iter().position(|n| n.as_ref() == name);
        known.unwrap_or_else(|| {
            self.strangers.push(name.cloned());
            self.strangers.len() - 1
        }) as u32
    }

    /// They go.
    pub fn dismiss_strangers(&mut self) -> Result<(), Error> {
        (0..self.strangers.len() as u32).try_for_each(|n| self.close(Which::Stranger(n)))
    }

    /// A place for files of sockets that nobody is to find.
    pub fn elsewhere(&mut self) -> io::Result<&mut Elsewhere> {
        match self.elsewhere {
            Some(ref mut elsewhere) => Ok(elsewhere),
            None => Ok(self.elsewhere.insert(Elsewhere::new()?)),
        }
    }

    /// A process with that place as its root, if it may have it.
    pub fn rooted_elsewhere(&mut self) -> Result<io::Result<&mut Puppet>, Error> {
        if self.rooted.is_none() {
            let root = match self.elsewhere() {
                Ok(elsewhere) => Name::from(elsewhere.root()),
                Err(e) => return Ok(Err(e)),
            };
            let (pid, mut puppet) = self.bear(None)?;
            let mut batch = puppet.batch();
            let at = batch.path(&root);
            batch.call("chdir", libc::SYS_chdir, &[at.0]);
            batch.call_expecting(Expect::Anything, "umask", libc::SYS_umask, &[0]);
            batch.call_expecting(Expect::Anything, "chroot", libc::SYS_chroot, &[at.0]);
            let changed = unix::result(puppet.run(batch)?.last());
            let helper = Helper { who: None, puppet, pid };
            if let Err(e) = changed {
                self.end(helper)?;
                return Ok(Err(e));
            }
            self.rooted = Some(helper);
        }
        let gone = || Error::step("making a helper", 0, io::ErrorKind::NotFound.into());
        self.rooted.as_mut().map(|h| Ok(&mut h.puppet)).ok_or_else(gone)
    }

    /// Has a process do something with the descriptor `number` that finds the directory `dir` under `fd`: in a table of its
    /// own, where it is told the number that the descriptor has there.
    pub fn with_directory<T>(
        &mut self,
        dir: &Name,
        fd: i32,
        number: i32,
        what: impl FnOnce(&mut Puppet, i32) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (pid, mut puppet) = self.bear(None)?;
        let mut batch = puppet.batch();
        batch.call("unshare", libc::SYS_unshare, &[CLONE_FILES]);
        // It may be what is under `fd` by now.
        batch.call("dup", libc::SYS_dup, &[number as u64]);
        let at = batch.path(dir);
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        batch.call("openat", libc::SYS_openat, &[libc::AT_FDCWD as u64, at.0, flags as u64, 0]);
        let results = puppet.run(batch)?;
        let result = |at: usize| results.get(at).copied().unwrap_or(0);
        let (copy, opened) = (result(1), result(2));
        let number = if number == fd { copy as i32 } else { number };
        let mut batch = puppet.batch();
        batch.call("dup2", libc::SYS_dup2, &[opened, fd as u64]);
        puppet.run(batch)?;
        let done = what(&mut puppet, number)?;
        self.end(Helper { who: None, puppet, pid })?;
        Ok(done)
    }

    /// The first process that has a description, to do something in its name.
    pub fn holder_as(&self, index: u32) -> Option<Credentials> {
        let process = self.checkpoint.processes.iter().find(|p| p.descriptors().any(|d| d.file == index))?;
        let ids = process.threads.first()?;
        Some(Credentials { pid: process.pid, uid: ids.credentials.uid[1], gid: ids.credentials.gid[1] })
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

    /// A process that shares the descriptors, whoever it is.
    pub fn anybody(&mut self) -> Result<&mut Puppet, Error> {
        let who = self.helper.as_ref().and_then(|h| h.who);
        self.helper(who)
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
        self.helper.take().map_or(Ok(()), |helper| self.end(helper))
    }

    fn end(&mut self, helper: Helper) -> Result<(), Error> {
        helper.puppet.exit(0)?;
        let mut batch = self.template.batch();
        batch.call("wait4", libc::SYS_wait4, &[helper.pid, 0, WALL, 0]);
        self.template.run(batch).map(drop)
    }

    /// Sends to `to` all that waited in its queue. `from` says of each message who sends it, and to which address if they
    /// are not connected.
    pub fn refill(
        &mut self,
        socket: &Socket,
        to: Which,
        from: impl FnMut(&Message) -> Result<(Which, Option<Vec<u8>>), Error>,
    ) -> Result<(), Error> {
        let (urgent, marks) = places(socket);
        let (kind, messages, content) = (socket.kind, &socket.queue[..], socket.content);
        self.pour(&Pour { kind, messages, content, urgent, marks }, Some(to), from)
    }

    /// Sends what `from` has sent over a connection that waits to be accepted.
    pub fn send_early(&mut self, from: Which, kind: i32, early: &Early) -> Result<(), Error> {
        let (messages, content, urgent) = (&early.messages[..], early.content, early.urgent);
        self.pour(&Pour { kind, messages, content, urgent, marks: &[] }, None, |_| Ok((from, None)))
    }

    /// Nobody has got the socket that messages which come too early go to.
    fn pour(
        &mut self,
        pour: &Pour<'_>,
        to: Option<Which>,
        mut from: impl FnMut(&Message) -> Result<(Which, Option<Vec<u8>>), Error>,
    ) -> Result<(), Error> {
        let failed = |e| Error::step("filling a socket", 0, e);
        let Pour { urgent, marks, .. } = *pour;
        let (mut at, size) = match pour.content {
            Some(content) => {
                self.image.blob(content.id).ok_or_else(|| failed(io::Error::other("its content is missing")))?
            }
            None => (0, 0),
        };
        let end = at.saturating_add(size);
        let begin = at;
        let mut widened = HashMap::new();
        for message in pour.messages {
            let (from, address) = from(message)?;
            if let Entry::Vacant(entry) = widened.entry(from) {
                entry.insert(options::send_buffer(self.copy(from)?).map_err(failed)?);
                options::widen(self.copy(from)?).map_err(failed)?;
            }
            if message.size > end.saturating_sub(at) {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            let address = address.as_deref();
            let place = at - begin;
            if let Some(to) = to.filter(|_| marks.contains(&place)) {
                self.mark(from, to)?;
            }
            let how = match pour.kind {
                libc::SOCK_STREAM if urgent == Some(place) => How::Urgent,
                libc::SOCK_STREAM => How::InPieces,
                _ => How::Whole,
            };
            match (message.credentials, to) {
                // The kernel notes the sender where the receiver wants to know. Not where the sender does: that
                // would give it a name (net/unix/af_unix.c, unix_autobind).
                (Some(who), Some(to)) => {
                    pass_credentials(self.copy(to)?, true).map_err(failed)?;
                    self.send_as(who, from, address, message, (at, how))?;
                    pass_credentials(self.copy(to)?, false).map_err(failed)?;
                }
                // And where there is no receiver yet (unix_maybe_add_creds).
                (Some(who), None) => self.send_as(who, from, address, message, (at, how))?,
                (None, _) => self.send(from, address, message, (at, how))?,
            }
            at += message.size;
        }
        widened
            .into_iter()
            .try_for_each(|(from, before)| options::reset_send_buffer(self.copy(from)?, before).map_err(failed))
    }

    /// Our own descriptors of what comes with a message.
    fn rights(&self, message: &Message) -> Result<Vec<OwnedFd>, Error> {
        let host = self.template.host();
        let copy = |&index: &u32| match self.made.get(&Which::File(index)) {
            Some(made) => made.copy.try_clone().map_err(|e| Error::step("sharing a descriptor", host, e)),
            None => {
                let number = source(self.sources, index)?;
                tasks::pidfd_getfd(self.pidfd.as_fd(), number).map_err(|e| Error::step("sharing a descriptor", host, e))
            }
        };
        message.rights.iter().map(copy).collect()
    }

    /// Leaves the place of an urgent byte that has been read out of band.
    pub fn mark(&self, from: Which, to: Which) -> Result<(), Error> {
        let failed = |e| Error::step("filling a socket", 0, e);
        crate::sys::socket::send_urgent(self.copy(from)?, 0, &[]).map_err(failed)?;
        crate::sys::socket::receive_urgent(self.copy(to)?).map(drop).map_err(failed)
    }

    fn send(&self, from: Which, to: Option<&[u8]>, message: &Message, (at, how): (u64, How)) -> Result<(), Error> {
        const PIECE: u64 = 128 * 1024;
        let failed = |e| Error::step("filling a socket", 0, e);
        let from = self.copy(from)?;
        let rights = self.rights(message)?;
        let mut rights: Vec<BorrowedFd<'_>> = rights.iter().map(AsFd::as_fd).collect();
        let mut buf = Vec::new();
        let mut done = 0;
        loop {
            let len = if how == How::InPieces { (message.size - done).min(PIECE) } else { message.size };
            buf.resize(len as usize, 0);
            self.image.file().read_exact_at(&mut buf, at + done).map_err(failed)?;
            if let (How::Urgent, [byte]) = (how, buf.as_slice()) {
                return crate::sys::socket::send_urgent(from, *byte, &rights).map_err(failed);
            }
            done += crate::sys::socket::send(from, &buf, to, &rights).map_err(failed)? as u64;
            // They come with the first byte.
            rights.clear();
            if done >= message.size {
                return Ok(());
            }
        }
    }

    /// The same by a process that is its sender.
    fn send_as(
        &mut self,
        who: Credentials,
        from: Which,
        to: Option<&[u8]>,
        message: &Message,
        (at, how): (u64, How),
    ) -> Result<(), Error> {
        let (image, number, size) = (self.sources.image as u64, self.get(from)?.number as u64, message.size);
        let number_of = |&index: &u32| match self.made.get(&Which::File(index)) {
            Some(made) => Ok(made.number),
            None => source(self.sources, index),
        };
        let rights = message.rights.iter().map(number_of).collect::<Result<Vec<i32>, Error>>()?;
        let helper = self.helper(Some(who))?;
        let mut batch = helper.batch();
        // PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS
        batch.call("mmap", libc::SYS_mmap, &[0, size.max(1), 3, 0x22, u64::MAX, 0]);
        let buffer = helper.run(batch)?.last().copied().unwrap_or(0);
        let mut batch = helper.batch();
        batch.call_expecting(Expect::Exactly(size), "pread64", libc::SYS_pread64, &[image, buffer, size, at]);
        let name = to.map_or(0, |to| batch.data(to).0);
        let part = batch.data(&[buffer, size].map(u64::to_ne_bytes).concat()).0;
        let mut control = Vec::new();
        if !rights.is_empty() {
            control.extend((16 + 4 * rights.len() as u64).to_ne_bytes());
            control.extend([libc::SOL_SOCKET, libc::SCM_RIGHTS].into_iter().chain(rights).flat_map(i32::to_ne_bytes));
        }
        let controls = batch.data(&control).0;
        let name_len = to.map_or(0, <[u8]>::len) as u64;
        let header = [name, name_len, part, 1, controls, control.len() as u64, 0];
        let header = batch.data(&header.map(u64::to_ne_bytes).concat()).0;
        let urgent = if how == How::Urgent { libc::MSG_OOB } else { 0 };
        let flags = (urgent | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u64;
        batch.call_expecting(Expect::Exactly(size), "sendmsg", libc::SYS_sendmsg, &[number, header, flags]);
        batch.call("munmap", libc::SYS_munmap, &[buffer, size.max(1)]);
        helper.run(batch).map(drop)
    }
}

/// How a message is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// In one go.
    Whole,
    /// As many bytes at a time as it pleases.
    InPieces,
    /// Its only byte as urgent data.
    Urgent,
}

/// Messages on their way into a socket.
#[derive(Debug)]
struct Pour<'a> {
    kind: i32,
    messages: &'a [Message],
    content: Option<Content>,
    urgent: Option<u64>,
    marks: &'a [u64],
}

/// Where urgent data of a UNIX stream waits, and where some has been.
fn places(socket: &Socket) -> (Option<u64>, &[u64]) {
    match &socket.family {
        Family::Unix(unix) => (unix.urgent, &unix.marks),
        _ => (None, &[]),
    }
}

fn pass_credentials(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    crate::sys::socket::set_option(fd, libc::SOL_SOCKET, libc::SO_PASSCRED, &i32::from(on).to_ne_bytes())
}
