//! Model → plan → live tree; mirrors capture file by file.
//!
//! `plan` finds every conflict before a process exists. `resume` then opens what descriptors and mappings need
//! (`fd`), starts the first process in new namespaces (`namespaces`), lets processes be born of each other in the
//! order that `tree` works out, fills them (`process`, `memory`, `thread`, …) by tables of system calls
//! (`stub`), and lets all go together. Until then everything dies with us (`PTRACE_O_EXITKILL`).

mod aio;
mod build;
mod changed;
mod credentials;
mod datagram;
mod epoll;
mod eventfd;
mod fanotify;
mod fd;
mod files;
mod fill;
mod gap;
mod hugetlb;
mod inherit;
mod inotify;
mod ipc;
mod jobcontrol;
mod late;
mod limits;
mod locks;
mod manifest;
mod memfd;
mod memory;
mod mempolicy;
mod moved;
mod mqnotify;
mod mqueue;
mod nameless;
mod namespaces;
mod netlink;
pub mod network;
mod numbers;
mod opath;
mod packet;
mod permitted;
mod pidfd;
mod pinned;
mod pipes;
mod pkeys;
pub mod plan;
mod ports;
mod process;
mod procfs;
mod pty;
mod ringcreds;
mod seccomp;
mod signalfd;
mod signals;
mod socketfiles;
mod sockets;
mod sparse;
mod sqpoll;
mod stdio;
mod stub;
mod switches;
mod sysvmsg;
mod sysvsem;
mod sysvshm;
mod tcp;
mod thp;
mod thread;
mod timerfd;
mod timers;
mod tree;
mod unix;
mod uring;
mod vdso;
mod view;
mod waits;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::image::{Image, Verifier};
use crate::model::Refusal;
use crate::sys::sched;
use crate::tracer;

use fill::Filler;
use pinned::Pinned;
use view::View;

pub use moved::{Moves, adapt};
pub use plan::{Plan, Summary, plan};
pub use stdio::Terminal;

/// How a program is started again.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which pids it gets.
    pub pids: Pids,
    /// Whether its clocks go on from where they stood.
    pub clock: Clock,
    /// How thoroughly the image is checked.
    pub verify: Verify,
    /// What is done about files that are not as they were.
    pub files: Files,
    /// What stands in for its standard input, output and error.
    pub stdio: [Stdio; 3],
    /// Whether the program may have our terminal: by one of its own, which the caller then serves.
    pub terminal: bool,
    /// What becomes of sockets and pipes that lead to somebody who is not in the image.
    pub sockets: Sockets,
    /// Set by a signal handler to give the resume up.
    pub cancel: &'static AtomicBool,
    /// Take the way that is meant for an image from another kernel, whose vDSO differs. For tests.
    pub foreign_vdso: bool,
}

/// Which pids a resumed program gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pids {
    /// Its own, in a new pid namespace.
    Auto,
    /// The same, said outright.
    Private,
    /// Its own, in our pid namespace: needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN, and the pids to be free.
    Host,
    /// New ones, in our pid namespace. Programs that remember pids (any that has threads) may fail.
    Fresh,
}

/// What is done about a file of the program that has changed since the save (size, time of change, build id) or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// What the program only reads or has mapped must be as it was; what it writes to may have changed and grown, but
    /// not be shorter.
    Auto,
    /// Any change is a conflict.
    Strict,
    /// It is told, and the file used as it is. Without the file, or the whole of a mapped one, there is no way.
    Warn,
    /// A file whose content was saved is put back under its name; the others as with `Auto`.
    Image,
}

/// What clocks show after a resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from the moment of the save.
    Keep,
    /// They are this host's.
    Now,
}

/// What becomes of a socket or pipe whose other end is not in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sockets {
    /// It comes back as if the other end had died: what waited in it can still be read. TCP connections are reset.
    Reset,
    /// The same, but TCP connections end as if the other end had closed them.
    Close,
    /// It stands in the way of the resume.
    Refuse,
}

/// How thoroughly an image is checked before the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Every byte.
    Full,
    /// Structure and metadata.
    Meta,
    /// The same: opening an image checks its metadata.
    None,
}

/// What stands in for a standard stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stdio {
    /// The stream of the resuming command, where the program's led outside the tree; else as the image has it.
    Image,
    /// The stream of the resuming command.
    Inherit,
    /// A file: read for input, appended to for output.
    File(PathBuf),
}

/// A program that runs again.
#[derive(Debug)]
pub struct Resumed {
    /// Its root as we see it.
    pub root: i32,
    /// The first process of its pid namespace, our child; it lives as long as the tree.
    pub init: i32,
    /// Readable when the root was stopped or has ended: four bytes, a wait(2) status in the machine's byte order. End of file
    /// without them: everything was killed.
    pub status: OwnedFd,
    /// The terminal made for it, which is of use only if somebody serves it.
    pub terminal: Option<Terminal>,
    /// What a person should know: what differs from before.
    pub notes: Vec<String>,
    /// Processes brought back, zombies included.
    pub processes: usize,
    /// Threads brought back.
    pub threads: usize,
    /// How long it took.
    pub took: Duration,
}

/// Why a resume failed. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Things that stand in the way, all found beforehand.
    #[error("{} thing(s) stand in the way of a resume", .0.len())]
    Conflicts(Vec<Refusal>),
    /// This host lacks something.
    #[error("this host cannot resume it: {feature}")]
    Host {
        /// What is missing.
        feature: String,
        /// The way out.
        hint: String,
    },
    /// The system does not permit it.
    #[error("not permitted: {what}")]
    NotPermitted {
        /// What is not.
        what: String,
        /// Which setting.
        hint: String,
    },
    /// The image is bad.
    #[error(transparent)]
    Image(#[from] crate::image::Error),
    /// It was given up.
    #[error("given up")]
    Cancelled,
    /// A step failed.
    #[error("{step} of {object}: {source}")]
    Step {
        /// Which.
        step: &'static str,
        /// Of what.
        object: String,
        /// Why.
        source: io::Error,
    },
    /// A process under construction could not be held.
    #[error("{step}: {source}")]
    Tracer {
        /// Doing what.
        step: &'static str,
        /// Why.
        source: crate::tracer::Error,
    },
}

impl Error {
    fn tracer(step: &'static str, source: crate::tracer::Error) -> Error {
        Error::Tracer { step, source }
    }

    fn step(step: &'static str, pid: i32, source: io::Error) -> Error {
        Error::Step { step, object: format!("pid {pid}"), source }
    }

    fn file(step: &'static str, path: &crate::model::Name, source: io::Error) -> Error {
        Error::Step { step, object: path.display(), source }
    }
}

/// Starts the program in `image` again. It runs when this returns; on an error nothing of it is left.
///
/// Call it while this process has one thread: it forks.
pub fn resume(image: &Image, options: &Options) -> Result<Resumed, Error> {
    let start = Instant::now();
    let plan = plan(image, options)?;
    if !plan.conflicts.is_empty() {
        return Err(Error::Conflicts(plan.conflicts));
    }
    let checkpoint = image.checkpoint();
    let pinned = Pinned::here();
    let view = View::new(namespaces::wanted(options))?;
    let mut sources = fd::open_all(image, options, &plan.changed, &view)?;
    let verifier = match options.verify {
        Verify::Full => Some(Verifier::new(image, options.cancel).map_err(Error::Image)?),
        Verify::Meta | Verify::None => None,
    };
    let mut notes = plan.summary.notes.clone();
    notes.append(&mut sources.notes);
    let mut init = namespaces::Init::start(checkpoint, options, &sources, &view)?;
    let terminal = sources.terminal.take();
    let (sources, status, unsealed, returning) = sources.after_fork();
    // A thread of a program may be left where it waits, traced, until the tracer's end.
    let (root, init, more) = tracer::apart(move || -> Result<_, Error> {
        init.seize()?;
        let built = std::thread::scope(|scope| {
            // The pages are checked while the processes read them; nothing runs before both are done.
            let elsewhere = pinned.elsewhere();
            let verifier = verifier.as_ref();
            let (filler, helper) = Filler::new(image, verifier.is_some());
            // Without a thread, nobody helps: the processes read all of it, and then it is checked.
            let helper = helper.and_then(|helper| {
                let work = move || {
                    // It stays where it is if there is nowhere else.
                    let _ = elsewhere.map(|elsewhere| sched::set_affinity(0, &elsewhere));
                    helper.work(image, verifier)?;
                    verifier.map_or(Ok(()), Verifier::rest)
                };
                Builder::new().spawn_scoped(scope, work).ok()
            });
            let built = build::tree(image, options, &plan, (&sources, &filler), &pinned, &mut init);
            drop(filler);
            let rest = if built.is_ok() { verifier.map_or(Ok(()), Verifier::rest) } else { Ok(()) };
            match helper.map_or(Ok(Ok(())), ScopedJoinHandle::join).map(|helped| helped.and(rest)) {
                Ok(Err(error)) => Err(Error::Image(error)),
                Err(_) => Err(Error::step("checking the image", 0, io::Error::other("the checker panicked"))),
                Ok(Ok(())) => built,
            }
        })?;
        if options.cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        for (file, seals) in unsealed {
            memfd::seal(&file, seals).map_err(|e| Error::step("sealing a memory file", 0, e))?;
        }
        inotify::watch(checkpoint, &sources.watching)?;
        fanotify::mark(checkpoint, &sources.watching, &view)?;
        drop(view);
        timerfd::start(checkpoint, &sources.watching, namespaces::elapsed(built.root, checkpoint, options)?)?;
        let notes = built.notes.clone();
        let root = built.root;
        returning.settle()?;
        pinned.loosen(init.host());
        let init = built.go(init)?;
        Ok((root, init, notes))
    })
    .map_err(|error| Error::tracer("building the processes", error))??;
    notes.extend(more);
    Ok(Resumed {
        root,
        init,
        status,
        terminal,
        notes,
        processes: checkpoint.tree.members.len(),
        threads: checkpoint.processes.iter().map(|p| p.threads.len()).sum(),
        took: start.elapsed(),
    })
}
