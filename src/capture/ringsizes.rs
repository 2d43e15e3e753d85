//! How large the entries of a ring of io_uring are (IORING_SETUP_SQE128, IORING_SETUP_CQE32). The kernel tells by how it
//! lists, in fdinfo, entries that have not been taken (io_uring/fdinfo.c); of requests in rings without indices it lists none.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use crate::model::uring::{NO_SQARRAY, OFFSETS, Uring, WIDE_COMPLETIONS, WIDE_REQUESTS, word};
use crate::proc;
use crate::proc::fdinfo::{Detail, Ring};
use crate::sys::uring::{self, Map};

use super::uring::{REGISTER_NAPI, UNDER_WAY};

/// Bytes of an ordinary request.
const SQE: usize = 64;
/// Requests that fill a page.
const PAGE_OF_REQUESTS: u32 = 64;

/// IORING_CQE_F_32, of a completion of twice the size in a ring that has both; it is listed as such in any ring.
const MARKED: u32 = 1 << 15;

/// What was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// [`WIDE_REQUESTS`] and [`WIDE_COMPLETIONS`].
    pub flags: u32,
    /// Whether it is certain that the ring has indices of requests.
    pub indices: bool,
}

/// The sizes in a ring that nobody uses for now. `memory`: of it, as if completions were ordinary ones.
pub(super) fn find(ring: &Uring, copy: BorrowedFd<'_>, memory: &Map) -> Result<Sizes, String> {
    let listed = list(ring, copy, memory)?;
    let Some(wide_completions) = listed.wide_completions else {
        return Err("the kernel does not tell how large its completions are: not supported".to_owned());
    };
    if !wide_completions && (0..ring.cq_entries).any(|place| memory.word(flags_of(place)) & MARKED != 0) {
        return Err("completions of two sizes (IORING_SETUP_CQE_MIXED) are not supported".to_owned());
    }
    let wide_requests = match listed.wide_requests {
        Some(wide) => wide,
        None => is_wide(ring, copy, memory.word(word::SQ_TAIL))?,
    };
    let flag = |wide, flag| if wide { flag } else { 0 };
    let flags = flag(wide_requests, WIDE_REQUESTS) | flag(wide_completions, WIDE_COMPLETIONS);
    Ok(Sizes { flags, indices: listed.wide_requests.is_some() })
}

/// fdinfo, with a request and a completion to list. Two counts that the kernel writes for the program and does not go by, and
/// flags of a completion, are other ones meanwhile; nobody looks at them, since the program stands still.
fn list(ring: &Uring, copy: BorrowedFd<'_>, memory: &Map) -> Result<Ring, String> {
    let count = |index| memory.word(index);
    let (sq_head, cq_head) = (count(word::SQ_HEAD), count(word::CQ_HEAD));
    let mark = flags_of(cq_head & (ring.cq_entries - 1));
    let words = [word::SQ_HEAD, word::CQ_TAIL, mark].map(|index| (index, count(index)));
    let _back = Back { memory, words };
    memory.set(word::CQ_TAIL, cq_head.wrapping_add(1));
    memory.set(mark, count(mark) & !MARKED);
    // Of more requests their pages tell.
    if ring.sq_entries < PAGE_OF_REQUESTS && count(word::SQ_TAIL) == sq_head && can_be_listed() {
        memory.set(word::SQ_HEAD, sq_head.wrapping_sub(1));
    }
    let info = proc::fdinfo(std::process::id() as i32, copy.as_raw_fd()).map_err(|e| e.to_string())?;
    match info.detail {
        Detail::IoUring(listed) => Ok(listed),
        _ => Err(UNDER_WAY.to_owned()),
    }
}

/// The word with the flags of an ordinary completion.
fn flags_of(place: u32) -> usize {
    word::CQES + place as usize * 4 + 3
}

/// Puts words back at its end.
struct Back<'a> {
    memory: &'a Map,
    words: [(usize, u32); 3],
}

impl Drop for Back<'_> {
    fn drop(&mut self) {
        for (index, value) in self.words {
            self.memory.set(index, value);
        }
    }
}

/// Whether listing requests of rings without indices is safe: kernels that have such rings, from 6.6 on, had to learn it
/// before 6.9, which knows IORING_REGISTER_NAPI.
fn can_be_listed() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    let knows_napi = |fd: OwnedFd| uring::try_register(fd.as_fd(), REGISTER_NAPI) == libc::EFAULT;
    *HERE.get_or_init(|| uring::setup(1, 0, NO_SQARRAY).map_or(true, |(fd, _)| knows_napi(fd)))
}

/// Whether requests that are not listed have twice the size, by their pages or by what is in them. `made`: how many were
/// announced.
fn is_wide(ring: &Uring, copy: BorrowedFd<'_>, made: u32) -> Result<bool, String> {
    if ring.sq_entries >= PAGE_OF_REQUESTS {
        // Of memory that is not there the kernel maps none.
        return Ok(Map::new(copy, OFFSETS[2], ring.sqes_len() * 2).is_ok_and(|map| map.is_whole()));
    }
    let page = Map::new(copy, OFFSETS[2], 4096).map_err(|e| format!("its requests can't be looked at: {e}"))?;
    by_content(&page.bytes(4096), ring.sq_entries, made)
        .ok_or_else(|| "whether its requests have twice the size (IORING_SETUP_SQE128) can't be known".to_owned())
}

/// The same of requests in one page, which follow each other from its start on; `None`: both may be.
fn by_content(page: &[u8], entries: u32, made: u32) -> Option<bool> {
    /// The only request that has something in its second half.
    const IORING_OP_URING_CMD: u8 = 46;
    let pieces: Vec<&[u8]> = page.chunks(SQE).collect();
    let is_set = |piece: &&[u8]| piece.iter().any(|byte| *byte != 0);
    let used = pieces.iter().rposition(is_set).map_or(0, |last| last + 1);
    if used > entries as usize {
        return Some(true);
    }
    // What was prepared but not announced may follow.
    if used <= 1 || used <= made as usize {
        return Some(false);
    }
    let mut empty = false;
    for pair in pieces.chunks_exact(2).take(used / 2) {
        if !is_set(&pair[1]) {
            empty = true;
        } else if pair[0].first() != Some(&IORING_OP_URING_CMD) {
            return Some(false);
        }
    }
    empty.then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(entries: u32) -> Uring {
        Uring { sq_entries: entries, cq_entries: entries * 2, ..Uring::default() }
    }

    #[test]
    fn sizes_are_found_and_counts_are_put_back() {
        for entries in [1, 4, 32, 64, 512] {
            for flags in [0, WIDE_REQUESTS, WIDE_COMPLETIONS, WIDE_REQUESTS | WIDE_COMPLETIONS] {
                // Where the kernel or an administrator forbids rings there is nothing to look at.
                let Ok((fd, _)) = uring::setup(entries, 0, flags) else { return };
                let ring = ring(entries);
                let memory = Map::new(fd.as_fd(), OFFSETS[0], ring.ring_len()).unwrap();
                // As the second half of a completion may be, in rings that have such.
                memory.set(flags_of(0), if flags & WIDE_COMPLETIONS != 0 { u32::MAX } else { 0 });
                let before = memory.bytes(ring.ring_len());
                let found = find(&ring, fd.as_fd(), &memory).unwrap();
                assert_eq!(found, Sizes { flags, indices: entries < PAGE_OF_REQUESTS }, "{entries}");
                assert_eq!(memory.bytes(ring.ring_len()), before);
                memory.set(flags_of(1), MARKED);
                assert_eq!(find(&ring, fd.as_fd(), &memory).is_err(), flags & WIDE_COMPLETIONS == 0);
            }
        }
    }

    #[test]
    fn unlisted_requests_are_judged_by_what_is_there() {
        let page = |set: &[usize], opcode: u8| {
            let mut page = [0; 4096];
            for piece in set {
                (page[piece * SQE], page[piece * SQE + 32]) = (opcode, 1);
            }
            page
        };
        // Nothing, one, as many as were announced, and more that were prepared.
        for (set, made) in [(&[][..], 0), (&[0], 0), (&[0, 1, 2], 3), (&[0, 1, 2, 3], 2)] {
            assert_eq!(by_content(&page(set, 1), 4, made), Some(false), "{set:?}");
        }
        // Behind the end of ordinary ones, and with nothing in between.
        assert_eq!(by_content(&page(&[0, 2, 4, 6], 1), 4, 4), Some(true));
        assert_eq!(by_content(&page(&[0, 2, 4], 1), 32, 3), Some(true));
        // Commands with something in their second half, or twice as many.
        assert_eq!(by_content(&page(&[0, 1, 2, 3], 46), 32, 2), None);
    }
}
