//! fanotify(7).

use serde::{Deserialize, Serialize};

use super::Name;

/// A group. There is nothing to be read from it, and nobody waits for its permission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fanotify {
    /// FAN_* flags of fanotify_init(2).
    pub flags: u32,
    /// O_* flags of the descriptors in its events.
    pub event_flags: u32,
    /// Made with CAP_SYS_ADMIN in the initial user namespace: it tells who has done what.
    pub privileged: bool,
    /// Its marks, in the order in which they were made.
    pub marks: Vec<Mark>,
}

/// What is reported, or not, of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// What is marked.
    pub on: Marked,
    /// A name that it had; a symbolic link at its end is the marked file itself.
    pub path: Name,
    /// FAN_MARK_EVICTABLE, FAN_MARK_IGNORE and FAN_MARK_IGNORED_SURV_MODIFY.
    pub flags: u32,
    /// FAN_* events that are reported.
    pub mask: u32,
    /// FAN_* events that are not.
    pub ignored: u32,
}

/// What fanotify(7) marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Marked {
    /// The file or directory at the path.
    Inode,
    /// What is mounted at the path.
    Mount,
    /// The file system of what is mounted at the path.
    FileSystem,
}

/// FAN_OPEN_PERM, FAN_ACCESS_PERM, FAN_OPEN_EXEC_PERM and FAN_PRE_ACCESS: others wait until the program has decided.
pub const PERMISSION: u32 = 0x0017_0000;
