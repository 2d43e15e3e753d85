//! inotify(7).

use serde::{Deserialize, Serialize};

use super::Name;

/// So many events are put back at most.
pub const MOST_EVENTS: usize = 1 << 20;

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inotify {
    /// What it watches, in ascending order of descriptors.
    pub watches: Vec<Watch>,
    /// Events that the program has not read yet, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// The number that the next watch gets, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i32>,
}

/// One event, as struct inotify_event has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The watch it is of, which may be gone; -1 where events were lost (IN_Q_OVERFLOW).
    pub wd: i32,
    /// What happened.
    pub mask: u32,
    /// The same for the two halves of a rename, otherwise 0. A resume gives other numbers.
    #[serde(default, skip_serializing_if = "is_none")]
    pub cookie: u32,
    /// Of what in a directory, if it is not of the watched file itself.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub name: Name,
}

fn is_none(cookie: &u32) -> bool {
    *cookie == 0
}

fn is_empty(name: &Name) -> bool {
    name.0.is_empty()
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
