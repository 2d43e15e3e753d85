//! Which numbers descriptors have in the processes under construction until each has those of its own.
//!
//! A description stands where the program has it, if that number means the same to all of its processes; so that a
//! program may use numbers up to the limit, and as many as that. Everything else gets numbers that nobody uses.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Checkpoint;
use crate::model::fd::Kind;
use crate::model::process::Process;

/// Numbers of standard streams: a spare one is none of them.
const LOWEST: i32 = 3;

/// Where the descriptions of a checkpoint stand, and what is free beside them.
#[derive(Debug)]
pub struct Numbers {
    /// One for each description.
    pub files: Vec<i32>,
    /// Used by somebody, now or in the end.
    taken: BTreeSet<i32>,
    next: i32,
}

impl Numbers {
    /// Those for `checkpoint`.
    pub fn of(checkpoint: &Checkpoint) -> Numbers {
        let own = checkpoint.processes.iter().flat_map(Process::descriptors).map(|d| (d.fd, d.file));
        // To watch a file under a number it must have that for a moment.
        let watched = checkpoint.files.iter().filter_map(|f| if let Kind::Epoll(e) = &f.kind { Some(e) } else { None });
        let watched = watched.flat_map(|e| &e.targets).map(|t| (t.fd, t.file));
        let mut means: BTreeMap<i32, Option<u32>> = BTreeMap::new();
        for (fd, file) in own.chain(watched) {
            means.entry(fd).and_modify(|known| *known = known.filter(|k| *k == file)).or_insert(Some(file));
        }
        let mut places = vec![None; checkpoint.files.len()];
        for (&fd, file) in &means {
            if let Some(place) = file.and_then(|file| places.get_mut(file as usize)) {
                place.get_or_insert(fd);
            }
        }
        let mut numbers = Numbers { files: Vec::new(), taken: means.into_keys().collect(), next: LOWEST };
        numbers.files = places.into_iter().map(|place| place.unwrap_or_else(|| numbers.spare())).collect();
        numbers
    }

    /// A number that nobody uses.
    pub fn spare(&mut self) -> i32 {
        while !self.taken.insert(self.next) {
            self.next += 1;
        }
        self.next
    }

    /// How many are used.
    pub fn used(&self) -> usize {
        self.taken.len()
    }

    /// The highest in use.
    pub fn highest(&self) -> i32 {
        self.taken.last().copied().unwrap_or(LOWEST)
    }
}

/// The dup3(2) calls that bring descriptors from their numbers to others, in an order in which none is lost. No number is
/// twice among the first ones, nor among the second.
pub fn moves(wanted: &[(i32, i32)]) -> Vec<(i32, i32)> {
    let mut pending: BTreeMap<i32, i32> = wanted.iter().filter(|(from, to)| from != to).map(|&(f, t)| (t, f)).collect();
    let in_use: BTreeSet<i32> = wanted.iter().flat_map(|&(from, to)| [from, to]).collect();
    let lent = (LOWEST..).find(|n| !in_use.contains(n)).unwrap_or(i32::MAX);
    let sources: BTreeSet<i32> = wanted.iter().map(|(from, _)| *from).collect();
    let mut out = Vec::with_capacity(pending.len());
    let mut free: Vec<i32> = pending.keys().filter(|to| !sources.contains(to)).copied().collect();
    loop {
        while let Some(to) = free.pop() {
            if let Some(from) = pending.remove(&to) {
                out.push((from, to));
                free.push(from);
            }
        }
        // What is left goes round in circles: one of each steps aside.
        let Some((&to, _)) = pending.first_key_value() else { return out };
        out.push((to, lent));
        for from in pending.values_mut().filter(|from| **from == to) {
            *from = lent;
        }
        free.push(to);
    }
}

/// The ranges between numbers that are kept, in ascending order.
pub fn between(kept: impl IntoIterator<Item = i32>) -> Vec<(u32, u32)> {
    let mut out = Vec::new();
    let mut next = 0;
    for number in kept.into_iter().filter_map(|n| u32::try_from(n).ok()) {
        if next < number {
            out.push((next, number - 1));
        }
        next = number + 1;
    }
    out.push((next, u32::MAX));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_between_numbers() {
        assert_eq!(between([]), [(0, u32::MAX)]);
        assert_eq!(between([0, 1, 4, 5, 9]), [(2, 3), (6, 8), (10, u32::MAX)]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_on_the_way(
            to in prop::collection::hash_set(0..40i32, 0..30).prop_map(|set| set.into_iter().collect::<Vec<_>>()),
            shift in 0..20usize,
            offset in 0..10i32,
        ) {
            let mut from = to.clone();
            from.rotate_left(if to.is_empty() { 0 } else { shift % to.len() });
            let wanted: Vec<(i32, i32)> = from.iter().map(|n| n + offset).zip(to).collect();
            let mut table: BTreeMap<i32, i32> = wanted.iter().map(|&(from, _)| (from, from)).collect();
            for (from, to) in moves(&wanted) {
                let what = table.get(&from).copied().expect("an open number");
                table.insert(to, what);
            }
            for (from, to) in wanted {
                prop_assert_eq!(table.get(&to), Some(&from));
            }
        }
    }
}
