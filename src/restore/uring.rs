//! io_uring(7): a new ring is brought to where the old one was. The kernel keeps counts of its own of what it has taken
//! and reported; the only way to bring them forward is to have it take and report as much.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::image::Image;
use crate::model::Checkpoint;
use crate::model::fd::{Kind, OpenFile};
use crate::model::memory::Backing;
use crate::model::process::Process;
use crate::model::thread::Thread;
use crate::model::uring::{DEFER_TASKRUN, DISABLED, NO_SQARRAY, Napi, OFFSETS, SINGLE_ISSUER, Uring, word};
use crate::proc;
use crate::sys::fds;
use crate::sys::uring::{self, Map, Params};
use crate::tracer;

use super::Error;
use super::fd::{Sources, source};
use super::inherit::{self, Range};
use super::memory::TOP;
use super::stub::{Expect, Puppet};

/// IORING_SETUP_SUBMIT_ALL. Whether a ring had it does not show. With it, nothing waits for ever that would not without.
pub(super) const SUBMIT_ALL: u32 = 1 << 7;
/// IORING_SETUP_TASKRUN_FLAG, of which the same is true: a program that looks for the flag needs it, to others it means nothing.
const TASKRUN_FLAG: u32 = 1 << 9;
/// io_uring_register(2).
const REGISTER_BUFFERS: u64 = 0;
const REGISTER_FILES: u64 = 2;
const REGISTER_EVENTFD: u64 = 4;
const REGISTER_RING_FDS: u64 = 20;
const REGISTER_NAPI: u32 = 27;
const REGISTER_ENABLE_RINGS: u32 = 12;
/// IORING_OP_NOP with IOSQE_CQE_SKIP_SUCCESS, as the first word of a request.
const SILENT: u32 = 1 << 6 << 8;
/// The default of /proc/sys/vm/mmap_min_addr, below which nothing can be mapped, of most distributions; the kernel's own is a page.
const LOWEST: u64 = 0x1_0000;

/// Fails if rings can't be made here.
pub fn possible(checkpoint: &Checkpoint) -> Result<(), Error> {
    if !checkpoint.files.iter().any(|f| matches!(f.kind, Kind::Uring(_))) {
        return Ok(());
    }
    let (fd, params) = uring::setup(1, 0, 0).map_err(refused)?;
    let polls = |f: &OpenFile| matches!(&f.kind, Kind::Uring(ring) if ring.napi.is_some());
    if checkpoint.files.iter().any(polls) && uring::try_register(fd.as_fd(), REGISTER_NAPI) != libc::EFAULT {
        let feature = "busy polling of the network by an io_uring (IORING_REGISTER_NAPI)".to_owned();
        return Err(Error::Host { feature, hint: "resume it under Linux 6.9 or later".to_owned() });
    }
    if is_known(&params) { Ok(()) } else { Err(strange()) }
}

fn refused(error: io::Error) -> Error {
    let (what, hint) = match error.raw_os_error() {
        Some(libc::EPERM) => ("is forbidden", "set kernel.io_uring_disabled to 0"),
        Some(libc::ENOSYS) => ("is not built into the kernel, or a filter hides it", "resume it elsewhere"),
        _ => return Error::step("making an io_uring", 0, error),
    };
    Error::Host { feature: format!("io_uring {what}"), hint: hint.to_owned() }
}

fn strange() -> Error {
    let feature = "its kernel lays rings of io_uring out in another way".to_owned();
    Error::Host { feature, hint: "resume under a kernel nearer to the one it was saved under".to_owned() }
}

/// Whether the kernel has everything where programs from before look for it.
fn is_known(params: &Params) -> bool {
    let bytes = |words: [usize; 6]| words.map(|w| w as u32 * 4);
    let sq = [word::SQ_HEAD, word::SQ_TAIL, word::SQ_MASK, word::SQ_ENTRIES, word::SQ_FLAGS, word::SQ_DROPPED];
    let cq = [word::CQ_HEAD, word::CQ_TAIL, word::CQ_MASK, word::CQ_ENTRIES, word::CQ_OVERFLOW, word::CQES];
    let array =
        params.flags & NO_SQARRAY != 0 || u64::from(params.sq[6]) == Uring::array(params.cq_entries, params.flags);
    params.sq.starts_with(&bytes(sq)) && params.cq.starts_with(&bytes(cq)) && array
}

/// A ring that has taken and reported as much, with the same in its memory. Takes 100 ns and more for each request. One with
/// a single issuer is that thread's once it is enabled by it ([`start`]).
pub fn open(image: &Image, ring: &Uring, flags: u32, cancel: &AtomicBool) -> Result<OwnedFd, Error> {
    let mut how = ring.flags | SUBMIT_ALL;
    if ring.flags & SINGLE_ISSUER != 0 {
        how |= DISABLED;
    }
    if ring.flags & DEFER_TASKRUN != 0 {
        how |= TASKRUN_FLAG;
    }
    let (fd, params) = uring::setup(ring.sq_entries, ring.cq_entries, how).map_err(refused)?;
    if !is_known(&params) || (params.sq_entries, params.cq_entries) != (ring.sq_entries, ring.cq_entries) {
        return Err(strange());
    }
    if how & DISABLED == 0 {
        let submit = |requests| uring::enter(fd.as_fd(), requests).map(drop).map_err(failed);
        fill(image, ring, fd.as_fd(), [ring.sq_entries; 2], cancel, submit)?;
    } else if ring.flags & SINGLE_ISSUER == 0 {
        fill(image, ring, fd.as_fd(), [ring.sq_entries; 2], cancel, |_| {
            Err(failed(io::ErrorKind::InvalidData.into()))
        })?;
    }
    fds::fcntl(fd.as_fd(), libc::F_SETFL, i64::from(flags)).map_err(failed)?;
    Ok(fd)
}

/// Enables a ring that was made disabled, which is then the thread's, if it has a single issuer.
pub(super) fn enable(issuer: &mut Puppet, number: i32) -> Result<(), Error> {
    let mut batch = issuer.batch();
    let args = [number as u64, u64::from(REGISTER_ENABLE_RINGS), 0, 0];
    batch.call("io_uring_register", libc::SYS_io_uring_register, &args);
    issuer.run(batch).map(drop)
}

/// Has a ring with a single issuer be that thread's, and brings it to where it was: in the thread, since nobody else may.
/// `number`: the ring's descriptor there; `copy`: our own.
pub fn start(
    image: &Image,
    ring: &Uring,
    copy: BorrowedFd<'_>,
    issuer: &mut Puppet,
    number: i32,
    cancel: &AtomicBool,
) -> Result<(), Error> {
    /// Calls in one go.
    const AT_ONCE: u32 = 1000;
    enable(issuer, number)?;
    let submit = |requests: u32| {
        let mut batch = issuer.batch();
        for from in (0..requests).step_by(ring.sq_entries as usize) {
            issuer.flush_for(&mut batch, 1, 0)?;
            let some = (requests - from).min(ring.sq_entries);
            batch.call("io_uring_enter", libc::SYS_io_uring_enter, &[number as u64, u64::from(some), 0, 0, 0, 0]);
        }
        issuer.run(batch).map(drop)
    };
    let most = ring.sq_entries.saturating_mul(AT_ONCE);
    fill(image, ring, copy, [most.min(ring.cq_entries), most], cancel, submit)
}

/// Registers files, buffers and an eventfd with a ring, in a process that has it (and whose the buffers are). `number`: its descriptor.
pub fn register(puppet: &mut Puppet, ring: &Uring, number: i32, sources: &Sources) -> Result<(), Error> {
    let files = ring.files.iter().map(|file| file.map_or(Ok(-1), |file| source(sources, file)));
    let files: Vec<u8> = files.collect::<Result<Vec<i32>, Error>>()?.into_iter().flat_map(i32::to_le_bytes).collect();
    let buffers = ring.buffers.iter().map(|buffer| buffer.map_or([0, 0], |(at, len)| [at.0, u64::from(len)]));
    let buffers: Vec<u8> = buffers.flatten().flat_map(u64::to_le_bytes).collect();
    let eventfd =
        ring.eventfd.map_or(Ok(Vec::new()), |file| source(sources, file).map(|fd| fd.to_le_bytes().to_vec()))?;
    // struct io_uring_napi: microseconds, preference, what is to be done, 10 bytes of 0.
    let napi = |napi: Napi| [u64::from(napi.timeout) | u64::from(napi.prefer) << 32, 0].map(u64::to_le_bytes).concat();
    let napi = ring.napi.map_or(Vec::new(), napi);
    for (what, list, each) in [
        (REGISTER_FILES, files, 4),
        (REGISTER_BUFFERS, buffers, 16),
        (REGISTER_EVENTFD, eventfd, 4),
        (u64::from(REGISTER_NAPI), napi, 16),
    ] {
        if list.is_empty() {
            continue;
        }
        let mut batch = puppet.batch();
        let args = [number as u64, what, batch.data(&list).0, (list.len() / each) as u64];
        batch.call("io_uring_register", libc::SYS_io_uring_register, &args);
        puppet.run(batch)?;
    }
    Ok(())
}

/// Registers rings with a thread, under the numbers they had.
pub fn number(puppet: &mut Puppet, thread: &Thread, sources: &Sources) -> Result<(), Error> {
    let mut batch = puppet.batch();
    for &(number, file) in &thread.rings {
        let ring = source(sources, file)? as u64;
        // struct io_uring_rsrc_update: number, padding, descriptor.
        let at = batch.data(&[u64::from(number), ring].map(u64::to_le_bytes).concat());
        let args = [ring, REGISTER_RING_FDS, at.0, 1];
        batch.call_expecting(Expect::Exactly(1), "io_uring_register", libc::SYS_io_uring_register, &args);
    }
    puppet.run(batch).map(drop)
}

pub(super) fn failed(error: io::Error) -> Error {
    Error::step("filling an io_uring", 0, error)
}

/// Brings a ring to its counts and puts what was in its memory. `at_once`: how many requests `submit` may be asked for, of
/// those that are reported and of those that are not.
fn fill(
    image: &Image,
    ring: &Uring,
    fd: BorrowedFd<'_>,
    at_once: [u32; 2],
    cancel: &AtomicBool,
    submit: impl FnMut(u32) -> Result<(), Error>,
) -> Result<(), Error> {
    bring(ring, fd, at_once, cancel, submit)?;
    put(ring, fd, &content(image, ring)?)
}

/// Brings a ring to its counts, as for [`fill`].
pub(super) fn bring(
    ring: &Uring,
    fd: BorrowedFd<'_>,
    at_once: [u32; 2],
    cancel: &AtomicBool,
    mut submit: impl FnMut(u32) -> Result<(), Error>,
) -> Result<(), Error> {
    let memory = Map::new(fd, OFFSETS[0], ring.ring_len()).map_err(failed)?;
    let requests = Map::new(fd, OFFSETS[2], ring.sqes_len()).map_err(failed)?;
    // Empty requests are of IORING_OP_NOP, which does nothing and reports it.
    advance(&memory, ring.cq_tail, at_once[0], cancel, &mut submit)?;
    for sqe in 0..ring.sq_entries as usize {
        requests.set(sqe * (ring.sqe_len() / 4) as usize, SILENT);
    }
    advance(&memory, ring.sq_head, at_once[1], cancel, &mut submit)?;
    if (memory.word(word::SQ_HEAD), memory.word(word::CQ_TAIL)) != (ring.sq_head, ring.cq_tail) {
        return Err(failed(io::Error::other("it has not taken what it was to take")));
    }
    Ok(())
}

/// What was in a ring's memory.
pub(super) fn content(image: &Image, ring: &Uring) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; ring.content.size as usize];
    let (at, _) = image.blob(ring.content.id).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    image.file().read_exact_at(&mut bytes, at).map_err(failed)?;
    Ok(bytes)
}

/// Puts that into a ring that has its counts.
pub(super) fn put(ring: &Uring, fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Error> {
    let memory = Map::new(fd, OFFSETS[0], ring.ring_len()).map_err(failed)?;
    let requests = Map::new(fd, OFFSETS[2], ring.sqes_len()).map_err(failed)?;
    let (saved, sqes) = bytes.split_at_checked(ring.ring_len() as usize).unwrap_or_default();
    requests.put(0, sqes);
    let (head, rest) = saved.split_at_checked(word::CQES * 4).unwrap_or_default();
    memory.put(word::CQES, rest);
    // The other words are the kernel's: counts, sizes and its flags.
    let theirs = [word::SQ_TAIL, word::CQ_HEAD, word::SQ_DROPPED, word::CQ_FLAGS, word::CQ_OVERFLOW];
    for (word, bytes) in head.chunks_exact(4).enumerate().filter(|(word, _)| theirs.contains(word)) {
        memory.put(word, bytes);
    }
    Ok(())
}

/// Has the kernel take requests until it has taken `until` in all.
fn advance(
    memory: &Map,
    until: u32,
    at_once: u32,
    cancel: &AtomicBool,
    submit: &mut impl FnMut(u32) -> Result<(), Error>,
) -> Result<(), Error> {
    loop {
        let taken = memory.word(word::SQ_HEAD);
        let some = until.wrapping_sub(taken).min(at_once);
        if some == 0 {
            return Ok(());
        }
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        memory.set(word::SQ_TAIL, taken.wrapping_add(some));
        submit(some)?;
        // What was reported is taken, so that there is room for more.
        memory.set(word::CQ_HEAD, memory.word(word::CQ_TAIL));
        if memory.word(word::SQ_HEAD) == taken {
            return Err(failed(io::Error::other("it takes no requests")));
        }
    }
}

/// Maps the rings of a process whose other memory is mapped. The kernel takes no wish where (io_uring/memmap.c,
/// `io_uring_get_unmapped_area`), so there is to be no other place: all others are taken for the moment.
pub fn map(puppet: &mut Puppet, process: &Process, sources: &Sources) -> Result<(), Error> {
    let rings = process.memory.vmas.iter().filter_map(|vma| match vma.backing {
        Backing::Ring { file, offset } => Some((vma, file, offset)),
        _ => None,
    });
    let rings: Vec<_> = rings.collect();
    if rings.is_empty() {
        return Ok(());
    }
    let host = puppet.host();
    let maps = tracer::maps(host).map_err(|e| Error::step("reading maps", host, io::Error::other(e)))?;
    let taken = maps.iter().map(|m| (m.start, m.end)).filter(|(start, _)| *start < TOP);
    let taken = taken.chain(rings.iter().map(|(vma, ..)| (vma.start.0, vma.end.0)));
    let mut taken: Vec<Range> = taken.collect();
    taken.sort_unstable();
    const PAGE: u64 = 4096;
    // A page that is left free there is where the kernel would map a ring of a place above all that it looks through first.
    let lowest = proc::number("sys/vm/mmap_min_addr").ok().and_then(|lowest| u64::try_from(lowest).ok());
    let lowest = lowest.unwrap_or(LOWEST).next_multiple_of(PAGE).clamp(PAGE, LOWEST);
    let free = inherit::gaps((lowest, TOP), taken.into_iter());
    let places = rings.iter().map(|(vma, ..)| (vma.start.0, vma.end.0));
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    let mut batch = puppet.batch();
    for (start, end) in free.iter().copied().chain(places) {
        puppet.flush_for(&mut batch, 1, 0)?;
        let args = [start, end - start, 0, anonymous as u64, u64::MAX, 0];
        batch.call_expecting(Expect::Exactly(start), "mmap", libc::SYS_mmap, &args);
    }
    for (vma, file, offset) in rings {
        puppet.flush_for(&mut batch, 2, 0)?;
        batch.call("munmap", libc::SYS_munmap, &[vma.start.0, vma.len()]);
        let args = [0, vma.len(), vma.prot.into(), libc::MAP_SHARED as u64, source(sources, file)? as u64, offset];
        batch.call_expecting(Expect::Exactly(vma.start.0), "mmap", libc::SYS_mmap, &args);
    }
    for (start, end) in free {
        puppet.flush_for(&mut batch, 1, 0)?;
        batch.call("munmap", libc::SYS_munmap, &[start, end - start]);
    }
    puppet.run(batch).map(drop)
}
