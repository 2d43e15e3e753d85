//! Transparent huge pages. The kernel decides for one or against it at the first touch, so that its advice has to be there
//! when memory is filled; advice given later would leave the program with small pages.

use crate::image::Run;
use crate::model::memory::{Backing, Vma};

/// Bytes of a transparent huge page.
const HUGE: u64 = 2 << 20;

/// What a mapping of private memory is told about huge pages: MADV_HUGEPAGE, MADV_NOHUGEPAGE or nothing.
pub fn advice(vma: &Vma) -> Option<i32> {
    let known = [libc::MADV_HUGEPAGE, libc::MADV_NOHUGEPAGE];
    let anonymous = matches!(vma.backing, Backing::Anon);
    vma.advice.iter().copied().find(|advice| anonymous && known.contains(advice))
}

/// Whether the advice of a mapping may be there before its pages, which are among `runs` (ascending): huge pages would
/// hardly take more memory than it had. A program may have given parts of them back.
pub fn before_pages(vma: &Vma, runs: &[Run]) -> bool {
    if advice(vma) != Some(libc::MADV_HUGEPAGE) {
        return true;
    }
    let (first, last) = (vma.start.0.next_multiple_of(HUGE), vma.end.0 / HUGE * HUGE);
    let (mut there, mut blocks, mut next) = (0, 0, first);
    for run in runs.get(runs.partition_point(|r| r.start + r.len <= first)..).unwrap_or_default() {
        let (start, end) = (run.start.max(first), (run.start + run.len).min(last));
        if start >= end {
            break;
        }
        there += end - start;
        let (from, to) = ((start / HUGE * HUGE).max(next), end.next_multiple_of(HUGE));
        blocks += to.saturating_sub(from) / HUGE;
        next = next.max(to);
    }
    blocks * HUGE - there <= there / 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Addr;

    fn mapping(start: u64, end: u64, advice: &[i32]) -> Vma {
        let mut vma = crate::image::sample().processes[1].memory.vmas[0].clone();
        (vma.start, vma.end, vma.backing, vma.advice) = (Addr(start), Addr(end), Backing::Anon, advice.to_vec());
        vma
    }

    #[test]
    fn the_advice_of_private_memory_is_known() {
        let all = [libc::MADV_DONTFORK, libc::MADV_NOHUGEPAGE];
        assert_eq!(advice(&mapping(0, HUGE, &all)), Some(libc::MADV_NOHUGEPAGE));
        assert_eq!(advice(&mapping(0, HUGE, &all[..1])), None);
        let backing = Backing::SharedAnon { object: 0, offset: 0, read_only: false };
        assert_eq!(advice(&Vma { backing, ..mapping(0, HUGE, &[libc::MADV_HUGEPAGE]) }), None);
    }

    #[test]
    fn huge_pages_are_for_memory_that_is_nearly_full() {
        let fits = |runs: &[(u64, u64)]| {
            let runs: Vec<Run> = runs.iter().map(|&(start, end)| Run { start, len: end - start }).collect();
            before_pages(&mapping(HUGE - 4096, 6 * HUGE, &[libc::MADV_HUGEPAGE]), &runs)
        };
        assert!(fits(&[]));
        assert!(fits(&[(HUGE - 4096, HUGE)]), "no huge page fits there");
        assert!(fits(&[(HUGE - 8192, 3 * HUGE), (8 * HUGE, 8 * HUGE + 4096)]));
        assert!(!fits(&[(HUGE, HUGE + 4096)]));
        assert!(fits(&[(HUGE, 4 * HUGE + HUGE / 2), (4 * HUGE + HUGE / 2 + 4096, 5 * HUGE)]));
        assert!(!fits(&[(HUGE, HUGE + HUGE / 2), (2 * HUGE + HUGE / 2, 3 * HUGE)]));
        assert!(before_pages(&mapping(0, 6 * HUGE, &[libc::MADV_NOHUGEPAGE]), &[Run { start: 0, len: 4096 }]));
    }
}
