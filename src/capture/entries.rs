//! The pages of a process on kernels without PAGEMAP_SCAN (before Linux 6.7), from the entries of its page map. They don't tell the
//! zero page from others.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use crate::image::{PAGE, Run};
use crate::model::Addr;
use crate::proc::smaps::Mapping;
use crate::sys::mem::{PageQuery, Ranges, page, pagemap_read};
use crate::tracer::HeldProcess;

use super::forked;

/// Every private page of the process that is neither a file's nor the zero page. What smaps has found to be empty is passed over, as
/// there may be terabytes of it.
pub(super) fn pages(p: &HeldProcess, pagemap: &File, maps: &[Mapping]) -> io::Result<Ranges> {
    let query = PageQuery { inverted: page::FILE, all: page::FILE, any: page::PRESENT | page::SWAPPED };
    let mut out = Vec::new();
    for m in maps.iter().filter(|m| !m.shared && (m.resident > 0 || m.swap > 0 || m.huge().is_some())) {
        let found = pagemap_read(pagemap.as_fd(), Addr(m.start), Addr(m.end), query)?;
        // The zero page is in no count of pages.
        let kib: u64 = found.iter().map(|(from, to)| (to.0 - from.0) / 1024).sum();
        if m.has_file() || m.huge().is_some() || kib <= m.resident.saturating_add(m.swap) {
            out.extend(found);
            continue;
        }
        for (from, to) in found {
            without_zeros(p, pagemap, Run { start: from.0, len: to.0 - from.0 }, &mut out)?;
        }
    }
    Ok(out)
}

/// Of pages of anonymous memory those that are not zeros which others have mapped, too, as the zero page is.
fn without_zeros(p: &HeldProcess, pagemap: &File, run: Run, out: &mut Ranges) -> io::Result<()> {
    let mut others = Vec::new();
    forked::not_exclusive(pagemap, run, &mut others)?;
    let (mut from, mut bytes) = (run.start, vec![0; 256 * PAGE as usize]);
    for other in others {
        for at in (other.start..other.start + other.len).step_by(bytes.len()) {
            let len = (other.start + other.len - at).min(bytes.len() as u64) as usize;
            let read = bytes.get_mut(..len).unwrap_or_default();
            if p.read(Addr(at), read).is_err() {
                continue;
            }
            for (page, start) in read.chunks(PAGE as usize).zip((at..).step_by(PAGE as usize)) {
                if page.iter().all(|&b| b == 0) {
                    if from < start {
                        out.push((Addr(from), Addr(start)));
                    }
                    from = start + PAGE;
                }
            }
        }
    }
    if from < run.start + run.len {
        out.push((Addr(from), Addr(run.start + run.len)));
    }
    Ok(())
}
