//! Protection keys: allocated before anything is mapped, as memory that may only be executed takes one by itself.

use crate::model::memory::{KEYS, Memory, Vma};
use crate::model::process::Process;
use crate::model::{Checkpoint, Refusal};
use crate::sys::cpu;

use super::stub::{Batch, Expect};

/// A processor without them.
pub fn conflicts(checkpoint: &Checkpoint, conflicts: &mut Vec<Refusal>) {
    if cpu::has_protection_keys() {
        return;
    }
    for process in checkpoint.processes.iter().filter(|p| !p.memory.keys.is_empty()) {
        conflicts.push(Refusal {
            pid: process.pid,
            object: "memory".to_owned(),
            reason: "it has protection keys (pkey_alloc), and this processor or kernel has none".to_owned(),
            hint: "resume where /proc/cpuinfo has the flag ospke".to_owned(),
        });
    }
}

/// Allocates the keys of `process`, once those are free that it was born with as a child of `parent`.
pub fn allocate(batch: &mut Batch, process: &Process, parent: Option<&Process>) {
    let keys = &process.memory.keys;
    for &key in parent.iter().flat_map(|parent| &parent.memory.keys) {
        batch.call("pkey_free", libc::SYS_pkey_free, &[key.into()]);
    }
    // The lowest that is free is had each time.
    let last = keys.last().copied().unwrap_or(0);
    for key in KEYS.take_while(|key| *key <= last) {
        batch.call_expecting(Expect::Exactly(key.into()), "pkey_alloc", libc::SYS_pkey_alloc, &[0, 0]);
    }
    for key in KEYS.take_while(|key| *key <= last).filter(|key| !keys.contains(key)) {
        batch.call("pkey_free", libc::SYS_pkey_free, &[key.into()]);
    }
}

/// The key that a mapping is to be given.
pub fn of(memory: &Memory, vma: &Vma) -> Option<u32> {
    memory.keys.contains(&vma.pkey).then_some(vma.pkey)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_without_keys_is_a_conflict() {
        let mut checkpoint = crate::image::sample();
        let mut found = Vec::new();
        conflicts(&checkpoint, &mut found);
        assert!(found.is_empty());
        checkpoint.processes[0].memory.keys = vec![1, 3];
        conflicts(&checkpoint, &mut found);
        assert_eq!(found.is_empty(), cpu::has_protection_keys());
    }
}
