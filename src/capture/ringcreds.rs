//! Credentials that are registered with a ring of io_uring for its requests (IORING_REGISTER_PERSONALITY).

use std::os::fd::BorrowedFd;

use crate::model::uring::{OFFSETS, Uring};
use crate::sys::uring::Map;
use crate::tracer::HeldProcess;

/// Their numbers, ascending: `told` by the kernel, and those that requests name which are still in the ring's memory, since
/// newer kernels don't tell.
pub(super) fn numbers(told: &[u16], copy: BorrowedFd<'_>, ring: &Uring) -> Result<Vec<u16>, String> {
    // The word of struct io_uring_sqe whose upper half is the number.
    const NUMBER: usize = 10;
    let words = (ring.sqe_len() / 4) as usize;
    let requests = Map::new(copy, OFFSETS[2], ring.sqes_len());
    let requests = requests.map_err(|e| format!("its requests can't be looked at: {e}"))?;
    let named = (0..ring.sq_entries as usize).map(|sqe| (requests.word(sqe * words + NUMBER) >> 16) as u16);
    let mut all: Vec<u16> = named.chain(told.iter().copied()).filter(|number| *number != 0).collect();
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// Whether all threads of these processes have the same credentials and no privilege to have had others: then they are
/// what was registered, or more.
pub(super) fn are_known<'a>(processes: impl Iterator<Item = &'a HeldProcess>) -> bool {
    let mut all = processes.flat_map(|p| &p.threads).map(|t| &t.status).map(|s| (s.uid, s.gid, &s.groups, s.caps));
    let Some(first) = all.next() else { return false };
    is_powerless(first.0, first.1, first.3[1]) && all.all(|other| other == first)
}

fn is_powerless(uid: [u32; 4], gid: [u32; 4], permitted: u64) -> bool {
    permitted == 0 && uid.iter().all(|id| *id == uid[0]) && gid.iter().all(|id| *id == gid[0])
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::uring;

    #[test]
    fn numbers_are_told_or_named_by_requests() {
        let Ok((fd, _)) = uring::setup(4, 0, 0) else { return };
        let ring = Uring { sq_entries: 4, cq_entries: 8, ..Uring::default() };
        assert!(numbers(&[], fd.as_fd(), &ring).unwrap().is_empty());
        let requests = Map::new(fd.as_fd(), OFFSETS[2], 256).unwrap();
        requests.set(16 + 10, 7 << 16 | 3);
        requests.set(32 + 10, 2 << 16);
        assert_eq!(numbers(&[300, 7], fd.as_fd(), &ring).unwrap(), [2, 7, 300]);
    }

    #[test]
    fn who_could_have_had_others_is_not_powerless() {
        assert!(is_powerless([7; 4], [8; 4], 0));
        assert!(!is_powerless([7; 4], [8; 4], 1 << 7));
        assert!(!is_powerless([7, 7, 0, 7], [8; 4], 0) && !is_powerless([7; 4], [8, 9, 9, 9], 0));
    }
}
