//! Threads of the kernel that take the requests of a ring of io_uring (IORING_SETUP_SQPOLL). They belong to the process that
//! has made the ring, and act with the credentials of the thread that did. Nobody holds them: they run none of the
//! program's code, and take what it has announced.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::model::Hex;
use crate::model::fd::{Kind, OpenFile};
use crate::model::uring::{DISABLED, OFFSETS, Poller, Uring, word};
use crate::proc;
use crate::sys::sched;
use crate::sys::tasks::back_off;
use crate::sys::uring::{self, Map};
use crate::tracer::{Held, HeldProcess};

use super::Error;
use super::fd::Captured;
use super::uring::UNDER_WAY;

/// How the kernel names them (io_uring/sqpoll.c, `io_sq_thread`).
const NAME: &[u8] = b"iou-sqp-";

/// Waits for a moment until the thread of a ring has taken what it is going to take, and what it has taken is done: before
/// anything else is looked at, which it may read or write.
pub(super) fn wait_until_quiet(copy: BorrowedFd<'_>) {
    const PATIENCE: Duration = Duration::from_millis(500);
    let Ok(memory) = Map::new(copy, OFFSETS[0], 4096) else { return };
    let quiet = || {
        let [tail, head] = [word::SQ_TAIL, word::SQ_HEAD].map(|i| memory.word(i));
        let reported = [word::CQ_TAIL, word::CQ_OVERFLOW, word::SQ_DROPPED].map(|i| memory.word(i));
        let under_way = reported.iter().fold(head, |left, n| left.wrapping_sub(*n)) as i32;
        (tail == head || memory.word(word::SQ_FLAGS) & word::ASLEEP != 0) && under_way <= 0
    };
    let until = Instant::now() + PATIENCE;
    for round in 0.. {
        if quiet() || Instant::now() > until {
            break;
        }
        back_off(round);
    }
}

/// Whether there are requests that the thread has not taken, which it leaves alone as it sleeps until it is woken.
///
/// # Errors
/// If it is awake, and about to take them.
pub(super) fn has_more(ring: &Uring, copy: BorrowedFd<'_>) -> Result<bool, String> {
    let memory = Map::new(copy, OFFSETS[0], 4096).map_err(|e| format!("it can't be looked at: {e}"))?;
    let more = ring.flags & DISABLED == 0 && memory.word(word::SQ_TAIL) != ring.sq_head;
    let untouched = memory.word(word::SQ_HEAD) == ring.sq_head;
    match memory.word(word::SQ_FLAGS) & word::ASLEEP {
        _ if !untouched => Err(UNDER_WAY.to_owned()),
        0 if more => Err(UNDER_WAY.to_owned()),
        _ => Ok(more),
    }
}

/// The thread with this number in the first pid namespace, which need not be ours: then all that could be it must be
/// alike. `users`: the processes that have the ring; `asleep`: it must be.
pub(super) fn find(held: &Held, users: &BTreeSet<usize>, number: i32, asleep: bool) -> Result<Poller, String> {
    let mut candidates = Vec::new();
    for p in users.iter().filter_map(|&user| held.processes.get(user)) {
        for tid in proc::tasks(p.host).map_err(|e| e.to_string())? {
            // One that has ended meanwhile is not it.
            let Ok(stat) = proc::task_stat(p.host, tid) else { continue };
            if stat.comm.starts_with(NAME) && tid != p.host {
                candidates.push((p, tid, stat.state));
            }
        }
    }
    if let Some(exact) = candidates.iter().position(|(_, tid, _)| *tid == number) {
        candidates = vec![candidates.swap_remove(exact)];
    }
    let mut found: Option<(&HeldProcess, Poller)> = None;
    for (p, tid, state) in candidates {
        if asleep && state != b'S' {
            return Err(UNDER_WAY.to_owned());
        }
        let poller = look(p, tid, number as u32)?;
        match &found {
            None => found = Some((p, poller)),
            Some((other, same)) if other.host == p.host && *same == poller => {}
            Some(_) => return Err("which thread of the kernel takes its requests can't be known".to_owned()),
        }
    }
    let Some((owner, poller)) = found else {
        return Err(
            "the thread of the kernel that takes its requests is in a process that has it no more: not supported"
                .to_owned(),
        );
    };
    let heirs = users.iter().filter_map(|&user| held.processes.get(user));
    if heirs.into_iter().all(|p| descends(held, p, owner.host)) {
        Ok(poller)
    } else {
        Err("a process has it that has not inherited it from the one whose thread takes its requests \
             (IORING_SETUP_SQPOLL): not supported"
            .to_owned())
    }
}

fn look(p: &HeldProcess, tid: i32, number: u32) -> Result<Poller, String> {
    let said = |e: proc::Error| e.to_string();
    let status = proc::task_status(p.host, tid).map_err(said)?;
    let alike = p.threads.iter().find(|t| {
        let t = &t.status;
        (t.uid, t.gid, t.caps, &t.groups) == (status.uid, status.gid, status.caps, &status.groups)
    });
    let like = alike.ok_or("its requests are taken with credentials that no thread has any more: not supported")?.tid;
    let asked = || Ok::<_, std::io::Error>((sched::affinity(tid)?, sched::get(tid)?));
    let (affinity, sched) =
        asked().map_err(|e| format!("the thread that takes its requests can't be looked at: {e}"))?;
    Ok(Poller { number, like, affinity: Hex(affinity), sched, idle: 0 })
}

/// Milliseconds until a thread sleeps, by the numbers of threads.
pub(super) type Idle = BTreeMap<u32, u32>;

/// The rings that such threads have, for us, with the numbers of the threads.
pub(super) fn copies(held: &Held, fds: &Captured) -> Result<Vec<(u32, OwnedFd)>, Error> {
    let mut out: BTreeMap<u32, (u32, OwnedFd)> = BTreeMap::new();
    for (&(process, thread), d) in fds.descriptors.iter().flat_map(|(table, all)| all.iter().map(move |d| (table, d))) {
        let Some(number) = fds.files.get(d.file as usize).and_then(poller).map(|poller| poller.number) else {
            continue;
        };
        let (Some(p), false) = (held.processes.get(process), out.contains_key(&d.file)) else { continue };
        let copy = p.descriptor(thread, d.fd).map_err(Error::of(p.host, "copying a descriptor"))?;
        out.insert(d.file, (number, copy));
    }
    Ok(out.into_values().collect())
}

fn poller(file: &OpenFile) -> Option<&Poller> {
    if let Kind::Uring(ring) = &file.kind { ring.poller.as_ref() } else { None }
}

/// After how long without requests these threads sleep, which nothing shows: they are woken and watched, the program
/// running meanwhile, which sees no more of it than that they are awake. Those that don't sleep for long are left out, and
/// those that would find something to do if they were woken.
pub(super) fn measure(rings: &[(u32, OwnedFd)]) -> Idle {
    /// What programs ask for.
    const ROUND: [u32; 7] = [1, 2, 5, 10, 20, 50, 100];
    /// A little more than the longest.
    const MOST: Duration = Duration::from_millis(120);
    const PAUSE: Duration = Duration::from_micros(100);
    let sleeps = |ring: &Map| ring.word(word::SQ_FLAGS) & word::ASLEEP != 0;
    let mut awake: Vec<_> = rings
        .iter()
        .filter_map(|(number, fd)| Some((*number, Map::new(fd.as_fd(), OFFSETS[0], 4096).ok()?, fd.as_fd())))
        .collect();
    awake.sort_unstable_by_key(|(number, ..)| *number);
    let begin = Instant::now();
    while awake.iter().any(|(_, ring, _)| !sleeps(ring)) && begin.elapsed() < MOST {
        std::thread::sleep(PAUSE);
    }
    // The last look before a thread was seen awake, or to have taken something.
    let mut since = BTreeMap::new();
    let idles = |ring: &Map| sleeps(ring) && ring.word(word::SQ_TAIL) == ring.word(word::SQ_HEAD);
    let at_work: BTreeSet<u32> = awake.iter().filter(|(_, ring, _)| !idles(ring)).map(|(number, ..)| *number).collect();
    awake.retain(|(number, ..)| !at_work.contains(number));
    // One ring shows what its thread does.
    awake.dedup_by_key(|(number, ..)| *number);
    let begin = Instant::now();
    awake.retain(|(.., fd)| uring::wake(*fd).is_ok());
    let mut idle = Idle::new();
    let mut last = begin;
    while !awake.is_empty() && begin.elapsed() < MOST {
        let now = Instant::now();
        awake.retain(|(number, ring, _)| {
            let head = ring.word(word::SQ_HEAD);
            match (since.get(number).copied(), sleeps(ring)) {
                (None, true) => {}
                (Some((_, from)), true) => {
                    // Too long rather than too short, where we were held up.
                    let long = Instant::now().duration_since(from).as_millis();
                    idle.extend(ROUND.iter().rfind(|round| u128::from(**round) <= long).map(|round| (*number, *round)));
                    return false;
                }
                (Some((before, _)), false) if before == head => {}
                (_, false) => drop(since.insert(*number, (head, last))),
            }
            true
        });
        last = now;
        std::thread::sleep(PAUSE);
    }
    tracing::debug!(?idle, "measured how long threads of rings stay awake");
    idle
}

/// Threads get what was measured.
pub(super) fn settle(files: &mut [OpenFile], idle: &Idle) {
    for file in files {
        if let Kind::Uring(ring) = &mut file.kind {
            if let Some(poller) = &mut ring.poller {
                poller.idle = idle.get(&poller.number).copied().unwrap_or(0);
            }
        }
    }
}

fn descends(held: &Held, p: &HeldProcess, ancestor: i32) -> bool {
    let parent = |p: &&HeldProcess| held.processes.iter().find(|other| other.host == p.host_ppid);
    std::iter::successors(Some(p), parent).take(held.processes.len()).any(|p| p.host == ancestor)
}

#[cfg(test)]
mod tests {
    use crate::model::uring::SQPOLL;

    use super::*;

    /// Where the kernel or an administrator forbids rings there is nothing to look at.
    #[test]
    fn how_long_a_thread_stays_awake() {
        let params = |sq_thread_idle| uring::Params { flags: SQPOLL, sq_thread_idle, ..uring::Params::default() };
        let made = |idle| uring::setup_by(4, params(idle)).map(|(fd, _)| fd);
        let (Ok(short), Ok(long)) = (made(50), made(10_000)) else { return };
        let idle = measure(&[(1, short), (2, long)]);
        // On a busy machine it may be seen later, or not at all; never earlier.
        assert!(idle.get(&1).is_none_or(|idle| *idle >= 50) && !idle.contains_key(&2), "{idle:?}");
    }
}
