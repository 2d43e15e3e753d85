//! Private pages that processes share since a fork, until one of them writes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use crate::image::Run;
use crate::model::Addr;
use crate::proc::smaps::Mapping;
use crate::sys::mem::{PageQuery, page, pagemap_read};

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

/// Of the pages of `run` those that somebody else has mapped too.
pub(super) fn not_exclusive(pagemap: &File, run: Run, out: &mut Vec<Run>) -> io::Result<()> {
    let query = PageQuery { inverted: page::EXCLUSIVE, all: page::EXCLUSIVE, any: 0 };
    for (from, to) in pagemap_read(pagemap.as_fd(), Addr(run.start), Addr(run.start + run.len), query)? {
        match out.last_mut() {
            Some(last) if last.start + last.len == from.0 => last.len += to.0 - from.0,
            _ => out.push(Run { start: from.0, len: to.0 - from.0 }),
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
