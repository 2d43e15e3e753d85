//! Open file descriptions: all are opened here, before there is a process; every process then inherits them and gives
//! each the numbers it had.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::image::Image;
use crate::model::fd::{Descriptor, Kind, OpenFile};
use crate::model::pty::Session;
use crate::model::sockets::{Family, Socket};
use crate::model::uring::Uring;
use crate::model::{Checkpoint, Pid, memory::Backing};
use crate::sys::{fds, tasks};

use super::changed::Changed;
use super::late::Handover;
use super::numbers::{self, Numbers};
use super::stdio::Terminal;
use super::stub::{Expect, Puppet};
use super::view::View;
use super::{
    Error, Options, epoll, eventfd, fanotify, files, inotify, opath, pipes, pty, signalfd, sockets, stdio, timerfd,
    unix, uring,
};

/// Numbers under which every process under construction finds things.
#[derive(Debug)]
pub struct Sources {
    /// Numbers they have in us, and those they are to have.
    moves: Vec<(i32, i32)>,
    /// One for every open file description of the model.
    pub files: Vec<i32>,
    /// One for every mapped file of the model.
    pub mapped: Vec<Mapped>,
    /// One for every deleted directory or link of the model.
    pub nameless: Vec<i32>,
    /// The image.
    pub image: i32,
    /// Where the root's wait status goes.
    pub status: i32,
    /// How descriptions come that wait until all processes are born.
    pub handover: Handover,
    /// Inotify instances, fanotify groups, timerfds and rings of single threads, by the index of their description: our
    /// own copies, to begin to watch and to be started when all else is done, or when the thread is there.
    pub watching: Vec<(u32, OwnedFd)>,
    /// A slave of the terminal that takes the place of a standard stream's, and its session.
    pub terminal: Option<(Session, i32)>,
}

/// A mapped file, open in the ways its mappings were made: a mapping keeps the rights of its descriptor for ever.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mapped {
    /// For reading; of no use (-1) if nobody needs it.
    pub read: i32,
    /// For reading and writing.
    pub write: i32,
}

/// The descriptors behind [`Sources`], until the first process has inherited them.
#[derive(Debug)]
pub struct Opened {
    /// The numbers.
    pub numbers: Sources,
    owned: Vec<OwnedFd>,
    /// The write end of the status pipe.
    status_write: OwnedFd,
    /// Its read end, which stays with us.
    status_read: OwnedFd,
    /// Memory files and the seals they get when they have been mapped.
    unsealed: Vec<(File, u32)>,
    /// Files on their way back to their names.
    returning: files::Returning,
    /// The terminal that takes the place of a standard stream's.
    pub terminal: Option<Terminal>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Opened {
    /// Where the root's wait status is written to.
    pub fn status(&self) -> BorrowedFd<'_> {
        self.status_write.as_fd()
    }

    /// The first process has its copies: ours are closed, so that pipes end when the program's ends are gone.
    pub fn after_fork(self) -> (Sources, OwnedFd, Vec<(File, u32)>, files::Returning) {
        drop((self.owned, self.status_write));
        (self.numbers, self.status_read, self.unsealed, self.returning)
    }
}

/// Everything the model's descriptors and mappings need, open.
pub fn open_all(image: &Image, options: &Options, changed: &Changed, view: &View) -> Result<Opened, Error> {
    let checkpoint = image.checkpoint();
    raise_limits()?;
    let (mut owned, mut moves) = (Vec::new(), Vec::new());
    let mut numbers = Numbers::of(checkpoint);
    let mut place = |fd: OwnedFd, number: i32| -> i32 {
        moves.push((fd.as_raw_fd(), number));
        owned.push(fd);
        number
    };
    let mut contents = files::Contents::new(image, changed, view)?;
    let mut pipes = pipes::open_all(image, view)?;
    let roles = stdio::overrides(checkpoint, options);
    let mut watching = Vec::new();
    let mut notes = Vec::new();
    let mut networked = sockets::networked(image, options, &mut notes)?;
    let mut terminals = pty::make(checkpoint)?;
    notes.extend(pty::notes(&terminals.renumbered));
    // After those that have numbers to get back.
    let mut terminal = Terminal::make(checkpoint, options)?;
    let mut handover = Handover::new(|fd| place(fd, numbers.spare()))?;
    let files = numbers.files.clone();
    for ((file, index), &number) in checkpoint.files.iter().zip(0u32..).zip(&files) {
        let fd = match (roles.get(&index), &file.kind, pipes.remove(&(index as usize))) {
            (Some(role), ..) => stdio::open(*role, &options.stdio, file.flags, terminal.as_mut())?,
            (None, Kind::Stdio(s), None) => stdio::open(s.role, &options.stdio, file.flags, terminal.as_mut())?,
            (None, Kind::Pidfd(_) | Kind::Mqueue(_) | Kind::Procfs(_), _) => handover.keep_place(index)?,
            (None, _, Some(end)) => end,
            (
                None,
                Kind::Socket(Socket {
                    family: Family::Tcp(_) | Family::Datagram(_) | Family::Netlink(_) | Family::Packet(_),
                    ..
                }),
                _,
            ) => sockets::take(&mut networked, index)?,
            (None, Kind::Uring(Uring { poller: Some(_), .. }), _) => handover.keep_place(index)?,
            (None, Kind::Uring(ring), _) => uring::open(image, ring, file.flags, options.cancel)?,
            (None, Kind::Pty(_), _) => pty::open(&mut terminals, index)?,
            (None, ..) => open(options, file, &mut contents)?,
        };
        if is_watching(file) && !roles.contains_key(&index) {
            watching.push((index, fd.try_clone().map_err(|e| Error::step("sharing a descriptor", 0, e))?));
        }
        place(fd, number);
    }
    drop(pipes);
    let mapped = open_mapped(checkpoint, &mut contents)?
        .into_iter()
        .map(|[read, write]| {
            let mut number = |fd: Option<OwnedFd>| fd.map_or(-1, |fd| place(fd, numbers.spare()));
            Mapped { read: number(read), write: number(write) }
        })
        .collect();
    let nameless = (0..checkpoint.shared.nameless.len() as u32)
        .map(|index| {
            let fd = contents.nameless(index)?.try_clone().map_err(|e| Error::step("sharing", 0, e))?;
            Ok(place(fd, numbers.spare()))
        })
        .collect::<Result<_, Error>>()?;
    let of_terminal = match &terminal {
        Some(terminal) => {
            let slave = terminal.slave.try_clone().map_err(|e| Error::step("sharing a terminal", 0, e))?;
            Some((terminal.session, place(slave, numbers.spare())))
        }
        None => None,
    };
    let (unsealed, returning) = contents.finish(|content| written(checkpoint, content))?;
    let image_fd = image.file().as_fd().try_clone_to_owned().map_err(|e| Error::step("sharing the image", 0, e))?;
    let image = place(image_fd, numbers.spare());
    let (status_read, status_write) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| Error::step("a pipe", 0, e.into()))?;
    let status = numbers.spare();
    moves.push((status_write.as_raw_fd(), status));
    let numbers = Sources { moves, files, mapped, nameless, image, status, handover, watching, terminal: of_terminal };
    Ok(Opened { numbers, owned, status_write, status_read, unsealed, returning, terminal, notes })
}

/// All descriptors of the whole tree are open at once for a moment; memory is made and locked before a process has
/// its own limits: until then ours count, as far as they can be raised.
fn raise_limits() -> Result<(), Error> {
    // RLIMIT_FSIZE, DATA, STACK, NPROC, NOFILE, MEMLOCK, AS, SIGPENDING.
    for which in [1, 2, 3, 6, tasks::RLIMIT_NOFILE, 8, 9, 11] {
        tasks::raise_limit(which).map_err(|e| Error::step("raising a limit", 0, e))?;
    }
    Ok(())
}

/// Whether we keep a copy: see [`Sources::watching`].
fn is_watching(file: &OpenFile) -> bool {
    match &file.kind {
        Kind::Inotify(_) | Kind::Fanotify(_) | Kind::Timerfd(_) => true,
        Kind::Uring(ring) => ring.issuer.is_some() && ring.poller.is_none(),
        _ => false,
    }
}

/// The limit of open files that a resume needs, if that is above ours: all of the tree's are open at once, in us as
/// well.
pub fn no_room(checkpoint: &Checkpoint) -> Option<(u64, u64)> {
    /// Descriptors that come and go.
    const PASSING: usize = 100;
    let hard = tasks::limit(0, tasks::RLIMIT_NOFILE).map_or(u64::MAX, |l| l.hard);
    let shared = &checkpoint.shared;
    let others = 2 * shared.mapped.len() + shared.nameless.len() + unix::passing(checkpoint) + PASSING;
    let numbers = Numbers::of(checkpoint);
    let watching = checkpoint.files.iter().filter(|file| is_watching(file)).count();
    let deleted =
        checkpoint.files.iter().filter(|f| matches!(&f.kind, Kind::Regular(r) if r.content.is_some())).count();
    let in_us = checkpoint.files.len() + watching + deleted + shared.nameless.len() + others;
    let needed = (numbers.highest() as u64 + 1).max((numbers.used() + others).max(in_us) as u64);
    (needed > hard).then_some((needed, hard))
}

fn open(options: &Options, file: &OpenFile, contents: &mut files::Contents<'_>) -> Result<OwnedFd, Error> {
    match &file.kind {
        Kind::Regular(regular) => contents.open(regular, file.flags),
        Kind::Directory(directory) => files::open_directory(directory, file.flags, contents),
        Kind::Path(place) => opath::open(place, file.flags, contents),
        Kind::Device(device) => files::open_device(device, file.flags, contents),
        Kind::Pipe(_) => Err(Error::step("opening a pipe", 0, io::Error::other("it was not made"))),
        Kind::Eventfd(e) => eventfd::open(e, file.flags),
        Kind::Timerfd(t) => timerfd::open(t, file.flags),
        Kind::Signalfd(s) => signalfd::open(s, file.flags),
        Kind::Epoll(_) => epoll::open(),
        Kind::Inotify(instance) => inotify::open(instance, file.flags),
        Kind::Fanotify(group) => fanotify::open(group, file.flags),
        Kind::Pidfd(_) => Err(Error::step("opening a pidfd", 0, io::Error::other("nobody is born yet"))),
        Kind::Procfs(_) => Err(Error::step("opening in /proc", 0, io::Error::other("nobody is born yet"))),
        Kind::Mqueue(_) => Err(Error::step("opening a message queue", 0, io::Error::other("it was not made"))),
        // Keeps the number until there is a process that can make it.
        Kind::Socket(_) => File::open("/dev/null").map(OwnedFd::from).map_err(|e| Error::step("opening", 0, e)),
        Kind::Pty(_) => Err(Error::step("opening a terminal", 0, io::Error::other("it was not made"))),
        Kind::Uring(_) => Err(Error::step("opening an io_uring", 0, io::Error::other("it was not made"))),
        Kind::Stdio(s) => stdio::open(s.role, &options.stdio, file.flags, None),
    }
}

/// The files that mappings and executables need, each with the access its mappings want.
fn open_mapped(
    checkpoint: &Checkpoint,
    contents: &mut files::Contents<'_>,
) -> Result<Vec<[Option<OwnedFd>; 2]>, Error> {
    let mut needed: HashSet<(u32, bool)> = HashSet::new();
    for process in &checkpoint.processes {
        needed.insert((process.exe.file, false));
        for vma in &process.memory.vmas {
            if let Backing::File { file, shared, may_write, .. } = vma.backing {
                needed.insert((file, shared && may_write));
            }
        }
    }
    let files = checkpoint.shared.mapped.iter().zip(0u32..);
    files
        .map(|(file, index)| {
            let mut open =
                |write| needed.contains(&(index, write)).then(|| contents.open_mapped(file, write)).transpose();
            Ok([open(false)?, open(true)?])
        })
        .collect()
}

/// Whether the file with this content is mapped by somebody who may write to it.
fn written(checkpoint: &Checkpoint, content: u32) -> bool {
    let has = |file: u32| {
        let mapped = checkpoint.shared.mapped.get(file as usize);
        mapped.and_then(|m| m.content).is_some_and(|c| c.id == content)
    };
    checkpoint
        .processes
        .iter()
        .flat_map(|p| &p.memory.vmas)
        .any(|vma| matches!(vma.backing, Backing::File { file, shared: true, may_write: true, .. } if has(file)))
}

/// Gives a thread a table of its own, with what there is so far: the sources.
pub fn part(puppet: &mut Puppet) -> Result<(), Error> {
    puppet.single("unshare", libc::SYS_unshare, &[libc::CLONE_FILES as u64]).map(drop)
}

/// Gives those descriptors that are `wanted` their numbers in a process, or in a thread with a table of its own.
pub fn install(
    puppet: &mut Puppet,
    fds: &[Descriptor],
    sources: &Sources,
    wanted: impl Fn(u32) -> bool,
) -> Result<(), Error> {
    let mut batch = puppet.batch();
    for d in fds.iter().filter(|d| wanted(d.file)) {
        let source = source(sources, d.file)?;
        puppet.flush_for(&mut batch, 1, 0)?;
        if source == d.fd {
            // F_SETFD, FD_CLOEXEC
            batch.call("fcntl F_SETFD", libc::SYS_fcntl, &[d.fd as u64, 2, d.cloexec.into()]);
            continue;
        }
        let flags = if d.cloexec { libc::O_CLOEXEC } else { 0 };
        let args = [source as u64, d.fd as u64, flags as u64];
        batch.call_expecting(Expect::Exactly(d.fd as u64), "dup3", libc::SYS_dup3, &args);
    }
    puppet.run(batch).map(drop)
}

/// The number of a description's source.
pub fn source(sources: &Sources, file: u32) -> Result<i32, Error> {
    let missing = || Error::step("finding a description", 0, io::Error::other("not in the image"));
    sources.files.get(file as usize).copied().ok_or_else(missing)
}

/// Owners of descriptions and their signals (F_SETOWN_EX, F_SETSIG, O_ASYNC), set once each, by somebody who has them:
/// the number under which O_ASYNC is set is the one that signals tell (fs/fcntl.c, send_sigio). `actual`: the ids that
/// processes, threads and groups have.
pub fn owners(
    puppet: &mut Puppet,
    fds: &[Descriptor],
    files: &[OpenFile],
    done: &mut [bool],
    actual: impl Fn(Pid) -> i32,
) -> Result<(), Error> {
    const ASYNC: u32 = libc::O_ASYNC as u32;
    let mut batch = puppet.batch();
    for d in fds {
        let Some((file, done)) = files.get(d.file as usize).zip(done.get_mut(d.file as usize)) else { continue };
        if std::mem::replace(done, true) || file.owner.is_none() && file.flags & ASYNC == 0 {
            continue;
        }
        puppet.flush_for(&mut batch, 4, 16)?;
        let fd = d.fd as u64;
        if let Some(owner) = file.owner {
            let id = if owner.pid.0 == 0 { 0 } else { actual(owner.pid) };
            let ex: Vec<u8> = [owner.kind, id].iter().flat_map(|word| word.to_le_bytes()).collect();
            let at = batch.data(&ex);
            batch.call("fcntl F_SETOWN_EX", libc::SYS_fcntl, &[fd, 15, at.0]);
            if owner.signal != 0 {
                batch.call("fcntl F_SETSIG", libc::SYS_fcntl, &[fd, 10, owner.signal as u64]);
            }
        }
        if file.flags & ASYNC != 0 {
            // F_SETFL. We may have set it before, under a number of ours.
            for flags in [file.flags & !ASYNC, file.flags] {
                batch.call("fcntl F_SETFL", libc::SYS_fcntl, &[fd, 4, flags.into()]);
            }
        }
    }
    puppet.run(batch).map(drop)
}

/// Brings what the first process has inherited from us to the numbers of the sources. Our own descriptors are nobody's
/// business.
pub fn arrange(puppet: &mut Puppet, sources: &Sources) -> Result<(), Error> {
    let mut batch = puppet.batch();
    for (from, to) in numbers::moves(&sources.moves) {
        puppet.flush_for(&mut batch, 1, 0)?;
        batch.call_expecting(Expect::Exactly(to as u64), "dup3", libc::SYS_dup3, &[from as u64, to as u64, 0]);
    }
    puppet.run(batch)?;
    keep_only(puppet, sources.moves.iter().map(|(_, to)| *to).collect())
}

/// Closes the sources in a table that has everything it needs.
pub fn close_sources(puppet: &mut Puppet, fds: &[Descriptor]) -> Result<(), Error> {
    keep_only(puppet, fds.iter().map(|d| d.fd).collect())
}

/// Closes all descriptors but these.
pub fn keep_only(puppet: &mut Puppet, kept: BTreeSet<i32>) -> Result<(), Error> {
    let mut batch = puppet.batch();
    for (first, last) in numbers::between(kept) {
        puppet.flush_for(&mut batch, 1, 0)?;
        batch.call("close_range", libc::SYS_close_range, &[first.into(), last.into(), 0]);
    }
    puppet.run(batch).map(drop)
}

/// Opens a path with the program's flags but for those that only matter at the first open.
pub fn reopen(path: &std::path::Path, flags: u32) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let access = flags as i32 & fds::ACCESS;
    let once = libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | fds::ACCESS | libc::O_ASYNC | libc::O_NONBLOCK;
    let mut options = std::fs::OpenOptions::new();
    options.read(access != libc::O_WRONLY).write(access != libc::O_RDONLY);
    options.custom_flags(flags as i32 & !once | libc::O_NOCTTY | flags as i32 & libc::O_NONBLOCK);
    options.open(path)
}
