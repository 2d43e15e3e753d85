//! Which parts of a file are holes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::model::sparse::Piece;

/// Most pieces that are noted of one file; one in more is taken as it is.
const MOST: usize = 100_000;

/// The pieces of the first `size` bytes of `file` that are no holes, if there are holes. The file's position, which may be the
/// program's, is left alone.
pub(super) fn pieces(file: &File, size: u64) -> Option<Vec<Piece>> {
    // The blocks tell soon of most files that there are none.
    let full = file.metadata().ok()?.blocks().saturating_mul(512) >= size;
    if full {
        return None;
    }
    let own = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let found = seek(&own, size).ok()??;
    (found.iter().map(|p| p.len).sum::<u64>() < size).then_some(found)
}

/// By SEEK_DATA and SEEK_HOLE (lseek(2)); `None` if there are too many.
fn seek(file: &File, size: u64) -> io::Result<Option<Vec<Piece>>> {
    let next = |at: u64, whence| match lseek(file, i64::try_from(at).unwrap_or(i64::MAX), whence) {
        Ok(found) => Ok(Some(found as u64)),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(io::Error::from(errno)),
    };
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let Some(start) = next(at, Whence::SeekData)?.filter(|&start| start < size) else { break };
        let end = next(start, Whence::SeekHole)?.map_or(size, |end| end.min(size));
        if end <= start || pieces.len() == MOST {
            return Ok(None);
        }
        pieces.push(Piece { start, len: end - start });
        at = end;
    }
    Ok(Some(pieces))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_are_found_and_the_position_stays() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        assert_eq!(pieces(&file, 5), None);
        file.write_all_at(b"middle", 10 << 20).unwrap();
        file.set_len(30 << 20).unwrap();
        file.seek(SeekFrom::Start(77)).unwrap();
        let found = pieces(&file, 30 << 20).unwrap();
        assert_eq!(file.stream_position().unwrap(), 77);
        let has = |at: u64| found.iter().any(|p| (p.start..p.start + p.len).contains(&at));
        assert!(has(0) && has(4) && has(10 << 20) && has((10 << 20) + 5));
        assert!(!has(5 << 20) && !has(29 << 20));
        assert!(found.iter().map(|p| p.len).sum::<u64>() < 1 << 20);
    }
}
