//! Huge pages of hugetlbfs: how they are asked for, and whether this host has enough.

use std::collections::BTreeMap;

use crate::model::memory::Backing;
use crate::model::{Checkpoint, Refusal};

/// Where the flags of mmap(2) and memfd_create(2) have the logarithm of the size.
const SIZE_SHIFT: u32 = 26;
const MFD_HUGETLB: u32 = 4;

/// For mmap(2).
pub fn map_flags(page: u64) -> i32 {
    libc::MAP_HUGETLB | (page.trailing_zeros() << SIZE_SHIFT) as i32
}

/// For memfd_create(2).
pub fn memfd_flags(page: u64) -> u32 {
    MFD_HUGETLB | page.trailing_zeros() << SIZE_SHIFT
}

/// Too few huge pages on this host.
pub fn conflicts(checkpoint: &Checkpoint, conflicts: &mut Vec<Refusal>) {
    for (page, wanted) in needed(checkpoint) {
        let free = free(page / 1024);
        if free < wanted {
            conflicts.push(Refusal {
                pid: checkpoint.tree.root,
                object: "memory".to_owned(),
                reason: format!("it needs {wanted} huge pages of {} KiB, and {free} are free", page / 1024),
                hint: "have more: /proc/sys/vm/nr_hugepages, or /sys/kernel/mm/hugepages for other sizes".to_owned(),
            });
        }
    }
}

/// How many of each size: for private memory and for files that are made anew.
fn needed(checkpoint: &Checkpoint) -> BTreeMap<u64, u64> {
    let mut out: BTreeMap<u64, u64> = BTreeMap::new();
    for vma in checkpoint.processes.iter().flat_map(|p| &p.memory.vmas) {
        let private = matches!(vma.backing, Backing::Anon | Backing::File { shared: false, .. });
        if let (Some(page), true, false) = (vma.huge, private, vma.no_reserve) {
            *out.entry(page).or_default() += vma.len() / page;
        }
    }
    let files = &checkpoint.files;
    let described = files.iter().filter_map(|f| match &f.kind {
        crate::model::fd::Kind::Regular(r) => r.content,
        _ => None,
    });
    let contents: BTreeMap<u32, u64> = described
        .chain(checkpoint.shared.mapped.iter().filter_map(|m| m.content))
        .map(|content| (content.id, content.size))
        .collect();
    for (memfd, page) in checkpoint.shared.memfds.iter().filter_map(|m| Some((m, m.huge?))) {
        *out.entry(page).or_default() += contents.get(&memfd.content).map_or(0, |size| size.div_ceil(page));
    }
    out
}

/// Huge pages of so many KiB that nobody has been promised, and those that may be made when needed.
fn free(kib: u64) -> u64 {
    let number = |file: &str| {
        let text = std::fs::read_to_string(format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB/{file}"));
        text.ok().and_then(|t| t.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let overcommit = number("nr_overcommit_hugepages").saturating_sub(number("surplus_hugepages"));
    number("free_hugepages").saturating_sub(number("resv_hugepages")) + overcommit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_name_the_size() {
        assert_eq!(map_flags(2 << 20), libc::MAP_HUGETLB | libc::MAP_HUGE_2MB);
        assert_eq!(map_flags(1 << 30), libc::MAP_HUGETLB | libc::MAP_HUGE_1GB);
        assert_eq!(memfd_flags(2 << 20), libc::MFD_HUGETLB | libc::MFD_HUGE_2MB);
    }

    #[test]
    fn a_size_that_no_processor_has() {
        assert_eq!(free(12345), 0);
    }
}
