//! The pages of a small tree, copied while it stands still: the image is made of them once it goes on.

use std::io;

use crate::image::{self, PageSource, Part, Run};

/// Bytes of which there are at most so many to be copied twice: from there on the image's own pages, which large trees
/// find made ahead, are worth more.
const MOST: u64 = 8 << 20;
/// So many mappings take as long to be written down as fresh memory for a page.
const MAPPINGS_PER_PAGE: u64 = 2;

/// Memory for as many bytes as a tree that still runs seems to have, with its pages; none if those are too many.
pub(super) fn room(expected: u64) -> Vec<u8> {
    // Zeros would be promised only.
    vec![1; if expected > MOST { 0 } else { expected as usize }]
}

/// All pages of all parts.
#[derive(Debug)]
pub(super) struct Copied {
    bytes: Vec<u8>,
    /// For each part its runs, and where in `bytes` each begins.
    parts: Vec<Vec<(Run, usize)>>,
}

impl Copied {
    /// Copies what `source` has into `room`; `None` if it is too much, given how many mappings are yet to be written down.
    pub fn of(
        parts: &[Part],
        source: &dyn PageSource,
        room: Vec<u8>,
        mappings: usize,
    ) -> Result<Option<Copied>, image::Error> {
        let lens = parts.iter().flat_map(|part| &part.runs).map(|run| run.len);
        let total = lens.fold(0, u64::saturating_add);
        if total > MOST.max(mappings as u64 / MAPPINGS_PER_PAGE * 4096) {
            return Ok(None);
        }
        let bytes = if room.len() < total as usize { vec![0; total as usize] } else { room };
        let mut copied = Copied { bytes, parts: Vec::with_capacity(parts.len()) };
        let mut rest = copied.bytes.as_mut_slice();
        let mut at = 0;
        for (index, part) in parts.iter().enumerate() {
            let mut runs = Vec::with_capacity(part.runs.len());
            for run in &part.runs {
                let (now, later) = rest.split_at_mut(run.len as usize);
                let failed = |source| image::Error::Page { part: part.name.clone(), addr: run.start, source };
                source.fill(index, run.start, now).map_err(failed)?;
                runs.push((*run, at));
                at += now.len();
                rest = later;
            }
            copied.parts.push(runs);
        }
        Ok(Some(copied))
    }
}

impl PageSource for Copied {
    fn fill(&self, part: usize, addr: u64, buf: &mut [u8]) -> io::Result<()> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let runs = self.parts.get(part).ok_or_else(missing)?;
        let next = runs.partition_point(|(run, _)| run.start <= addr);
        let (run, at) = next.checked_sub(1).and_then(|i| runs.get(i)).ok_or_else(missing)?;
        let skip = addr - run.start;
        let whole = self.bytes.get(*at..at + run.len as usize).and_then(|bytes| bytes.get(skip as usize..));
        buf.copy_from_slice(whole.and_then(|bytes| bytes.get(..buf.len())).ok_or_else(missing)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each page full of its number.
    struct Numbered;

    impl PageSource for Numbered {
        fn fill(&self, part: usize, addr: u64, buf: &mut [u8]) -> io::Result<()> {
            if part > 1 {
                return Err(io::ErrorKind::NotFound.into());
            }
            for (i, byte) in buf.iter_mut().enumerate() {
                *byte = ((addr + i as u64) / 4096) as u8 + 100 * part as u8;
            }
            Ok(())
        }
    }

    fn part(name: &str, runs: &[(u64, u64)]) -> Part {
        let runs = runs.iter().map(|&(page, len)| Run { start: page * 4096, len: len * 4096 }).collect();
        Part { name: name.to_owned(), runs }
    }

    #[test]
    fn what_was_copied_is_found() {
        let parts = [part("a", &[(1, 2), (5, 1)]), part("b", &[]), part("c", &[(7, 1)])];
        for room in [room(0), room(4096 * 9)] {
            let copied = Copied::of(&parts[..2], &Numbered, room, 0).unwrap().unwrap();
            let read = |part, addr, len| {
                let mut buf = vec![0; len];
                copied.fill(part, addr, &mut buf).ok().map(|()| buf)
            };
            assert_eq!(read(0, 4096, 8192).map(|b| (b[4095], b[4096])), Some((1, 2)));
            assert_eq!(read(0, 8192, 4096), Some(vec![2; 4096]));
            assert_eq!(read(0, 5 * 4096, 4096), Some(vec![5; 4096]));
            assert_eq!(
                [read(0, 0, 1), read(0, 3 * 4096, 1), read(1, 4096, 1), read(2, 4096, 1)],
                [None, None, None, None]
            );
        }
        assert!(Copied::of(&parts, &Numbered, room(0), 0).is_err());
    }

    #[test]
    fn too_much_is_not_copied() {
        let parts = [part("a", &[(0, MOST / 4096)]), part("b", &[(0, 1)])];
        let copied = |parts, mappings| Copied::of(parts, &Numbered, Vec::new(), mappings).unwrap();
        assert!(copied(&parts, 4096).is_none());
        assert!(copied(&parts[..1], 0).is_some());
        assert!(copied(&parts, 4098).is_some());
        assert_eq!((room(MOST).len(), room(MOST + 1).len()), (MOST as usize, 0));
    }
}
