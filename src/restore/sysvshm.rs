//! System V shared memory: segments are attached in the hold, from where each process maps them again as it had them.

use crate::model::Checkpoint;
use crate::model::sysvshm::Segment;

use super::memory::Hold;
use super::stub::{Batch, Expect, Puppet};
use super::{Error, ipc};

const IPC_RMID: u64 = 0;
const SHM_LOCK: u64 = 11;
const SHM_RDONLY: u64 = 0o10_000;

/// Makes the segments and attaches them. Those that are removed come first: their keys may have been taken since.
pub fn create(puppet: &mut Puppet, checkpoint: &Checkpoint, hold: &Hold) -> Result<(), Error> {
    let (removed, others): (Vec<_>, Vec<_>) = checkpoint.shared.ipc.shm.iter().partition(|s| s.removed);
    let mut batch = puppet.batch();
    for segment in removed.into_iter().chain(others) {
        puppet.flush_for(&mut batch, ipc::ROOM.0 + 4, ipc::ROOM.1)?;
        one(&mut batch, segment, hold);
    }
    puppet.run(batch).map(drop)
}

fn one(batch: &mut Batch, segment: &Segment, hold: &Hold) {
    let perm = &segment.perm;
    let id = perm.id as u64;
    ipc::get(batch, "shm", perm, "shmget", libc::SYS_shmget, Some(segment.size));
    let mut attach = |at: u64, flags| {
        batch.call_expecting(Expect::Exactly(at), "shmat", libc::SYS_shmat, &[id, at, flags]);
    };
    if let Some(at) = hold.anon.get(segment.object as usize) {
        attach(at.0, 0);
    }
    if let Some(at) = hold.read_only.get(&segment.object) {
        attach(at.0, SHM_RDONLY);
    }
    if (perm.uid, perm.gid) != (perm.cuid, perm.cgid) {
        ipc::set(batch, perm, "shmctl", libc::SYS_shmctl, &[], None);
    }
    if segment.locked {
        batch.call("shmctl SHM_LOCK", libc::SYS_shmctl, &[id, SHM_LOCK, 0]);
    }
    if segment.removed {
        batch.call("shmctl IPC_RMID", libc::SYS_shmctl, &[id, IPC_RMID, 0]);
    }
}
