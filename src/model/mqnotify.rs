//! mq_notify(3): being told of a message in a POSIX message queue.

use serde::{Deserialize, Serialize};

use super::{Hex, Pid};

/// Bytes that the kernel sends to a socket (NOTIFY_COOKIE_LEN in linux/mqueue.h).
pub const COOKIE: usize = 32;

/// A registration with a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// The process that is told.
    pub pid: Pid,
    /// How.
    pub how: How,
}

/// The ways to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Not at all (SIGEV_NONE): nobody else can be.
    Nothing,
    /// By a signal (SIGEV_SIGNAL).
    Signal {
        /// Which.
        signal: i32,
        /// Its `sigev_value`.
        value: u64,
    },
    /// By a message to a netlink socket, which a C library makes of SIGEV_THREAD.
    Socket {
        /// The process's descriptor of it.
        fd: i32,
        /// [`COOKIE`] bytes that are sent.
        cookie: Hex,
    },
}
