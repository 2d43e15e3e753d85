//! Threads of the kernel that take the requests of a ring of io_uring (IORING_SETUP_SQPOLL). They belong to the process that
//! has made the ring, and act with the credentials of the thread that did. Nobody holds them: they run none of the
//! program's code, and take what it has announced.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use crate::model::uring::{DISABLED, OFFSETS, Poller, Uring, word};
use crate::proc;
use crate::sys::sched;
use crate::sys::uring::Map;
use crate::tracer::{Held, HeldProcess};

use super::uring::UNDER_WAY;

/// How the kernel names them (io_uring/sqpoll.c, `io_sq_thread`).
const NAME: &[u8] = b"iou-sqp-";

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
    Ok(Poller { number, like, cpu: only_bit(&affinity), sched })
}

/// The only processor in a bit set.
fn only_bit(bits: &[u8]) -> Option<u32> {
    let mut set = (0u32..).zip(bits).filter(|(_, byte)| **byte != 0);
    match (set.next(), set.next()) {
        (Some((at, byte)), None) if byte.is_power_of_two() => Some(at * 8 + byte.trailing_zeros()),
        _ => None,
    }
}

fn descends(held: &Held, p: &HeldProcess, ancestor: i32) -> bool {
    let parent = |p: &&HeldProcess| held.processes.iter().find(|other| other.host == p.host_ppid);
    std::iter::successors(Some(p), parent).take(held.processes.len()).any(|p| p.host == ancestor)
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
