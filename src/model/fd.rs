//! Descriptors and the open file descriptions behind them.

use serde::{Deserialize, Serialize};

use super::{
    Pid, epoll, eventfd, fanotify, files, inotify, mqueue, opath, pidfd, pipes, procfs, pty, signalfd, sockets, stdio,
    timerfd, uring,
};

/// One open descriptor of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Its number.
    pub fd: i32,
    /// Closed by exec.
    pub cloexec: bool,
    /// Index into [`super::Checkpoint::files`].
    pub file: u32,
}

/// One open file description (ofd): what `dup` and `fork` share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenFile {
    /// Access mode and status flags, as `/proc/PID/fdinfo` has them, without `O_CLOEXEC`.
    pub flags: u32,
    /// Who gets SIGIO.
    pub owner: Option<Owner>,
    /// What it is.
    pub kind: Kind,
}

/// fcntl F_SETOWN_EX and F_SETSIG.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// F_OWNER_TID 0, F_OWNER_PID 1, F_OWNER_PGRP 2.
    pub kind: i32,
    /// Thread, process or group; 0: nobody.
    pub pid: Pid,
    /// The signal; 0: SIGIO.
    pub signal: i32,
}

/// What a descriptor refers to: one variant for each kind of state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A regular file.
    Regular(files::Regular),
    /// A directory.
    Directory(files::Directory),
    /// Opened with O_PATH.
    Path(opath::Place),
    /// Of /proc.
    Procfs(procfs::File),
    /// /dev/null, zero, full, random, urandom.
    Device(files::Device),
    /// One end of a pipe, or a FIFO.
    Pipe(pipes::PipeEnd),
    /// eventfd(2).
    Eventfd(eventfd::Eventfd),
    /// timerfd_create(2).
    Timerfd(timerfd::Timerfd),
    /// signalfd(2).
    Signalfd(signalfd::Signalfd),
    /// epoll_create(2).
    Epoll(epoll::Epoll),
    /// inotify(7).
    Inotify(inotify::Inotify),
    /// fanotify(7).
    Fanotify(fanotify::Fanotify),
    /// pidfd_open(2).
    Pidfd(pidfd::Pidfd),
    /// A socket.
    Socket(sockets::Socket),
    /// A POSIX message queue.
    Mqueue(mqueue::Mqueue),
    /// A pseudo-terminal whose master is in the tree, or closed.
    Pty(pty::PtyEnd),
    /// io_uring(7).
    Uring(uring::Uring),
    /// A standard stream that leads outside the tree.
    Stdio(stdio::Stdio),
}
