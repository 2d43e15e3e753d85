//! pidfd_open(2).

use serde::{Deserialize, Serialize};

use super::Pid;

/// A descriptor of a process, or of a thread (PIDFD_THREAD, which shows in the flags as O_EXCL).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pidfd {
    /// Of one in the tree: a living process or thread, or a zombie.
    Task(Pid),
    /// Of one that has ended and was waited for.
    Gone {
        /// Tells ended processes apart; equal for descriptors of the same one.
        id: u64,
        /// Its wait(2) status; 0 where the kernel does not tell (before 6.15).
        status: i32,
    },
}
