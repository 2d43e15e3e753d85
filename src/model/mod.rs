//! What a checkpoint says: plain serde data, no I/O and no libc types.
//!
//! All pids in here are *inside* pids, as the program itself sees them. Numbers that are kernel ABI (signal numbers,
//! open flags, `prot` bits, clock ids…) are kept as the kernel has them on x86-64.

pub mod aio;
mod basic;
pub mod credentials;
pub mod datagram;
pub mod epoll;
pub mod eventfd;
pub mod fanotify;
pub mod fd;
pub mod files;
pub mod inotify;
pub mod ipc;
pub mod locks;
pub mod manifest;
pub mod memfd;
pub mod memory;
pub mod mempolicy;
pub mod mqnotify;
pub mod mqueue;
pub mod nameless;
pub mod netlink;
pub mod opath;
pub mod packet;
pub mod pidfd;
pub mod pipes;
pub mod process;
pub mod procfs;
pub mod pty;
pub mod seccomp;
pub mod signalfd;
pub mod signals;
pub mod sockets;
pub mod sparse;
pub mod stdio;
pub mod switches;
pub mod sysvmsg;
pub mod sysvsem;
pub mod sysvshm;
pub mod tcp;
pub mod thread;
pub mod timerfd;
pub mod timers;
pub mod tree;
pub mod unix;
pub mod uring;

pub use basic::{Addr, Area, Hex, Name, Nanos, Pid, Refusal};

use serde::{Deserialize, Serialize};

/// A whole checkpoint but for the bytes of memory and of files, which the image keeps beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Who wrote it, when, where, and what a reader must know.
    pub manifest: manifest::Manifest,
    /// The processes and how they are related.
    pub tree: tree::Tree,
    /// One entry for every living process of the tree (zombies are in `tree` only).
    pub processes: Vec<process::Process>,
    /// Open file descriptions, by id; descriptors refer to them.
    pub files: Vec<fd::OpenFile>,
    /// Memory shared between processes that has no file behind it, and the contents of deleted files.
    pub shared: memory::SharedObjects,
}
