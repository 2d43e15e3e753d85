//! File locks and leases.

use serde::{Deserialize, Serialize};

/// A lock that a process took, or that belongs to a description and is taken again through this descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// A descriptor of the process, open on the locked file.
    pub fd: i32,
    /// Which call took it.
    pub kind: LockKind,
    /// For writing (LOCK_EX, F_WRLCK); else for reading (LOCK_SH, F_RDLCK).
    pub write: bool,
    /// First byte; 0 for those of a whole file.
    pub start: u64,
    /// Last byte; none: to the end of the file, however long it becomes.
    pub end: Option<u64>,
}

/// Kinds of lock: they differ in who owns them and what they stand in the way of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockKind {
    /// flock(2): the description's.
    Flock,
    /// fcntl F_SETLK: the process's.
    Posix,
    /// fcntl F_OFD_SETLK: the description's.
    Ofd,
    /// fcntl F_SETLEASE: the description's; the process is told when somebody wants the file.
    Lease,
}
