//! What a process keeps of the memory it is born with, so that it goes on sharing pages with its maker.
//!
//! Pure: from the model and the maps of the newborn to a plan. Whatever cannot be kept is read from the image again: that
//! costs memory, not content.

use std::collections::HashMap;

use crate::image::Run;
use crate::model::Pid;
use crate::model::memory::{Backing, Memory, Vma};
use crate::proc::smaps::Mapping;

use super::thp;

/// Addresses from the first to one past the last.
pub type Range = (u64, u64);

/// Where to map each mapping of each process for now: wider than it is to be where an heir has more of it. A forked
/// mapping can't be made longer but by mremap(2), and the kernel does not join it with what is mapped beside it.
/// Heirs come after those they inherit from.
pub fn ranges(processes: &[(Pid, &Memory)]) -> HashMap<Pid, Vec<Range>> {
    let own = |m: &Memory| m.vmas.iter().map(|v| (v.start.0, v.end.0)).collect::<Vec<Range>>();
    let mut all: HashMap<Pid, Vec<Range>> = processes.iter().map(|(pid, m)| (*pid, own(m))).collect();
    let by_pid: HashMap<Pid, &Memory> = processes.iter().copied().collect();
    for (pid, heir) in processes.iter().rev() {
        let Some(inherits) = &heir.inherits else { continue };
        let (Some(donor), Some(wanted)) = (by_pid.get(&inherits.from), all.get(pid).cloned()) else { continue };
        let Some(ranges) = all.get_mut(&inherits.from) else { continue };
        let vmas = &donor.vmas;
        for (vma, range) in heir.vmas.iter().zip(&wanted) {
            for at in overlapping(vmas, (vma.start.0, vma.end.0)) {
                if let (Some(theirs), Some(r)) = (vmas.get(at), ranges.get_mut(at)) {
                    if alike(theirs, vma) {
                        *r = (r.0.min(range.0), r.1.max(range.1));
                    }
                }
            }
        }
        // What is between two mappings belongs to the lower one.
        let mut floor = 0;
        for (at, vma) in vmas.iter().enumerate() {
            let ceiling = vmas.get(at + 1).map_or(u64::MAX, |next| next.start.0);
            if let Some(r) = ranges.get_mut(at) {
                *r = (r.0.max(floor).min(vma.start.0), r.1.min(ceiling));
                floor = r.1;
            }
        }
    }
    all
}

/// The indexes of mappings that have bytes in a range.
fn overlapping(vmas: &[Vma], (start, end): Range) -> std::ops::Range<usize> {
    let first = vmas.partition_point(|v| v.end.0 <= start);
    first..vmas.partition_point(|v| v.start.0 < end).max(first)
}

/// Whether one can be a copy of a part of the other: protection and most advice are set later.
fn alike(a: &Vma, b: &Vma) -> bool {
    let same = match (a.backing, b.backing) {
        (Backing::Anon, Backing::Anon) => true,
        (
            Backing::File { file, offset, shared: false, .. },
            Backing::File { file: other, offset: others, shared: false, .. },
        ) => file == other && a.start.0.wrapping_sub(offset) == b.start.0.wrapping_sub(others),
        _ => false,
    };
    let kind = |v: &Vma| (v.grows_down, v.no_reserve, thp::advice(v));
    same && a.huge.or(b.huge).is_none() && kind(a) == kind(b)
}

/// What stays of the memory a process is born with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// For each mapping of the process the range that is there already; empty: for none.
    pub kept: Vec<Option<Range>>,
    /// Where there are pages of its maker that it does not inherit, within what is kept.
    pub dropped: Vec<Range>,
}

impl Plan {
    /// Whether the mapping of this index is there already, and where.
    pub fn kept(&self, index: usize) -> Option<Range> {
        self.kept.get(index).copied().flatten()
    }
}

/// The parts of `whole` outside ranges, which are ascending.
pub fn gaps(whole: Range, ranges: impl Iterator<Item = Range>) -> Vec<Range> {
    let mut out = Vec::new();
    let mut at = whole.0;
    for (start, end) in ranges {
        if at < start {
            out.push((at, start.min(whole.1)));
        }
        at = at.max(end);
    }
    if at < whole.1 {
        out.push((at, whole.1));
    }
    out
}

/// Plans what `heir`, born as a copy of `donor`, keeps. `ranges`: where its mappings are to be for now; `pages`: those of
/// the donor, ascending; `maps`: what is mapped in the heir.
pub fn plan(heir: &Memory, donor: &Memory, ranges: &[Range], pages: &[Run], maps: &[Mapping]) -> Plan {
    let mut plan = Plan::default();
    let spans = heir.inherits.as_ref().map_or(&[][..], |i| &i.pages);
    for (vma, range) in heir.vmas.iter().zip(ranges) {
        let first = spans.partition_point(|s| s.end.0 <= vma.start.0);
        let last = spans.partition_point(|s| s.start.0 < vma.end.0);
        let inside = spans.get(first..last).unwrap_or_default();
        let kept = inside.first().and_then(|span| {
            let theirs = overlapping(&donor.vmas, (span.start.0, span.end.0)).next();
            let theirs = theirs.and_then(|at| donor.vmas.get(at)).filter(|theirs| alike(theirs, vma));
            let map = maps.get(maps.partition_point(|m| m.end <= vma.start.0));
            let map = map.filter(|m| m.start <= vma.start.0 && vma.end.0 <= m.end && !m.shared);
            theirs.and(map).map(|m| (range.0.max(m.start), range.1.min(m.end)))
        });
        if let Some(kept) = kept {
            let not_ours = gaps(kept, inside.iter().map(|s| (s.start.0, s.end.0)));
            plan.dropped.extend(not_ours.into_iter().filter(|gap| has_pages(pages, *gap)));
        }
        plan.kept.push(kept);
    }
    plan
}

fn has_pages(pages: &[Run], (start, end): Range) -> bool {
    let first = pages.partition_point(|r| r.start + r.len <= start);
    pages.get(first).is_some_and(|r| r.start < end)
}

/// The pages of a process in all: its own, which are given, and those it inherits.
pub fn all_pages(memory: &Memory, own: &[Run]) -> Vec<Run> {
    let mut all = own.to_vec();
    let spans = memory.inherits.iter().flat_map(|i| &i.pages);
    all.extend(spans.map(|s| Run { start: s.start.0, len: s.end.0 - s.start.0 }));
    all.sort_unstable_by_key(|r| r.start);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Addr;
    use crate::model::memory::{Inherits, Span};

    const PAGE: u64 = 4096;

    fn anon(start: u64, end: u64) -> Vma {
        Vma {
            start: Addr(start * PAGE),
            end: Addr(end * PAGE),
            prot: 3,
            backing: Backing::Anon,
            grows_down: false,
            no_reserve: false,
            locked: None,
            sealed: false,
            advice: vec![],
            huge: None,
            pkey: 0,
            anon_name: None,
        }
    }

    fn file(start: u64, end: u64, offset: u64) -> Vma {
        let backing = Backing::File { file: 1, offset: offset * PAGE, shared: false, may_write: true };
        Vma { backing, ..anon(start, end) }
    }

    fn memory(vmas: Vec<Vma>) -> Memory {
        Memory { vmas, ..Memory::default() }
    }

    /// With pages of process 1.
    fn heir(vmas: Vec<Vma>, pages: &[Range]) -> Memory {
        let span = |&(start, end): &Range| Span { start: Addr(start * PAGE), end: Addr(end * PAGE) };
        let inherits = Inherits { from: Pid(1), pages: pages.iter().map(span).collect() };
        Memory { inherits: Some(inherits), ..memory(vmas) }
    }

    fn map(start: u64, end: u64) -> Mapping {
        Mapping { start: start * PAGE, end: end * PAGE, prot: 3, ..Mapping::default() }
    }

    fn in_pages(ranges: &[Range]) -> Vec<Range> {
        ranges.iter().map(|r| (r.0 / PAGE, r.1 / PAGE)).collect()
    }

    fn in_bytes(ranges: &[Range]) -> Vec<Range> {
        ranges.iter().map(|r| (r.0 * PAGE, r.1 * PAGE)).collect()
    }

    #[test]
    fn there_is_room_for_what_heirs_have_more() {
        let donor = memory(vec![anon(10, 20), file(30, 40, 5), anon(50, 60), anon(60, 70)]);
        let first = heir(vec![anon(8, 25), file(28, 40, 3), anon(45, 75)], &[(12, 13)]);
        let mut second = heir(vec![file(10, 30, 0), file(32, 45, 99)], &[]);
        second.inherits.as_mut().unwrap().from = Pid(2);
        let of = |all: &[(Pid, &Memory)], pid| in_pages(&ranges(all)[&Pid(pid)]);
        let all = [(Pid(1), &donor), (Pid(2), &first), (Pid(3), &second)];
        // Not into other mappings, and no range overlaps another.
        assert_eq!(of(&all, 1), [(8, 25), (28, 40), (45, 60), (60, 75)]);
        // Other files and offsets are no copies.
        assert_eq!(of(&all, 2), [(8, 25), (28, 40), (45, 75)]);
        // What a grandchild needs is made by its grandparent.
        let mut third = heir(vec![anon(5, 27)], &[]);
        third.inherits.as_mut().unwrap().from = Pid(2);
        assert_eq!(of(&[(Pid(1), &donor), (Pid(2), &first), (Pid(3), &third)], 1)[0], (5, 27));
    }

    fn planned(heir: &Memory, donor: &Memory, pages: &[Range], maps: &[Mapping]) -> (Vec<Option<Range>>, Vec<Range>) {
        let ranges: Vec<Range> = heir.vmas.iter().map(|v| (v.start.0, v.end.0)).collect();
        let pages: Vec<Run> = in_bytes(pages).iter().map(|r| Run { start: r.0, len: r.1 - r.0 }).collect();
        let plan = plan(heir, donor, &ranges, &pages, maps);
        let kept = plan.kept.iter().map(|k| k.map(|k| (k.0 / PAGE, k.1 / PAGE))).collect();
        (kept, in_pages(&plan.dropped))
    }

    #[test]
    fn what_is_inherited_is_kept_and_the_rest_is_dropped() {
        let donor = memory(vec![anon(10, 20), file(30, 40, 5)]);
        let heir = heir(vec![anon(12, 18), file(30, 40, 5)], &[(13, 14), (16, 18)]);
        let (kept, dropped) = planned(&heir, &donor, &[(10, 20)], &[map(10, 20), map(30, 40)]);
        assert_eq!(kept, [Some((12, 18)), None]);
        assert_eq!(dropped, [(12, 13), (14, 16)]);
        let (_, dropped) = planned(&heir, &donor, &[(13, 14), (15, 20)], &[map(10, 20)]);
        assert_eq!(dropped, [(14, 16)]);
    }

    #[test]
    fn what_is_not_the_same_mapping_is_not_kept() {
        let donor = memory(vec![anon(10, 20)]);
        let other = |vma: Vma| planned(&heir(vec![vma], &[(13, 14)]), &donor, &[(10, 20)], &[map(10, 20)]).0;
        assert_eq!(other(anon(10, 20)), [Some((10, 20))]);
        assert_eq!(other(anon(10, 21)), [None]);
        assert_eq!(other(file(10, 20, 0)), [None]);
        assert_eq!(other(Vma { no_reserve: true, ..anon(10, 20) }), [None]);
        assert_eq!(other(Vma { grows_down: true, ..anon(10, 20) }), [None]);
        assert_eq!(other(Vma { advice: vec![libc::MADV_DONTFORK], ..anon(10, 20) }), [Some((10, 20))]);
        assert_eq!(other(Vma { advice: vec![libc::MADV_HUGEPAGE], ..anon(10, 20) }), [None]);
        let whole = heir(vec![anon(10, 20)], &[(13, 14)]);
        assert_eq!(planned(&whole, &donor, &[(10, 20)], &[map(10, 15), map(15, 20)]).0, [None]);
        assert_eq!(planned(&whole, &donor, &[(10, 20)], &[]).0, [None]);
    }

    #[test]
    fn gaps_are_what_is_left() {
        let of = |ranges: &[Range]| gaps((0, 10), ranges.iter().copied());
        assert_eq!(of(&[]), [(0, 10)]);
        assert_eq!(of(&[(0, 2), (2, 4), (6, 10)]), [(4, 6)]);
        assert_eq!(of(&[(0, 10)]), []);
    }
}
