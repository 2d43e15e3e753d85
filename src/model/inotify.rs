//! inotify(7).

use serde::{Deserialize, Serialize};

use super::Name;

/// An instance. There is nothing to be read from it: its queue cannot be filled again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inotify {
    /// What it watches, in ascending order of descriptors.
    pub watches: Vec<Watch>,
}

/// One watched file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// The watch descriptor that events are reported with.
    pub wd: i32,
    /// IN_* bits, IN_ONESHOT and IN_EXCL_UNLINK among them.
    pub mask: u32,
    /// A name that the file had; a symbolic link at its end is the watched file itself.
    pub path: Name,
}
