//! System V semaphores.

use serde::{Deserialize, Serialize};

use super::Pid;
use super::ipc::Perm;

/// A set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Id, key, mode and owner.
    pub perm: Perm,
    /// Its semaphores, by number.
    pub semaphores: Vec<Semaphore>,
}

/// One semaphore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Semaphore {
    /// 0..=32767.
    pub value: u16,
    /// Who operated on it last (GETPID), if that was a process of the tree.
    pub last: Option<Pid>,
}

/// What the end of a process adds to a semaphore: the sum of its operations with SEM_UNDO, negated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    /// Id of the set.
    pub set: i32,
    /// Number of the semaphore.
    pub semaphore: u16,
    /// Not 0.
    pub adjust: i16,
}
