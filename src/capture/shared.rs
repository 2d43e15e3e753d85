//! Shared anonymous memory: each piece once, read through any process that maps it.

use std::collections::HashMap;
use std::fs::File;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::image::Run;
use crate::model::Addr;
use crate::tracer::{self, Answers, Held, Job, Room, SCRATCH_LEN};

use super::Error;
use super::memory::Sharer;

const PAGE: u64 = 4096;

/// Bytes of an object: up to the furthest that anybody maps.
pub(super) fn size(sharers: &[Sharer]) -> u64 {
    sharers.iter().map(|s| s.offset.saturating_add(s.len)).max().unwrap_or(0)
}

/// The mappings to read an object through: ascending, not overlapping.
pub(super) fn cover(sharers: &[Sharer]) -> Vec<Sharer> {
    let mut sorted = sharers.to_vec();
    sorted.sort_by_key(|s| (s.offset, std::cmp::Reverse(s.len)));
    let mut out: Vec<Sharer> = Vec::new();
    let mut done = 0;
    for s in sorted {
        let end = s.offset.saturating_add(s.len);
        let from = s.offset.max(done);
        if from < end {
            let skip = from - s.offset;
            out.push(Sharer { addr: s.addr + skip, offset: from, len: end - from, ..s });
            done = end;
        }
    }
    out
}

/// A piece of an object whose pages are asked for with all else.
#[derive(Debug)]
pub(super) struct Asked {
    job: usize,
    room: Room,
    offset: u64,
}

/// Asks for the pages of objects in the first calls of processes that map them; as [`resident`] does, which is for those
/// left out (`None`): in swap, or too large for the memory that such calls may take.
pub(super) fn ask(objects: &[Vec<Sharer>], jobs: &mut [Job]) -> Vec<Option<Vec<Asked>>> {
    /// Bytes of answers in one process, a byte a page.
    const MOST: u64 = 1 << 20;
    let firsts = jobs.iter().enumerate().filter(|(_, job)| job.thread == 0);
    let mut firsts: HashMap<usize, (usize, u64)> = firsts.map(|(at, job)| (job.process, (at, MOST))).collect();
    let mut of_object = |sharers: &Vec<Sharer>| {
        let cover = cover(sharers);
        let room =
            |s: &Sharer| firsts.get(&s.process).is_some_and(|(_, left)| s.len / PAGE <= *left / cover.len() as u64);
        if sharers.iter().any(|s| s.swapped) || !cover.iter().all(room) {
            return None;
        }
        let mut asked = Vec::new();
        for s in &cover {
            let (at, left) = firsts.get_mut(&s.process)?;
            *left -= s.len / PAGE;
            let job = jobs.get_mut(*at)?;
            for skip in (0..s.len).step_by((SCRATCH_LEN * PAGE) as usize) {
                let len = (s.len - skip).min(SCRATCH_LEN * PAGE);
                let room = job.calls.room(len / PAGE);
                job.calls.call_into("mincore", libc::SYS_mincore, &[s.addr + skip, len], 2, room);
                asked.push(Asked { job: *at, room, offset: s.offset + skip });
            }
        }
        Some(asked)
    };
    objects.iter().map(&mut of_object).collect()
}

/// What was said of the pages of an object.
pub(super) fn answered(asked: &[Asked], answers: &[Answers]) -> Vec<Run> {
    let mut runs = Vec::new();
    for piece in asked {
        let present = answers.get(piece.job).map_or(&[][..], |a| a.bytes(piece.room));
        note(&mut runs, present, piece.offset);
    }
    runs
}

/// Adds the pages that mincore(2) has found, `present` being those from `offset` on.
fn note(runs: &mut Vec<Run>, present: &[u8], offset: u64) {
    for (i, _) in present.iter().enumerate().filter(|(_, byte)| **byte & 1 == 1) {
        push(runs, offset + i as u64 * PAGE, PAGE);
    }
}

/// The pages of an object that exist. Page tables don't tell: they show what each process has touched, not what is
/// there. mincore(2) knows the page cache; of what is in swap only the amount is known, and then all is taken.
pub(super) fn resident(held: &mut Held, cover: &[Sharer], swapped: bool) -> Result<Vec<Run>, Error> {
    if let Some(runs) = data(held, cover) {
        return Ok(runs);
    }
    let mut runs = Vec::new();
    if swapped {
        cover.iter().for_each(|s| push(&mut runs, s.offset, s.len));
        return Ok(runs);
    }
    for s in cover {
        let Some(process) = held.processes.get_mut(s.process) else { continue };
        let mut remote = process.remote(0)?;
        let scratch = remote.scratch();
        let mut at = 0;
        while at < s.len {
            let pages = ((s.len - at) / PAGE).min(SCRATCH_LEN);
            if pages == 0 {
                break;
            }
            let args = [s.addr + at, pages * PAGE, scratch.0, 0, 0, 0];
            remote.call("mincore", libc::SYS_mincore, args)?;
            let mut present = vec![0u8; pages as usize];
            remote.read(scratch, &mut present)?;
            note(&mut runs, &present, s.offset + at);
            at += pages * PAGE;
        }
    }
    Ok(runs)
}

/// The same from the file that the kernel has behind such memory, holes of which cost nothing. Only root may open it
/// (CAP_CHECKPOINT_RESTORE in the first user namespace: proc_pid_map_files(5)).
fn data(held: &Held, cover: &[Sharer]) -> Option<Vec<Run>> {
    let mut runs = Vec::new();
    for s in cover {
        let (start, end) = s.mapping;
        let pid = held.processes.get(s.process)?.live();
        let file = File::open(format!("/proc/{pid}/map_files/{start:x}-{end:x}")).ok()?;
        let (mut at, last) = (s.offset, s.offset + s.len);
        while at < last {
            let from = match lseek(&file, i64::try_from(at).ok()?, Whence::SeekData) {
                Ok(from) => from as u64,
                // Nothing but a hole up to the end.
                Err(Errno::ENXIO) => break,
                Err(_) => return None,
            };
            let to = (lseek(&file, from as i64, Whence::SeekHole).ok()? as u64).min(last);
            if from >= to {
                break;
            }
            push(&mut runs, from, to - from);
            at = to;
        }
    }
    Some(runs)
}

fn push(runs: &mut Vec<Run>, start: u64, len: u64) {
    match runs.last_mut() {
        Some(last) if last.start + last.len == start => last.len += len,
        _ => runs.push(Run { start, len }),
    }
}

/// Has what lies behind guard pages mapped where it can be read.
pub(super) fn uncover(held: &mut Held, cover: &mut [Sharer]) -> Result<(), Error> {
    for s in cover.iter_mut().filter(|s| s.guarded) {
        if let Some(process) = held.processes.get_mut(s.process) {
            s.addr = process.map_again(Addr(s.addr), s.len)?.0;
        }
    }
    Ok(())
}

/// Whether a process has pages of an object in another order than they have there, as after remap_file_pages(2), which the kernel
/// does by a mapping for each piece. Then it may come back to pages that nobody has mapped now.
fn is_reordered(sharers: &[Sharer]) -> bool {
    let mut begins = HashMap::new();
    sharers.iter().any(|s| {
        let begin = s.addr.wrapping_sub(s.offset);
        *begins.entry(s.process).or_insert(begin) != begin
    })
}

/// Of an object whose pages are in another order somewhere: all of it, mapped in one of its processes until that is let go.
/// `None` where that is not permitted, or there is no need.
pub(super) fn whole(held: &mut Held, sharers: &[Sharer]) -> Result<Option<Sharer>, Error> {
    let Some(first) = sharers.first().filter(|_| is_reordered(sharers)) else { return Ok(None) };
    let Some(process) = held.processes.get_mut(first.process) else { return Ok(None) };
    let known = size(sharers);
    let mut len = known;
    loop {
        // Where the object ends is told by its mappings only, which end at first where it does; so beyond that, to see.
        len = len.saturating_mul(2);
        let at = match process.map_again(Addr(first.addr), len) {
            Ok(at) => at,
            Err(tracer::Error::Call { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        // From its first page on, and without touching any (mm/mmap.c, remap_file_pages).
        let args = [at.0, len, 0, 0, libc::MAP_NONBLOCK as u64, 0];
        if process.remote(0)?.try_call(libc::SYS_remap_file_pages, args)?.is_err() {
            return Ok(None);
        }
        let there = |page: u64| process.read(Addr(at.0 + page * PAGE), &mut [0]).is_ok();
        let (mut low, mut high) = (known / PAGE, len / PAGE);
        if there(high - 1) {
            continue;
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if there(middle) { low = middle + 1 } else { high = middle }
        }
        let (mapping, swapped) = ((at.0, at.0 + len), sharers.iter().any(|s| s.swapped));
        let whole = Sharer { addr: at.0, offset: 0, len: low * PAGE, mapping, swapped, guarded: false, ..*first };
        return Ok(Some(whole));
    }
}

/// Where byte `offset` of an object is, and how many bytes follow it there.
pub(super) fn locate(cover: &[Sharer], offset: u64) -> Option<(usize, Addr, u64)> {
    let at = cover.partition_point(|s| s.offset + s.len <= offset);
    let s = cover.get(at).filter(|s| s.offset <= offset)?;
    let skip = offset - s.offset;
    Some((s.process, Addr(s.addr + skip), s.len - skip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sharer(process: usize, addr: u64, offset: u64, len: u64) -> Sharer {
        Sharer { process, addr, offset, len, mapping: (addr, addr + len), swapped: false, guarded: false }
    }

    #[test]
    fn another_order_shows() {
        let split = [sharer(0, 0x10000, 0x1000, 0x1000), sharer(0, 0x13000, 0x4000, 0x1000)];
        assert!(!is_reordered(&split), "what is between was unmapped");
        assert!(!is_reordered(&[split[0], sharer(1, 0x50000, 0, 0x4000)]), "each process has its own addresses");
        assert!(is_reordered(&[split[0], sharer(0, 0x11000, 0, 0x1000)]));
    }

    #[test]
    fn overlapping_views_cover_an_object_once() {
        let sharers = [
            sharer(0, 0x10000, 0x3000, 0x2000),
            sharer(1, 0x50000, 0, 0x4000),
            sharer(2, 0x90000, 0x8000, 0x1000),
            sharer(3, 0xa0000, 0x1000, 0x1000),
        ];
        let cover = cover(&sharers);
        let flat: Vec<_> = cover.iter().map(|s| (s.process, s.addr, s.offset, s.len)).collect();
        assert_eq!(flat, [(1, 0x50000, 0, 0x4000), (0, 0x11000, 0x4000, 0x1000), (2, 0x90000, 0x8000, 0x1000)]);
        assert_eq!(size(&sharers), 0x9000);
        assert_eq!(locate(&cover, 0x3fff), Some((1, Addr(0x53fff), 1)));
        assert_eq!(locate(&cover, 0x4000), Some((0, Addr(0x11000), 0x1000)));
        assert_eq!(locate(&cover, 0x5000), None);
        assert_eq!(locate(&cover, 0x9000), None);
    }
}
