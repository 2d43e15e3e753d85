//! epoll_create(2).

use serde::{Deserialize, Serialize};

use super::Pid;

/// An epoll instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoll {
    /// What it watches.
    pub targets: Vec<Target>,
}

/// One watched descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// A process in whose table `fd` is this file (it may have been closed under that number since: then any).
    pub pid: Pid,
    /// The number it was added under.
    pub fd: i32,
    /// Index of the watched description in [`super::Checkpoint::files`].
    pub file: u32,
    /// EPOLL* event bits and flags.
    pub events: u32,
    /// `epoll_data`.
    pub data: u64,
}
