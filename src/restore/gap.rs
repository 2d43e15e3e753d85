//! Free address ranges.

use crate::model::{Addr, Checkpoint};

/// End of the address space that programs have without asking for more.
const TOP: u64 = 0x7fff_ffff_f000;
/// Distance kept from everything: stacks must be able to grow, and the kernel keeps 1 MiB below them itself.
const MARGIN: u64 = 16 << 20;

/// A range of `len` bytes that no process of the checkpoint uses, and nobody in `also`.
pub fn common(checkpoint: &Checkpoint, also: &[(u64, u64)], len: u64) -> Option<Addr> {
    let mut taken: Vec<(u64, u64)> = also.to_vec();
    for process in &checkpoint.processes {
        taken.extend(process.memory.vmas.iter().map(|v| (v.start.0, v.end.0)));
        let f = &process.memory.fields;
        // Room for the heap to grow.
        taken.push((f.start_brk.0.min(f.brk.0), f.brk.0.max(f.start_brk.0)));
        taken.extend(process.memory.vdso.iter().map(|v| (v.vvar_start.0, v.end.0)));
    }
    highest(taken, len)
}

/// A range of `len` bytes outside all of `taken`.
pub fn within(taken: &[(u64, u64)], len: u64) -> Option<Addr> {
    highest(taken.to_vec(), len)
}

fn highest(mut taken: Vec<(u64, u64)>, len: u64) -> Option<Addr> {
    taken.retain(|r| r.0 < TOP);
    taken.sort_unstable_by_key(|r| std::cmp::Reverse(r.1));
    let need = len.checked_add(2 * MARGIN)?;
    let mut ceiling = TOP;
    for (start, end) in taken {
        if ceiling.checked_sub(end).is_some_and(|room| room >= need) {
            return Some(Addr(ceiling - MARGIN - len));
        }
        ceiling = ceiling.min(start);
    }
    (ceiling >= need + (1 << 32)).then(|| Addr(ceiling - MARGIN - len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_keeps_its_distance() {
        let len = 1 << 20;
        let stack = (0x7ffd_0000_0000u64, 0x7ffd_0002_0000);
        let libs = (0x7f00_0000_0000u64, 0x7f00_0100_0000);
        let at = highest(vec![libs, stack], len).unwrap().0;
        for (start, end) in [stack, libs] {
            assert!(at + len + MARGIN <= start || at >= end + MARGIN, "{at:#x}");
        }
        assert_eq!(at % 4096, 0);
    }

    #[test]
    fn a_full_address_space_has_none() {
        assert_eq!(highest(vec![(0, TOP)], 4096), None);
        assert_eq!(highest(vec![], u64::MAX), None);
    }
}
