//! Descriptors, and the open file descriptions behind them.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use crate::model::Pid;
use crate::model::fd::{Descriptor, Kind, OpenFile, Owner};
use crate::model::locks::Lock;
use crate::proc::{self, fdinfo::Detail, fdinfo::FdInfo, many};
use crate::sys::{fds, tasks};
use crate::tracer::Held;

use super::contents::Contents;
use super::keep::SaveFiles;
use super::mapped::Mapped;
use super::refusals::{CLOSE, Refusals};
use super::sharing::first_twins;
use super::view::{Place, View};
use super::{
    Error, Inside, epoll, eventfd, fanotify, files, flight, inotify, linked, locks, opath, pidfd, pipes, procfs, pty,
    signalfd, sockets, sqpoll, stdio, timerfd, uring,
};

const O_CLOEXEC: u32 = 0o2_000_000;
/// Major numbers of /dev/pts/N (Documentation/admin-guide/devices.txt).
const SLAVES: std::ops::RangeInclusive<u32> = 136..=143;
const O_PATH: u32 = 0o10_000_000;
const F_GETSIG: i32 = 11;

/// The step that [`owner`] is.
pub(super) const OWNER: &str = "asking for a descriptor's owner";
/// So many descriptors are worth a thread.
const LEAST: usize = 32;

/// One descriptor as seen from outside.
#[derive(Debug)]
pub(super) struct SeenFd {
    /// Index of its process among the held ones; [`NOBODY`] if it is on its way through a socket.
    pub process: usize,
    /// Index of its thread, if it is in a table of a thread's own.
    pub thread: Option<usize>,
    /// A living thread that has it, as we see it: the leader, if that lives and has it. If nobody has we are that.
    pub host: i32,
    /// As it sees itself.
    pub pid: Pid,
    pub fd: i32,
    pub info: FdInfo,
    /// What the link in /proc leads to.
    pub link: Vec<u8>,
    pub meta: Metadata,
    /// See [`SeenFd::place`].
    place: OnceLock<Place>,
    /// Our own descriptor, of one that is on its way: it has number `fd`.
    pub own: Option<OwnedFd>,
}

/// Whose a table of descriptors is: a process, by its index among the held ones, or one of its threads, by its index there.
pub(super) type TableOf = (usize, Option<usize>);

/// Of what a link in /proc leads to. One kind of file has nothing to tell: the directory of descriptors of a process that
/// has ended (fs/proc/fd.c, proc_fd_getattr). Any other of /proc says as much of it.
fn meta(host: i32, path: &str) -> io::Result<Metadata> {
    std::fs::metadata(format!("/proc/{path}")).or_else(|error| {
        let of_the_dead = error.kind() == io::ErrorKind::NotFound && file_system(path)? == procfs::MAGIC;
        if of_the_dead { std::fs::metadata(format!("/proc/{host}/root/proc")) } else { Err(error) }
    })
}

/// The kind of file system (linux/magic.h) that a link in /proc leads to.
pub(super) fn file_system(path: &str) -> io::Result<i64> {
    Ok(nix::sys::statfs::statfs(format!("/proc/{path}").as_str())?.filesystem_type().0 as i64)
}

/// The process of a descriptor that no process has.
pub(super) const NOBODY: usize = usize::MAX;

impl SeenFd {
    /// One of ours, of a description that is on its way through a socket to process `pid`.
    pub fn on_its_way(own: OwnedFd, pid: Pid) -> Result<SeenFd, Error> {
        let (host, fd) = (std::process::id() as i32, own.as_raw_fd());
        Ok(SeenFd { own: Some(own), ..SeenFd::at((NOBODY, None), host, pid, fd)? })
    }

    fn at((process, thread): TableOf, host: i32, pid: Pid, fd: i32) -> Result<SeenFd, Error> {
        let path = format!("{host}/fd/{fd}");
        let meta = meta(host, &path).map_err(Error::of(host, "looking at a descriptor"))?;
        let info = proc::fdinfo(host, fd).map_err(Error::proc(host))?;
        // What can be read and written to is no socket's file, but the socket (net/socket.c, sockfs_dname).
        let socket = meta.mode() & libc::S_IFMT == libc::S_IFSOCK && info.flags & O_PATH == 0;
        let link = if socket {
            format!("socket:[{}]", meta.ino()).into_bytes()
        } else {
            proc::link(&path).map_err(Error::proc(host))?
        };
        Ok(SeenFd { process, thread, host, pid, fd, info, link, meta, place: OnceLock::new(), own: None })
    }

    /// Whether it is a file of a kind that has a name. What is not to be found in /proc belongs to a process that has ended.
    pub fn is_named(&self) -> bool {
        let kind = self.meta.mode() & libc::S_IFMT;
        let file = matches!(kind, libc::S_IFREG | libc::S_IFDIR | libc::S_IFIFO);
        file && self.link.starts_with(b"/") && !self.link.starts_with(b"/proc/")
    }

    /// Where its name leads. One that is gone may be looked for in its directory: then those who watch that are told.
    pub fn place(&self, view: &View) -> &Place {
        self.place.get_or_init(|| view.find(&self.link, self.meta.dev(), self.meta.ino()))
    }

    /// The table that it is in.
    pub fn table(&self) -> TableOf {
        (self.process, self.thread)
    }

    /// Status flags without close-on-exec.
    pub fn flags(&self) -> u32 {
        self.info.flags & !O_CLOEXEC
    }

    /// Whether it is open in name only.
    pub fn only_path(&self) -> bool {
        self.flags() & O_PATH != 0
    }

    /// Its type, as `S_IFMT` bits; 0 of what has none (anonymous inodes) or is open in name only.
    pub fn file_type(&self) -> u32 {
        if self.only_path() { 0 } else { self.meta.mode() & libc::S_IFMT }
    }

    /// Device and inode.
    pub fn key(&self) -> (u64, u64) {
        (self.meta.dev(), self.meta.ino())
    }

    /// O_RDONLY or O_RDWR.
    pub fn reads(&self) -> bool {
        self.flags() & 3 != 1
    }

    /// O_WRONLY or O_RDWR.
    pub fn writes(&self) -> bool {
        matches!(self.flags() & 3, 1 | 2)
    }

    /// `fd 7 (WHAT)`.
    pub fn object(&self, what: &str) -> String {
        if self.own.is_some() {
            format!("{what} on its way through a socket")
        } else {
            format!("fd {} ({what})", self.fd)
        }
    }

    /// The link as text.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.link).into_owned()
    }

    /// Our own descriptor of the same description. It shares offset and flags with the program's.
    pub fn copy(&self, held: &Held) -> Result<OwnedFd, Error> {
        if let Some(own) = &self.own {
            return own.try_clone().map_err(Error::of(self.host, "copying a descriptor"));
        }
        let process = held.processes.get(self.process).ok_or(Error::Vanished { pid: self.host })?;
        process.descriptor(self.thread, self.fd).map_err(Error::of(self.host, "copying a descriptor"))
    }
}

/// One open file description: every descriptor of it in the tree, as indices into the list of those seen.
#[derive(Debug)]
pub(super) struct Group {
    pub holders: Vec<usize>,
    /// Set for a terminal or socket outside: its standard stream; for others found elsewhere.
    pub role: Option<i32>,
}

impl Group {
    /// Whether it is among those that are settled, which are known by their first holder.
    fn is_in(&self, settled: &HashMap<usize, Kind>) -> bool {
        self.holders.first().is_some_and(|first| settled.contains_key(first))
    }
}

/// What came of looking at the descriptors.
#[derive(Debug, Default)]
pub(super) struct Captured {
    pub files: Vec<OpenFile>,
    /// Of each table.
    pub descriptors: HashMap<TableOf, Vec<Descriptor>>,
    /// Likewise.
    pub locks: HashMap<TableOf, Vec<Lock>>,
    /// Descriptions of rings of io_uring, by their inodes.
    pub rings: HashMap<u64, u32>,
    /// Credentials that only the program itself can ask for.
    pub asks: Vec<sockets::Ask>,
    /// Descriptors of which only the program itself can tell whether they are closed on exec.
    pub doubtful: Vec<(TableOf, i32)>,
    /// Whether somebody is in the middle of a file in /proc that is of a process.
    pub half_read: bool,
}

/// All descriptors of the living processes; a table that several share, of the first of them.
pub(super) fn look(held: &Held, inside: &Inside) -> Result<Vec<SeenFd>, Error> {
    let mut all = Vec::new();
    let shared = |index: usize| inside.shares.get(&index).is_some_and(|s| s.descriptors.is_some());
    for (index, p) in held.processes.iter().enumerate().filter(|(_, p)| !p.threads.is_empty()) {
        let own = p.threads.iter().enumerate().filter(|(_, t)| inside.tables.contains(&t.host));
        let own = own.map(|(thread, t)| ((index, Some(thread)), t.host));
        let whole = (!shared(index)).then_some(((index, None), p.live()));
        for (table, host) in whole.into_iter().chain(own) {
            all.extend(proc::fds(host).map_err(Error::proc(host))?.into_iter().map(|fd| (table, host, p.pid, fd)));
        }
    }
    let mut seen = many::each(&all, LEAST, |&(table, host, pid, fd)| SeenFd::at(table, host, pid, fd))?;
    for s in &mut seen {
        if matches!(&s.info.detail, Detail::IoUring(ring) if ring.sq_thread.is_some()) {
            sqpoll::wait_until_quiet(s.copy(held)?.as_fd());
            *s = SeenFd::at(s.table(), s.host, s.pid, s.fd)?;
        }
    }
    Ok(seen)
}

/// Groups descriptors by description. Only those that could be the same by what is seen of them are compared.
fn group(seen: &[SeenFd]) -> Result<Vec<Group>, Error> {
    type Key<'a> = ((u64, u64), u32, u64, &'a [u8], Option<i64>);
    let mut candidates: HashMap<Key<'_>, Vec<(usize, &SeenFd)>> = HashMap::new();
    for (index, s) in seen.iter().enumerate() {
        let id = if let Detail::Eventfd { id, .. } = s.info.detail { id } else { None };
        candidates.entry((s.key(), s.flags(), s.info.pos, &s.link, id)).or_default().push((index, s));
    }
    let mut first_of: Vec<usize> = (0..seen.len()).collect();
    for alike in candidates.values() {
        let compare = |(_, a): &(usize, &SeenFd), (_, b): &(usize, &SeenFd)| {
            tasks::kcmp(a.host, b.host, tasks::Kcmp::File, a.fd, b.fd)
        };
        let host = alike.first().map_or(0, |(_, s)| s.host);
        let firsts = first_twins(alike, compare).map_err(Error::of(host, "comparing descriptors"))?;
        for ((index, _), first) in alike.iter().zip(firsts) {
            if let (Some(of), Some((first, _))) = (first_of.get_mut(*index), alike.get(first)) {
                *of = *first;
            }
        }
    }
    let mut groups: Vec<Group> = Vec::new();
    let mut group_of: HashMap<usize, usize> = HashMap::new();
    for (index, first) in first_of.into_iter().enumerate() {
        match group_of.get(&first).and_then(|group| groups.get_mut(*group)) {
            Some(group) => group.holders.push(index),
            None => {
                group_of.insert(index, groups.len());
                groups.push(Group { holders: vec![index], role: None });
            }
        }
    }
    Ok(groups)
}

/// Everything the capture of descriptions needs.
#[derive(Debug)]
pub(super) struct Work<'a> {
    pub held: &'a Held,
    pub view: &'a View,
    pub seen: &'a [SeenFd],
    pub mapped: &'a mut Mapped,
    pub keep: &'a SaveFiles,
    pub contents: &'a mut Contents,
    pub refusals: &'a mut Refusals,
    /// Names of files that are watched by inotify or fanotify, by device and inode.
    pub watched: HashMap<(u64, u64), Vec<u8>>,
    /// Present names of files that were opened by another, likewise.
    pub linked: HashMap<(u64, u64), Vec<u8>>,
    /// New sockets to compare others with.
    pub fresh: sockets::FreshOnes,
    /// Kinds of file systems (linux/magic.h), by the ids of their mounts.
    pub file_systems: HashMap<i32, i64>,
    /// Whether somebody is in the middle of a file in /proc.
    pub half_read: bool,
    /// Whether queues of connections that nobody has accepted are looked into.
    pub queues: bool,
}

/// What is known of files.
#[derive(Debug)]
pub(super) struct Files<'a> {
    pub view: &'a View,
    pub mapped: &'a mut Mapped,
    /// Contents of which of them are wanted.
    pub keep: &'a SaveFiles,
}

/// Captures every description of the tree, given all descriptors. `root` is the index of the root among the held processes.
pub(super) fn capture(
    held: &Held,
    root: usize,
    inside: &Inside,
    mut seen: Vec<SeenFd>,
    (files, queues): (Files<'_>, bool),
    contents: &mut Contents,
    refusals: &mut Refusals,
) -> Result<Captured, Error> {
    let mut found = sockets::find(held, &mut seen, root)?;
    let ptys = pty::find(held, &seen)?;
    let ours = |i| ptys.ends.contains_key(&i) || seen.get(i).is_some_and(|s| found.ours.contains(&s.meta.ino()));
    let groups = stdio::split(&seen, group(&seen)?, ours);
    let (watched, linked, fresh) = (HashMap::new(), HashMap::new(), sockets::FreshOnes::default());
    let Files { view, mapped, keep } = files;
    let mut work = Work {
        held,
        view,
        seen: &seen,
        mapped,
        keep,
        contents,
        refusals,
        watched,
        linked,
        fresh,
        file_systems: HashMap::new(),
        half_read: false,
        queues,
    };
    let before = inotify::Before::new(&work, &groups)?;
    work.watched = before.names(&work, seen.iter().flat_map(fanotify::files))?;
    many::all(&seen, LEAST, |s| {
        if s.is_named() {
            s.place(view);
        }
    });
    work.linked = linked::find(&mut work)?;
    let roles = stdio::roles(&seen, root);
    let mut settled = pipes::capture(&mut work, &groups, &roles)?;
    settled.extend(pty::capture(&mut work, &groups, ptys, inside)?);
    let mut out = Captured { locks: locks::capture(&mut work, &groups), ..Captured::default() };
    // Of the index of each description that an epoll may watch, before the refused ones leave gaps: a refusal ends
    // the save anyway.
    let mut file_of = HashMap::new();
    for (index, group) in groups.iter().enumerate() {
        for &holder in &group.holders {
            file_of.insert(holder, index as u32);
        }
    }
    let mut sockets = sockets::capture(&mut work, &groups, &mut found, inside, &file_of)?;
    sockets.kinds.extend(settled);
    let mut settled = std::mem::take(&mut sockets.kinds);
    out.asks = sockets.asks;
    let firsts: Vec<(&Group, &SeenFd)> =
        groups.iter().filter_map(|group| Some((group, seen.get(*group.holders.first()?)?))).collect();
    // All that may look into directories comes before those that tell of it.
    let mut kinds: Vec<Option<Kind>> = std::iter::repeat_with(|| None).take(firsts.len()).collect();
    let mut each = |work: &mut Work<'_>, told: bool| {
        for ((group, first), of) in firsts.iter().zip(&mut kinds).filter(|((_, first), _)| inotify::is(first) == told) {
            // A socket that is ours and not settled was refused.
            if sockets::is_socket(first) && found.ours.contains(&first.meta.ino()) && !group.is_in(&settled) {
                continue;
            }
            *of = kind(work, group, first, &roles, &mut settled, &file_of)?;
        }
        Ok::<_, Error>(())
    };
    each(&mut work, false)?;
    before.restore(&work)?;
    each(&mut work, true)?;
    let owners = many::each(&firsts, LEAST, |(group, first)| {
        match group.holders.first().and_then(|first| sockets.owners.get(first)) {
            Some(owner) => Ok(*owner),
            None => owner(&first.copy(held)?, inside).map_err(Error::of(first.host, OWNER)),
        }
    })?;
    for (((group, first), owner), kind) in firsts.into_iter().zip(owners).zip(kinds) {
        if let Some(kind) = kind {
            flight::check(&mut work, group, first, &kind);
            out.files.push(OpenFile { flags: files::flags(first), owner, kind });
        }
    }
    for (index, s) in seen.iter().enumerate() {
        let Some(&file) = file_of.get(&index).filter(|_| s.own.is_none()) else { continue };
        if s.link == uring::NAME {
            out.rings.insert(s.meta.ino(), file);
        }
        let cloexec = s.info.flags & O_CLOEXEC != 0;
        if cloexec && keeps_cloexec(held, s)? {
            out.doubtful.push((s.table(), s.fd));
        }
        out.descriptors.entry(s.table()).or_default().push(Descriptor { fd: s.fd, cloexec, file });
    }
    out.half_read = work.half_read;
    Ok(out)
}

/// Whether a description has O_CLOEXEC as a status flag, which /proc then shows of every descriptor: a slave that was
/// opened with it through its master (ptm_open_peer in drivers/tty/pty.c).
fn keeps_cloexec(held: &Held, s: &SeenFd) -> Result<bool, Error> {
    let slave = s.file_type() == libc::S_IFCHR && SLAVES.contains(&libc::major(s.meta.rdev()));
    if !slave {
        return Ok(false);
    }
    let flags = fds::fcntl(s.copy(held)?.as_fd(), libc::F_GETFL, 0);
    Ok(flags.map_err(Error::of(s.host, "asking for a descriptor's flags"))? as u32 & O_CLOEXEC != 0)
}

/// Asks the program itself which of the doubtful descriptors are closed on exec.
pub(super) fn ask(held: &mut Held, captured: &mut Captured) -> Result<(), Error> {
    for (table, fd) in &captured.doubtful {
        let Some(process) = held.processes.get_mut(table.0) else { continue };
        let args = [*fd as u64, libc::F_GETFD as u64, 0, 0, 0, 0];
        let flags = process.remote(table.1.unwrap_or(0))?.call("fcntl F_GETFD", libc::SYS_fcntl, args)?;
        let descriptors = captured.descriptors.get_mut(table).into_iter().flatten();
        for descriptor in descriptors.filter(|d| d.fd == *fd) {
            descriptor.cloexec = flags & libc::FD_CLOEXEC as u64 != 0;
        }
    }
    Ok(())
}

/// What a description is; `None` if it was refused.
fn kind(
    work: &mut Work<'_>,
    group: &Group,
    s: &SeenFd,
    roles: &stdio::Roles,
    settled: &mut HashMap<usize, Kind>,
    file_of: &HashMap<usize, u32>,
) -> Result<Option<Kind>, Error> {
    if s.only_path() {
        return opath::capture(work, s);
    }
    // Pipes and sockets are settled as a whole.
    if let Some(kind) = group.holders.first().and_then(|i| settled.remove(i)) {
        return Ok(Some(kind));
    }
    match s.file_type() {
        libc::S_IFIFO => Ok(None),
        libc::S_IFSOCK | libc::S_IFCHR => stdio::capture(work, group, s, roles),
        _ if s.link.starts_with(b"anon_inode:") => anonymous(work, s, file_of),
        libc::S_IFREG | libc::S_IFDIR => files::capture(work, s),
        _ => {
            work.refusals.add(s.pid, s.object(&s.name()), "block devices are not supported", CLOSE);
            Ok(None)
        }
    }
}

/// Kernel objects without a file.
fn anonymous(work: &mut Work<'_>, s: &SeenFd, file_of: &HashMap<usize, u32>) -> Result<Option<Kind>, Error> {
    let name = s.link.strip_prefix(b"anon_inode:").unwrap_or_default();
    Ok(match (&s.info.detail, name) {
        (Detail::Eventfd { count, semaphore, .. }, _) => Some(Kind::Eventfd(eventfd::capture(*count, *semaphore))),
        (Detail::Timerfd(timer), _) => Some(Kind::Timerfd(timerfd::capture(work.held, s, timer)?)),
        (Detail::Signalfd(mask), _) => Some(Kind::Signalfd(signalfd::capture(*mask))),
        (Detail::Pidfd(of), _) => pidfd::capture(work, s, *of)?,
        (Detail::Inotify(watches), _) => inotify::capture(work, s, watches)?,
        (Detail::None, b"inotify") => inotify::capture(work, s, &[])?,
        (Detail::Fanotify(group), _) => fanotify::capture(work, s, group)?,
        (Detail::Epoll(watches), _) => epoll::capture(work, s, watches, file_of)?.map(Kind::Epoll),
        // One that watches nothing has no lines of its own.
        (Detail::None, b"[eventpoll]") => epoll::capture(work, s, &[], file_of)?.map(Kind::Epoll),
        (Detail::IoUring(ring), _) => uring::capture(work, s, Some(ring), file_of)?,
        (Detail::None, b"[io_uring]") => uring::capture(work, s, None, file_of)?,
        (_, name) => {
            let name = name.strip_prefix(b"[").and_then(|n| n.strip_suffix(b"]")).unwrap_or(name);
            let hint = match name {
                b"perf_event" => "save it when its measurement (perf) has ended",
                b"userfaultfd" => "run it without what serves its page faults, or save it when that is done",
                _ => CLOSE,
            };
            work.refusals.add(s.pid, s.object(&String::from_utf8_lossy(name)), "not supported", hint);
            None
        }
    })
}

/// Who gets SIGIO, if somebody of the tree does.
pub(super) fn owner(copy: &OwnedFd, inside: &Inside) -> std::io::Result<Option<Owner>> {
    let (kind, host) = match fds::owner(copy.as_fd()) {
        Ok(owner) => owner,
        // Descriptors without a file to speak of.
        Err(e) if e.raw_os_error() == Some(libc::EBADF) => return Ok(None),
        Err(e) => return Err(e),
    };
    let signal = fds::fcntl(copy.as_fd(), F_GETSIG, 0)? as i32;
    let pid = match (host, kind) {
        (0, _) => None,
        (_, 0) => inside.thread(host),
        (_, 1) => inside.process(host),
        _ => inside.group(host),
    };
    let nobody = (signal != 0).then_some(Pid(0));
    Ok(pid.or(nobody).map(|pid| Owner { kind, pid, signal }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    /// A descriptor of ours as if it had number `fd` in process `process` of a tree.
    pub fn seen(of: &impl AsRawFd, process: usize, fd: i32) -> SeenFd {
        let (host, real) = (std::process::id() as i32, of.as_raw_fd());
        let path = format!("{host}/fd/{real}");
        SeenFd {
            process,
            thread: None,
            host,
            pid: Pid(host),
            fd,
            info: proc::fdinfo(host, real).unwrap(),
            link: proc::link(&path).unwrap(),
            meta: std::fs::metadata(format!("/proc/{path}")).unwrap(),
            place: OnceLock::new(),
            own: None,
        }
    }

    fn own(of: &impl AsRawFd) -> SeenFd {
        seen(of, 0, of.as_raw_fd())
    }

    #[test]
    fn descriptions_are_told_apart() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let again = file.reopen().unwrap();
        let (one, other) = (fds::eventfd(0).unwrap(), fds::eventfd(0).unwrap());
        let clone = file.as_file().try_clone().unwrap();
        let list = [own(file.as_file()), own(&one), own(&again), own(&clone), own(&other)];
        let groups: Vec<Vec<usize>> = group(&list).unwrap().into_iter().map(|g| g.holders).collect();
        assert_eq!(groups, [vec![0, 3], vec![1], vec![2], vec![4]]);
    }

    #[test]
    fn access_modes() {
        let (read, write) = nix::unistd::pipe().unwrap();
        assert!(own(&read).reads() && !own(&read).writes());
        assert!(!own(&write).reads() && own(&write).writes());
    }
}
