//! Which shared pages are the parent's: they need to be in the image only once.
//!
//! The page map tells that a page is shared, not with whom, so contents are compared: it is enough that they are equal.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Builder;

use crate::image::Run;
use crate::model::memory::{Inherits, Span};
use crate::model::process::Process;
use crate::model::tree::Tree;
use crate::model::{Addr, Pid};
use crate::tracer::HeldProcess;

use super::Error;
use super::look::unless_cancelled;

const PAGE: usize = 4096;
/// Bytes that are compared at a time: two of them stay in a core's own cache.
const PIECE: u64 = 256 * 1024;

/// One process as far as it matters here.
#[derive(Debug)]
pub(super) struct Sharer<'a> {
    /// It.
    pub held: &'a HeldProcess,
    /// Its private pages that others have mapped too.
    pub shared: &'a [Run],
}

/// A range to compare: the same addresses in two of the sharers, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    parent: usize,
    start: u64,
    len: u64,
    child: usize,
}

/// Finds the pages of each process that are the same as its parent's, and takes them out of its `runs`. All lists go by
/// the same index; the tree stands still until the image is written.
pub(super) fn look(
    tree: &Tree,
    sharers: &[Sharer<'_>],
    processes: &mut [Process],
    runs: &mut [&mut Vec<Run>],
    cancel: &AtomicBool,
) -> Result<(), Error> {
    let index: HashMap<Pid, usize> = processes.iter().enumerate().map(|(i, p)| (p.pid, i)).collect();
    let mut parents: HashMap<usize, usize> = HashMap::new();
    let mut pieces = Vec::new();
    for member in &tree.members {
        let (Some(&child), Some(&parent)) = (index.get(&member.pid), index.get(&member.ppid)) else { continue };
        let (Some(c), Some(p)) = (sharers.get(child), sharers.get(parent)) else { continue };
        // Inheritance goes back in the order of description only.
        if parent < child {
            parents.insert(child, parent);
            for run in common(c.shared, p.shared) {
                cut(run, |start, len| pieces.push(Piece { parent, start, len, child }));
            }
        }
    }
    // The same piece of a parent in all its children, one after the other: its bytes are at hand.
    pieces.sort_unstable();
    let mut equal: HashMap<usize, Vec<Run>> = HashMap::new();
    for (piece, same) in compare_all(sharers, &pieces, cancel)? {
        equal.entry(piece.child).or_default().extend(same);
    }
    for (child, mut same) in equal {
        let (Some(own), Some(process)) = (runs.get_mut(child), processes.get_mut(child)) else { continue };
        let Some(from) = parents.get(&child).and_then(|&p| tree_pid(sharers, p)) else { continue };
        same.sort_unstable_by_key(|r| r.start);
        // Cut at the borders of the process's own runs, so that each lies in one mapping.
        let same = common(own, &same);
        if same.is_empty() {
            continue;
        }
        **own = without(own, &same);
        let pages = same.iter().map(|r| Span { start: Addr(r.start), end: Addr(r.start + r.len) }).collect();
        process.memory.inherits = Some(Inherits { from, pages });
    }
    Ok(())
}

fn tree_pid(sharers: &[Sharer<'_>], index: usize) -> Option<Pid> {
    sharers.get(index).map(|s| s.held.pid)
}

/// Cuts a run at multiples of [`PIECE`], which are the same for all children.
fn cut(run: Run, mut piece: impl FnMut(u64, u64)) {
    let (mut at, end) = (run.start, run.start + run.len);
    while at < end {
        let next = end.min((at / PIECE + 1) * PIECE);
        piece(at, next - at);
        at = next;
    }
}

/// The pages of each piece that are the same in both processes.
fn compare_all(sharers: &[Sharer<'_>], pieces: &[Piece], cancel: &AtomicBool) -> Result<Vec<(Piece, Vec<Run>)>, Error> {
    const WORTH_A_THREAD: u64 = 4 << 20;
    let bytes: u64 = pieces.iter().map(|p| p.len).sum();
    let most = crate::sys::sched::processors().min(4);
    let threads = if bytes < WORTH_A_THREAD { 1 } else { most };
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(Piece, Vec<Run>)>, Error> {
        let mut comparer = Comparer::default();
        let mut out = Vec::new();
        loop {
            unless_cancelled(cancel)?;
            // Some at a time: neighbours share what was read of the parent.
            const BATCH: usize = 16;
            let from = next.fetch_add(BATCH, Ordering::Relaxed);
            let Some(batch) = pieces.get(from..(from + BATCH).min(pieces.len())).filter(|b| !b.is_empty()) else {
                return Ok(out);
            };
            for piece in batch {
                let same = comparer.compare(sharers, piece);
                let same = same.map_err(Error::io("comparing", "memory shared since a fork"))?;
                if !same.is_empty() {
                    out.push((*piece, same));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        // Where no thread is to be had, fewer do it all.
        let start = |_| Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).map_while(start).collect();
        let mut all = work()?;
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })
}

/// Buffers for two pieces.
#[derive(Default)]
struct Comparer {
    parents: Vec<u8>,
    childs: Vec<u8>,
    /// What is in `parents`.
    at_hand: Option<(usize, u64, u64)>,
}

impl Comparer {
    fn compare(&mut self, sharers: &[Sharer<'_>], piece: &Piece) -> io::Result<Vec<Run>> {
        let held = |index: usize| sharers.get(index).map(|s| s.held).ok_or(io::ErrorKind::NotFound);
        let Piece { parent, start, len, child } = *piece;
        if self.at_hand != Some((parent, start, len)) {
            self.at_hand = None;
            self.parents.resize(len as usize, 0);
            held(parent)?.read(Addr(start), &mut self.parents)?;
            self.at_hand = Some((parent, start, len));
        }
        self.childs.resize(len as usize, 0);
        held(child)?.read(Addr(start), &mut self.childs)?;
        Ok(equal_pages(&self.parents, &self.childs, start))
    }
}

/// The pages that are equal in two pieces of memory at `start`.
fn equal_pages(a: &[u8], b: &[u8], start: u64) -> Vec<Run> {
    if a == b {
        return vec![Run { start, len: a.len() as u64 }];
    }
    let mut out: Vec<Run> = Vec::new();
    for (at, (a, b)) in (start..).step_by(PAGE).zip(a.chunks(PAGE).zip(b.chunks(PAGE))) {
        if a == b {
            match out.last_mut() {
                Some(last) if last.start + last.len == at => last.len += a.len() as u64,
                _ => out.push(Run { start: at, len: a.len() as u64 }),
            }
        }
    }
    out
}

/// What is in both; cut where either is. Both ascending.
fn common(a: &[Run], b: &[Run]) -> Vec<Run> {
    let mut out = Vec::new();
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        let (x_end, y_end) = (x.start + x.len, y.start + y.len);
        let (start, end) = (x.start.max(y.start), x_end.min(y_end));
        if start < end {
            out.push(Run { start, len: end - start });
        }
        if x_end <= y_end {
            i += 1;
        } else {
            j += 1;
        }
    }
    out
}

/// What is in `a` and not in `b`. Both ascending.
fn without(a: &[Run], b: &[Run]) -> Vec<Run> {
    let mut out = Vec::new();
    let mut j = 0;
    for x in a {
        let (mut at, end) = (x.start, x.start + x.len);
        while b.get(j).is_some_and(|y| y.start + y.len <= at) {
            j += 1;
        }
        let mut k = j;
        while let Some(y) = b.get(k).filter(|y| y.start < end) {
            if y.start > at {
                out.push(Run { start: at, len: y.start - at });
            }
            at = end.min(y.start + y.len);
            k += 1;
        }
        if at < end {
            out.push(Run { start: at, len: end - at });
        }
        j = k.saturating_sub(1).max(j);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = PAGE as u64;

    /// Runs of a picture: `#` is a page of them, `|` begins another run.
    fn runs(text: &str) -> Vec<Run> {
        let mut out: Vec<Run> = Vec::new();
        let mut cut = false;
        let mut page = 0;
        for c in text.chars() {
            match (c, out.last_mut()) {
                ('|', _) => {
                    cut = true;
                    continue;
                }
                ('#', Some(last)) if last.start + last.len == page * SIZE && !cut => last.len += SIZE,
                ('#', _) => out.push(Run { start: page * SIZE, len: SIZE }),
                _ => {}
            }
            cut = false;
            page += 1;
        }
        out
    }

    fn pages(runs: &[Run]) -> Vec<u64> {
        runs.iter().flat_map(|r| (r.start / SIZE)..(r.start + r.len) / SIZE).collect()
    }

    #[test]
    fn borders_are_kept() {
        assert_eq!(common(&runs("##|##"), &runs(".###")), runs(".#|##"));
        assert_eq!(without(&runs("##|##"), &runs(".#")), runs("#.##"));
        assert_eq!(without(&runs("#####"), &runs(".#.#.")), runs("#.#.#"));
    }

    proptest! {
        #[test]
        fn every_page_is_in_one_or_the_other(a in "[.#|]{0,40}", b in "[.#|]{0,40}") {
            let (a, b) = (runs(&a), runs(&b));
            let inside = pages(&b);
            let (both, rest) = pages(&a).into_iter().partition::<Vec<_>, _>(|p| inside.contains(p));
            prop_assert_eq!(pages(&common(&a, &b)), both);
            prop_assert_eq!(pages(&without(&a, &b)), rest);
        }
    }

    #[test]
    fn pieces_end_at_the_same_places() {
        let mut got = Vec::new();
        cut(Run { start: PIECE - SIZE, len: PIECE + 2 * SIZE }, |start, len| got.push((start, len)));
        assert_eq!(got, [(PIECE - SIZE, SIZE), (PIECE, PIECE), (2 * PIECE, SIZE)]);
    }

    #[test]
    fn equal_pages_are_found_one_by_one() {
        let a = vec![1u8; 5 * PAGE];
        let mut b = a.clone();
        assert_eq!(equal_pages(&a, &b, SIZE), [Run { start: SIZE, len: 5 * SIZE }]);
        b[2 * PAGE + 77] = 2;
        assert_eq!(equal_pages(&a, &b, 0), runs("##.##"));
        assert_eq!(equal_pages(&a, &vec![3; 5 * PAGE], 0), []);
    }
}
