//! Rings of io_uring whose requests a thread of the kernel takes (IORING_SETUP_SQPOLL). Such a thread is one of the process that
//! makes the ring, with its memory and descriptors, so that the ring is made there, and not by us as others are.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::image::Image;
use crate::model::fd::Kind;
use crate::model::process::Process;
use crate::model::thread::Thread;
use crate::model::uring::{DISABLED, OFFSETS, Poller, SINGLE_ISSUER, Uring, word};
use crate::model::{Addr, Checkpoint};
use crate::sys::uring::{self, Map};
use crate::sys::{fds, sched, tasks};

use super::credentials::{self, Start};
use super::fd::{Sources, source};
use super::pinned::Pinned;
use super::stub::{Expect, Puppet};
use super::uring::{SUBMIT_ALL, bring, content, enable, failed, put};
use super::{Error, thread};

const SQ_AFF: u32 = 1 << 2;
const CQSIZE: u32 = 1 << 3;
const ATTACH_WQ: u32 = 1 << 5;
/// Bytes of struct io_uring_params.
const PARAMS: usize = 120;

/// Makes those rings whose thread is one of `process`, which is new and empty; our copies of them, by the index of their
/// description. They come to where they were by [`start`].
pub fn make(
    maker: &mut Puppet,
    process: &Process,
    checkpoint: &Checkpoint,
    (start, pinned): (&Start, &Pinned),
    sources: &Sources,
    notes: &mut Vec<String>,
) -> Result<Vec<(u32, OwnedFd)>, Error> {
    let mut made: Vec<(u32, OwnedFd)> = Vec::new();
    let mut first_of: Vec<(u32, i32)> = Vec::new();
    for (index, file) in (0u32..).zip(&checkpoint.files) {
        let Kind::Uring(ring @ Uring { poller: Some(poller), .. }) = &file.kind else { continue };
        let Some(like) = process.threads.iter().find(|t| t.tid == poller.like) else { continue };
        let number = source(sources, index)?;
        let first = first_of.iter().find(|(of, _)| *of == poller.number).map(|(_, fd)| *fd);
        let exact = of_thread(maker, (ring, poller, like), (number, first), (start, pinned))?;
        if !exact {
            notes.push(format!(
                "pid {}: the thread that takes the requests of an io_uring could not be set as it was",
                process.pid
            ));
        }
        first_of.push((poller.number, number));
        let step = |e| Error::step("copying an io_uring", maker.host(), e);
        let copy = tasks::pidfd_open(maker.host()).and_then(|pidfd| tasks::pidfd_getfd(pidfd.as_fd(), number));
        let copy = copy.map_err(step)?;
        fds::fcntl(copy.as_fd(), libc::F_SETFL, i64::from(file.flags)).map_err(step)?;
        made.push((index, copy));
    }
    Ok(made)
}

/// Makes one under the number `at`, by a thread of its own with the credentials that requests are to be taken with; its
/// end does not matter to the ring. `first`: another ring with the same thread. Whether that thread is as it was.
fn of_thread(
    maker: &mut Puppet,
    (ring, poller, like): (&Uring, &Poller, &Thread),
    (at, first): (i32, Option<i32>),
    (start, pinned): (&Start, &Pinned),
) -> Result<bool, Error> {
    let mut hand = thread::passing(maker, like)?;
    // The new thread of the kernel has what its maker has.
    let tid = hand.host();
    let mut exact = sched::set_affinity(tid, &poller.affinity.0).is_ok();
    if !exact {
        pinned.loosen(tid);
    }
    exact &= sched::get(tid)
        .and_then(|now| if now == poller.sched { Ok(()) } else { sched::set(tid, &poller.sched) })
        .is_ok();
    let mut batch = hand.batch();
    credentials::set(&mut batch, &like.credentials, start);
    hand.run(batch)?;
    let mut flags = ring.flags | SUBMIT_ALL | CQSIZE;
    if ring.flags & SINGLE_ISSUER != 0 {
        flags |= DISABLED;
    }
    if first.is_some() {
        flags |= ATTACH_WQ;
    }
    // Where the processor is not to be had, any.
    let (fd, params) = match only_bit(&poller.affinity.0).map(|cpu| setup(&mut hand, ring, flags | SQ_AFF, cpu, first))
    {
        Some(Ok(done)) => done,
        asked => {
            exact &= asked.is_none();
            setup(&mut hand, ring, flags, 0, first)?
        }
    };
    let mut entries = [0; 8];
    hand.read(params, &mut entries)?;
    let mut batch = hand.batch();
    batch.call_expecting(Expect::Exactly(at as u64), "dup3", libc::SYS_dup3, &[fd, at as u64, 0]);
    batch.call("close", libc::SYS_close, &[fd]);
    hand.run(batch)?;
    hand.end_thread()?;
    if entries != [ring.sq_entries, ring.cq_entries].map(u32::to_ne_bytes).concat()[..] {
        return Err(failed(io::Error::other("it has another size")));
    }
    Ok(exact)
}

/// The descriptor of a new ring, and where its parameters are.
fn setup(hand: &mut Puppet, ring: &Uring, flags: u32, cpu: u32, first: Option<i32>) -> Result<(u64, Addr), Error> {
    // struct io_uring_params: entries of both kinds, flags, processor, milliseconds until it sleeps (0: the kernel's
    // choice), features, the ring whose thread is to be taken.
    let idle = ring.poller.as_ref().map_or(0, |poller| poller.idle);
    let words = [ring.sq_entries, ring.cq_entries, flags, cpu, idle, 0, first.unwrap_or(0) as u32];
    let mut bytes = words.map(u32::to_ne_bytes).concat();
    bytes.resize(PARAMS, 0);
    let mut batch = hand.batch();
    let params = batch.data(&bytes);
    batch.call("io_uring_setup", libc::SYS_io_uring_setup, &[u64::from(ring.sq_entries), params.0]);
    let results = hand.run(batch)?;
    results.first().map(|fd| (*fd, params)).ok_or_else(|| failed(io::Error::other("it was not made")))
}

/// The only processor in a bit set.
fn only_bit(bits: &[u8]) -> Option<u32> {
    let mut set = (0u32..).zip(bits).filter(|(_, byte)| **byte != 0);
    match (set.next(), set.next()) {
        (Some((at, byte)), None) if byte.is_power_of_two() => Some(at * 8 + byte.trailing_zeros()),
        _ => None,
    }
}

/// Brings a ring to where it was. `user`: its only user, where it has one, which has it as `number`; `copy`: our own.
pub fn start(
    image: &Image,
    ring: &Uring,
    copy: BorrowedFd<'_>,
    user: &mut Puppet,
    number: i32,
    cancel: &AtomicBool,
) -> Result<(), Error> {
    if ring.flags & SINGLE_ISSUER != 0 {
        enable(user, number)?;
    }
    let memory = Map::new(copy, OFFSETS[0], 4096).map_err(failed)?;
    let taken = |_| {
        let until = memory.word(word::SQ_TAIL);
        wait(cancel, || memory.word(word::SQ_HEAD) == until, || uring::wake(copy))
    };
    bring(ring, copy, [ring.sq_entries; 2], cancel, taken)?;
    let bytes = content(image, ring)?;
    let tail = bytes.get(word::SQ_TAIL * 4..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_ne_bytes(*b));
    if ring.flags & DISABLED == 0 && tail != ring.sq_head {
        // Announced, but the thread slept: what it is not woken for it does not take.
        wait(cancel, || memory.word(word::SQ_FLAGS) & word::ASLEEP != 0, || Ok(()))?;
    }
    put(ring, copy, &bytes)
}

/// Waits for the thread.
fn wait(cancel: &AtomicBool, done: impl Fn() -> bool, poke: impl Fn() -> io::Result<()>) -> Result<(), Error> {
    for round in 0.. {
        if done() {
            break;
        }
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        poke().map_err(failed)?;
        tasks::back_off(round);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_processor_is_told_from_several() {
        assert_eq!(only_bit(&[0, 4, 0]), Some(10));
        assert_eq!((only_bit(&[1, 1]), only_bit(&[3]), only_bit(&[0])), (None, None, None));
    }
}
