//! Contents of deleted files that memory is mapped from.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use crate::image::MemoryPiece;
use crate::model::{Addr, Pid};
use crate::sys::mem::{PageQuery, page, pagemap_scan};
use crate::tracer::Held;

use super::Error;
use super::contents::Contents;
use super::mapped::Mapped;
use super::memory::GoneMaps;
use super::refusals::Refusals;
use super::{keep, memfd, shared};

const PAGE: usize = 4096;

/// Gives every deleted file its content: of a descriptor open on it, of the executable it is, or else what can be
/// seen of it through its mappings.
pub(super) fn capture(held: &Held, maps: &GoneMaps, mapped: &mut Mapped, contents: &mut Contents) -> Result<(), Error> {
    for (index, key) in mapped.without_content() {
        let huge = mapped.huge(index);
        let content = match contents.known(key) {
            Some(content) => content,
            None => match executable(held, key) {
                Some((file, size)) => {
                    let seals_of = file.try_clone().map_err(Error::io("opening", "a file"))?;
                    let content = contents.file(key, size, || Ok(file)).map_err(Error::io("opening", "a file"))?;
                    if memfd::is(&mapped.path(index).0) {
                        memfd::capture(contents, content, Some(&seals_of), None);
                    }
                    content
                }
                None => {
                    let content = match huge.map(|_| shared_mappings(held, maps, index)).transpose()?.flatten() {
                        Some((size, pieces)) => contents.memory(size, pieces),
                        None => contents.bytes(through_mappings(held, maps, index)?),
                    };
                    if memfd::is(&mapped.path(index).0) || huge.is_some() {
                        memfd::capture(contents, content, None, huge);
                    }
                    content
                }
            },
        };
        mapped.set_content(index, content);
    }
    Ok(())
}

/// Refuses mapped files that are deleted, where contents are not wanted.
pub(super) fn refuse(root: Pid, mapped: &Mapped, refusals: &mut Refusals) {
    for (index, _) in mapped.without_content() {
        let path = mapped.path(index);
        if !memfd::is(&path.0) && mapped.huge(index).is_none() {
            refusals.add(root, format!("mapped file {}", path.display()), keep::DELETED, keep::DELETED_HINT);
        }
    }
}

/// The file, if it is the executable of a member.
fn executable(held: &Held, key: (u64, u64)) -> Option<(File, u64)> {
    held.processes.iter().filter(|p| !p.threads.is_empty()).find_map(|p| {
        let path = format!("/proc/{}/exe", p.live());
        let meta = std::fs::metadata(&path).ok()?;
        if (meta.dev(), meta.ino()) != key {
            return None;
        }
        Some((File::open(path).ok()?, meta.size()))
    })
}

/// Where the whole of a file can be read through shared mappings, once it is written; and its size.
fn shared_mappings(held: &Held, maps: &GoneMaps, index: u32) -> Result<Option<(u64, Vec<MemoryPiece>)>, Error> {
    let sharers: Vec<_> =
        maps.iter().filter(|(file, _, shared)| *file == index && *shared).map(|(_, s, _)| *s).collect();
    let of_file = maps.iter().filter(|(file, ..)| *file == index).map(|(_, s, _)| *s);
    let (size, mut pieces, mut at) = (shared::size(&of_file.collect::<Vec<_>>()), Vec::new(), 0);
    for s in shared::cover(&sharers) {
        let Some(p) = held.processes.get(s.process).filter(|_| s.offset == at) else { return Ok(None) };
        let memory = p.mem().and_then(File::try_clone).map_err(Error::of(p.host, "opening its memory"))?;
        pieces.push(MemoryPiece { offset: s.offset, len: s.len, memory, addr: s.addr });
        at += s.len;
    }
    Ok((at == size).then_some((size, pieces)))
}

/// What the mappings show, up to the end of the furthest. Pages that a process has changed for itself are passed over:
/// another may show them as they are in the file, and each process keeps its own in the image anyway.
fn through_mappings(held: &Held, maps: &GoneMaps, index: u32) -> Result<Vec<u8>, Error> {
    let of_file = || maps.iter().filter(|(file, ..)| *file == index);
    let size = of_file().map(|(_, s, _)| s.offset.saturating_add(s.len)).max().unwrap_or(0);
    let too_large = || Error::io("saving", "a deleted file")(std::io::ErrorKind::FileTooLarge.into());
    let mut out = Vec::new();
    out.try_reserve_exact(usize::try_from(size).map_err(|_| too_large())?).map_err(|_| too_large())?;
    out.resize(size as usize, 0u8);
    for (_, s, shared) in of_file() {
        let Some(p) = held.processes.get(s.process) else { continue };
        let failed = |e| Error::of(p.host, "reading the page map")(e);
        let own = if *shared {
            Vec::new()
        } else {
            let other = page::PFNZERO | page::FILE;
            let query = PageQuery { inverted: other, all: other, any: page::PRESENT | page::SWAPPED };
            let pagemap = File::open(format!("/proc/{}/pagemap", p.live())).map_err(failed)?;
            pagemap_scan(pagemap.as_fd(), Addr(s.addr), Addr(s.addr + s.len), query).map_err(failed)?
        };
        let Some(target) = out.get_mut(s.offset as usize..(s.offset + s.len) as usize) else { continue };
        for (i, page) in target.chunks_mut(PAGE).enumerate() {
            let addr = Addr(s.addr + (i * PAGE) as u64);
            if !own.iter().any(|(from, to)| *from <= addr && addr < *to) {
                let mut bytes = [0u8; PAGE];
                // Pages beyond the end of the file can't be read, and are zero if it is made longer.
                if p.read(addr, &mut bytes).is_ok() {
                    page.copy_from_slice(bytes.get(..page.len()).unwrap_or_default());
                }
            }
        }
    }
    Ok(out)
}
