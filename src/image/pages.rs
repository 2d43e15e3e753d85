//! Which pages an image holds, and where their bytes come from.

use std::io;

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Pages that lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Address (of a process's memory) or offset (of a shared object) of the first byte; a multiple of 4096.
    pub start: u64,
    /// Bytes; a multiple of 4096, not 0.
    pub len: u64,
}

impl Run {
    /// One past the last byte; `None` past the end of everything.
    pub fn end(&self) -> Option<u64> {
        self.start.checked_add(self.len)
    }
}

/// The pages of one process, or of one piece of shared memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// [`super::process_part`] or [`super::shared_part`].
    pub name: String,
    /// In ascending order, not overlapping, each inside one mapping.
    pub runs: Vec<Run>,
}

/// Where the bytes of pages come from.
pub trait PageSource: Sync {
    /// Fills `buf` with the bytes at `addr` of the part with this index. `buf` never reaches beyond the run that
    /// `addr` lies in. Called from several threads at once.
    ///
    /// # Errors
    /// Whatever keeps the source from giving all of the bytes; it ends the save.
    fn fill(&self, part: usize, addr: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// A run as the run index has it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StoredRun {
    start: U64,
    len: U64,
}

/// The run index of `runs`.
pub(super) fn encode(runs: &[Run]) -> Vec<u8> {
    let stored: Vec<_> = runs.iter().map(|r| StoredRun { start: r.start.into(), len: r.len.into() }).collect();
    stored.as_bytes().to_vec()
}

/// The runs of a run index; `None` if it has an odd length.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<Run>> {
    let stored = <[StoredRun]>::ref_from_bytes(bytes).ok()?;
    Some(stored.iter().map(|r| Run { start: r.start.get(), len: r.len.get() }).collect())
}

/// The bytes that come before each run in its page member, and the sum of all; `None` if they don't fit in 64 bits.
pub(super) fn bytes_before(runs: &[Run]) -> Option<(Vec<u64>, u64)> {
    let mut total = 0u64;
    let mut before = Vec::with_capacity(runs.len());
    for run in runs {
        before.push(total);
        total = total.checked_add(run.len)?;
    }
    Some((before, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_index_round_trips() {
        let runs = vec![Run { start: 0x1000, len: 0x2000 }, Run { start: 0x7fff_ffff_e000, len: 0x1000 }];
        let bytes = encode(&runs);
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[..16], [0, 16, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode(&bytes).unwrap(), runs);
        assert_eq!(decode(&bytes[..31]), None);
        assert_eq!(decode(&[]).unwrap(), []);
    }

    #[test]
    fn endless_runs_have_no_sum() {
        assert_eq!(bytes_before(&[Run { start: 0, len: u64::MAX }, Run { start: 0, len: 1 }]), None);
    }
}
