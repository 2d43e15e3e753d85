//! System V semaphores: sets are made with their values; processes then take their undo values, and those that were the
//! last to operate on a semaphore do so again.

use crate::model::Checkpoint;
use crate::model::process::Process;
use crate::model::sysvsem::Undo;

use super::stub::{Batch, Puppet};
use super::{Error, ipc};

const SETALL: u64 = 17;
const SEM_UNDO: i16 = 0x1000;
/// Operations of one call; the kernel takes 500 (SEMOPM).
const AT_ONCE: usize = 400;

type Op = (u16, i16, i16);

/// Makes the sets.
pub fn create(puppet: &mut Puppet, checkpoint: &Checkpoint) -> Result<(), Error> {
    let mut batch = puppet.batch();
    for set in &checkpoint.shared.ipc.sem {
        let values: Vec<u8> = set.semaphores.iter().flat_map(|s| s.value.to_le_bytes()).collect();
        puppet.flush_for(&mut batch, ipc::ROOM.0 + 2, ipc::ROOM.1 + values.len())?;
        ipc::get(&mut batch, "sem", &set.perm, "semget", libc::SYS_semget, Some(set.semaphores.len() as u64));
        let at = batch.data(&values);
        batch.call("semctl SETALL", libc::SYS_semctl, &[set.perm.id as u64, 0, SETALL, at.0]);
        ipc::set(&mut batch, &set.perm, "semctl IPC_SET", libc::SYS_semctl, &[0], None);
    }
    puppet.run(batch).map(drop)
}

/// Gives a process its undo values; its threads will share them. Values stay as they are.
pub fn undo(puppet: &mut Puppet, process: &Process, checkpoint: &Checkpoint) -> Result<(), Error> {
    let value = |undo: &Undo| {
        let set = checkpoint.shared.ipc.sem.iter().find(|s| s.perm.id == undo.set);
        set.and_then(|s| s.semaphores.get(usize::from(undo.semaphore))).map_or(0, |s| s.value as i16)
    };
    let mut batch = puppet.batch();
    for undo in &process.undo {
        operate(puppet, &mut batch, undo.set, &taking(undo, value(undo)))?;
    }
    puppet.run(batch).map(drop)
}

/// Operations after which a semaphore has its old value, and its undo value is the wanted one. On the way nothing leaves
/// its range.
fn taking(undo: &Undo, value: i16) -> Vec<Op> {
    let n = undo.semaphore;
    let mut ops = vec![(n, -value, 0)];
    match undo.adjust {
        a if a > 0 => ops.extend([(n, a, 0), (n, -a, SEM_UNDO)]),
        i16::MIN => ops.extend([(n, i16::MAX, SEM_UNDO), (n, -i16::MAX, 0), (n, 1, SEM_UNDO), (n, -1, 0)]),
        a => ops.extend([(n, -a, SEM_UNDO), (n, a, 0)]),
    }
    ops.push((n, value, 0));
    // An operation of 0 would wait for the value 0.
    ops.retain(|op| op.1 != 0);
    ops
}

/// Has a process be the last to operate on the semaphores that it was.
pub fn last(puppet: &mut Puppet, process: &Process, checkpoint: &Checkpoint) -> Result<(), Error> {
    let mut batch = puppet.batch();
    for set in &checkpoint.shared.ipc.sem {
        let its = (0u16..).zip(&set.semaphores).filter(|(_, s)| s.last == Some(process.pid));
        let ops: Vec<Op> = its
            .flat_map(|(n, s)| if s.value > 0 { [(n, -1, 0), (n, 1, 0)] } else { [(n, 1, 0), (n, -1, 0)] })
            .collect();
        for some in ops.chunks(AT_ONCE) {
            operate(puppet, &mut batch, set.perm.id, some)?;
        }
    }
    puppet.run(batch).map(drop)
}

fn operate(puppet: &mut Puppet, batch: &mut Batch, set: i32, ops: &[Op]) -> Result<(), Error> {
    // struct sembuf
    let bytes: Vec<u8> = ops
        .iter()
        .flat_map(|(n, by, flags)| [n.to_le_bytes(), by.to_le_bytes(), flags.to_le_bytes()].concat())
        .collect();
    puppet.flush_for(batch, 1, bytes.len() + 16)?;
    let at = batch.data(&bytes);
    batch.call("semop", libc::SYS_semop, &[set as u64, at.0, ops.len() as u64]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undo_values_are_taken_within_every_range() {
        for value in [0, 1, 5, 32766, 32767i16] {
            for adjust in [i16::MIN, -32767, -5, -1, 1, 5, 32767] {
                let (mut now, mut undo) = (i32::from(value), 0);
                for (_, by, flags) in taking(&Undo { set: 0, semaphore: 0, adjust }, value) {
                    assert_ne!(by, 0);
                    now += i32::from(by);
                    if flags == SEM_UNDO {
                        undo -= i32::from(by);
                    }
                    assert!((0..=32767).contains(&now) && (-32768..=32767).contains(&undo), "{value} {adjust}");
                }
                assert_eq!((now, undo), (value.into(), adjust.into()));
            }
        }
    }
}
