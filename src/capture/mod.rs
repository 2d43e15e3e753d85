//! Held tree → model; one file per kind of state.
//!
//! A save looks first and touches later: everything that can be read from outside is read, and everything that can't
//! be saved is collected, before the first system call is run in the program.

mod aio;
mod contents;
mod copied;
mod credentials;
mod datagram;
mod early;
mod entries;
mod epoll;
mod error;
mod eventfd;
mod fanotify;
mod fd;
mod files;
mod flight;
mod forked;
mod glob;
mod gone;
mod inherits;
mod inotify;
mod inside;
mod ipc;
mod jobcontrol;
mod keep;
mod linked;
mod locks;
mod look;
mod manifest;
mod mapped;
mod memfd;
mod memory;
mod mempolicy;
mod mqnotify;
mod mqueue;
mod nameless;
mod namespaces;
mod netlink;
mod opath;
mod packet;
mod packets;
mod pages;
mod pidfd;
mod pipes;
mod pkeys;
mod process;
mod procfs;
mod pty;
mod refusals;
mod reserve;
mod ringcreds;
mod ringsizes;
mod save;
mod search;
mod seccomp;
mod shared;
mod sharing;
mod signalfd;
mod signals;
mod sockets;
mod sparse;
mod sqpoll;
mod stdio;
mod survey;
mod switches;
mod sysvmsg;
mod sysvsem;
mod sysvshm;
mod tcp;
mod thread;
mod timerfd;
mod timers;
mod tree;
mod unaccepted;
mod unix;
mod uring;
mod view;

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::sys::tasks;
use crate::tracer::HoldRequest;

pub use error::Error;
use inside::Inside;
pub use keep::{Keep, SaveFiles};
pub use save::save;
pub use survey::{Survey, Surveyed, check};

/// What to save, where to, and what becomes of the program.
#[derive(Debug)]
pub struct Request<'a> {
    /// The root of the tree, as this process sees it.
    pub root: i32,
    /// The process that adopts the tree's orphans (a supervisor of ours with the subreaper bit), if there is one:
    /// its other descendants are saved too.
    pub reaper: Option<i32>,
    /// Name of the job, for the manifest.
    pub name: String,
    /// Where the image goes.
    pub output: Output,
    /// Contents of which files go into it.
    pub keep: Keep,
    /// What becomes of the tree.
    pub after: After,
    /// How long the tree may take to stand still.
    pub timeout: Duration,
    /// Set by a signal handler to give the save up.
    pub cancel: &'a AtomicBool,
}

impl<'a> Request<'a> {
    /// What the tracer has to hold for it.
    fn hold(&self) -> HoldRequest<'a> {
        HoldRequest { root: self.root, reaper: self.reaper, timeout: self.timeout, cancel: self.cancel }
    }
}

/// Of some of the tree's descriptors this process has copies for as long as it looks at them.
fn make_room() -> Result<(), Error> {
    tasks::raise_limit(tasks::RLIMIT_NOFILE).map_err(Error::io("raising", "the limit of open files"))
}

/// Where an image goes.
#[derive(Debug)]
pub enum Output {
    /// A file, which appears whole or not at all.
    File(PathBuf),
    /// A stream (a pipe), written front to back.
    Stream(File),
}

/// What becomes of the tree after a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It goes on.
    Continue,
    /// It is left stopped, as by SIGSTOP.
    Stop,
    /// It is killed, once the image is durable.
    Kill,
}

/// What a save did.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// The image, if it went to a file.
    pub path: Option<PathBuf>,
    /// Its length.
    pub bytes: u64,
    /// Processes in it, zombies included.
    pub processes: usize,
    /// Threads in it.
    pub threads: usize,
    /// What a person should know: what leads outside.
    pub notes: Vec<String>,
    /// How long the tree stood still.
    pub stopped: Duration,
    /// How long the whole save took.
    pub took: Duration,
}
