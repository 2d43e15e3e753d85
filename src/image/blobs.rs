//! Contents of deleted files and of pipes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::model::sparse::Piece;
use crate::sys::bytes::Bytes;

/// The content of a file or pipe, kept as member `files/ID.data`.
#[derive(Debug)]
pub struct Blob {
    /// Its number, which [`crate::model::files::Content::id`] names.
    pub id: u32,
    /// Bytes.
    pub size: u64,
    /// Where they come from.
    pub source: BlobSource,
}

impl Blob {
    /// Whether all bytes are in our memory.
    pub fn is_in_hand(&self) -> bool {
        self.source.in_hand().is_some()
    }
}

/// Where the bytes of a blob come from.
#[derive(Debug)]
pub enum BlobSource {
    /// They are here; exactly `size` of them.
    Bytes(Bytes),
    /// The first `size` bytes of a file. Only ever read by position: its offset may belong to the program too.
    File(File),
    /// `size` bytes of a file from this position on.
    Range(File, u64),
    /// The memory of processes. What can't be had there is zeros: it is beyond the end of a file, or was never touched.
    Memory(Vec<MemoryPiece>),
    /// Pieces of a file, one after the other; `size` bytes in all.
    Pieces(File, Vec<Piece>),
}

/// Where some bytes of a blob are in the memory of a process.
#[derive(Debug)]
pub struct MemoryPiece {
    /// The first of them in the blob.
    pub offset: u64,
    /// How many.
    pub len: u64,
    /// `/proc/PID/mem`.
    pub memory: File,
    /// Their address.
    pub addr: u64,
}

impl MemoryPiece {
    fn read(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        let from = at.max(self.offset);
        let to = (at + buf.len() as u64).min(self.offset + self.len);
        let Some(part) = buf.get_mut((from - at) as usize..to.saturating_sub(at) as usize) else { return Ok(()) };
        match self.memory.read_exact_at(part, self.addr + (from - self.offset)) {
            Err(e) if e.raw_os_error() == Some(libc::EIO) => Ok(()),
            done => done,
        }
    }
}

impl BlobSource {
    /// All bytes, if they are in our memory.
    pub(super) fn in_hand(&self) -> Option<&[u8]> {
        match self {
            BlobSource::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Fills `buf` with the bytes at `at`.
    ///
    /// # Errors
    /// `UnexpectedEof` where there are not so many.
    pub(super) fn read(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        let eof = || io::Error::from(io::ErrorKind::UnexpectedEof);
        match self {
            BlobSource::Bytes(bytes) => {
                let start = usize::try_from(at).map_err(|_| eof())?;
                let end = start.checked_add(buf.len()).ok_or_else(eof)?;
                buf.copy_from_slice(bytes.get(start..end).ok_or_else(eof)?);
                Ok(())
            }
            BlobSource::File(file) => file.read_exact_at(buf, at),
            BlobSource::Memory(pieces) => {
                buf.fill(0);
                pieces.iter().try_for_each(|piece| piece.read(buf, at))
            }
            BlobSource::Range(file, start) => file.read_exact_at(buf, start.checked_add(at).ok_or_else(eof)?),
            BlobSource::Pieces(file, pieces) => {
                let (mut skip, mut buf) = (at, buf);
                for piece in pieces {
                    let left = piece.len.saturating_sub(skip);
                    let (now, rest) = buf.split_at_mut((buf.len() as u64).min(left) as usize);
                    file.read_exact_at(now, piece.start.checked_add(skip).ok_or_else(eof)?)?;
                    skip = skip.saturating_sub(piece.len);
                    buf = rest;
                    if buf.is_empty() {
                        return Ok(());
                    }
                }
                Err(eof())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_as_one() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"0123456789abcdefghij", 0).unwrap();
        let pieces = [(1, 3), (5, 1), (10, 6)].map(|(start, len)| Piece { start, len });
        let source = BlobSource::Pieces(file, pieces.to_vec());
        let whole = b"1235abcdef";
        for at in 0..whole.len() {
            for end in at + 1..=whole.len() {
                let mut buf = vec![0; end - at];
                source.read(&mut buf, at as u64).unwrap();
                assert_eq!(buf, whole[at..end], "{at} {end}");
            }
        }
        assert_eq!(source.read(&mut [0; 2], 9).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
