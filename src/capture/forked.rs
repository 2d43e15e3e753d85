//! Private pages that processes share since a fork, until one of them writes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::image::{PAGE, Run};
use crate::proc::smaps::Mapping;

/// Of the private pages in `runs`, those that somebody else has mapped too, or that are in swap. Both ascending.
pub(super) fn shared(pagemap: &File, maps: &[Mapping], runs: &[Run]) -> io::Result<Vec<Run>> {
    let mut out = Vec::new();
    let mut maps = maps.iter().peekable();
    for run in runs {
        while maps.next_if(|m| m.end <= run.start).is_some() {}
        // Most mappings have none, and smaps has counted them already.
        if maps.peek().is_some_and(|m| m.others_map > 0 || m.swap > 0) {
            not_exclusive(pagemap, *run, &mut out)?;
        }
    }
    Ok(out)
}

/// Bit 56 of a page's entry: it is mapped here and nowhere else (Documentation/admin-guide/mm/pagemap.rst).
pub(super) fn not_exclusive(pagemap: &File, run: Run, out: &mut Vec<Run>) -> io::Result<()> {
    const ENTRY: u64 = 8;
    const EXCLUSIVE: u64 = 1 << 56;
    let mut buf = [0u8; 32 * 1024];
    let mut at = run.start;
    let end = run.start + run.len;
    while at < end {
        let want = ((end - at) / PAGE * ENTRY).min(buf.len() as u64) as usize;
        let entries = buf.get_mut(..want).unwrap_or_default();
        pagemap.read_exact_at(entries, at / PAGE * ENTRY)?;
        for entry in entries.chunks_exact(ENTRY as usize).filter_map(|e| e.first_chunk()) {
            if u64::from_ne_bytes(*entry) & EXCLUSIVE == 0 {
                match out.last_mut() {
                    Some(last) if last.start + last.len == at => last.len += PAGE,
                    _ => out.push(Run { start: at, len: PAGE }),
                }
            }
            at += PAGE;
        }
    }
    Ok(())
}

/// Whether any byte of `start..start + len` is in one of `runs`, which are ascending.
pub(super) fn touches(runs: &[Run], start: u64, len: u64) -> bool {
    let first = runs.partition_point(|r| r.start + r.len <= start);
    runs.get(first).is_some_and(|r| r.start < start + len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_touch_what_they_have_a_byte_of() {
        let runs = [Run { start: 0x1000, len: 0x2000 }, Run { start: 0x8000, len: 0x1000 }];
        for (start, len, expected) in
            [(0, 0x1000, false), (0, 0x1001, true), (0x2fff, 1, true), (0x3000, 0x5000, false), (0x9000, 1, false)]
        {
            assert_eq!(touches(&runs, start, len), expected, "{start:#x} {len:#x}");
        }
    }
}
