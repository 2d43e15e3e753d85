//! System V objects: what belongs to an IPC namespace and not to a process.

use serde::{Deserialize, Serialize};

use super::{sysvmsg, sysvsem, sysvshm};

/// The objects of a tree, by kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ipc {
    /// Shared memory.
    #[serde(default)]
    pub shm: Vec<sysvshm::Segment>,
    /// Semaphores.
    #[serde(default)]
    pub sem: Vec<sysvsem::Set>,
    /// Message queues.
    #[serde(default)]
    pub msg: Vec<sysvmsg::Queue>,
}

/// What every object has. Ids of users and groups as the program sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Perm {
    /// Its id, as shmget(2) and the like return it.
    pub id: i32,
    /// Its key; 0 (IPC_PRIVATE): none.
    pub key: i32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Who made it.
    pub cuid: u32,
    /// Their group.
    pub cgid: u32,
    /// A process of the tree uses or made it. Else it may be the tree's, by what is known of it.
    pub used: bool,
}

impl Ipc {
    /// What every object has, of all of them, with the name of the kind.
    pub fn perms(&self) -> impl Iterator<Item = (&'static str, &Perm)> {
        let shm = self.shm.iter().map(|s| ("shm", &s.perm));
        let sem = self.sem.iter().map(|s| ("sem", &s.perm));
        shm.chain(sem).chain(self.msg.iter().map(|q| ("msg", &q.perm)))
    }
}
