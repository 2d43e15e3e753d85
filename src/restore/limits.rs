//! Resource limits: set when everything they would stand in the way of is made.

use crate::model::fd::Kind;
use crate::model::process::{Limit, Process};
use crate::model::{Checkpoint, Pid, Refusal};
use crate::proc::{self, limits::NAMES};
use crate::sys::tasks;

use super::Error;
use super::namespaces::{self, Wanted};
use super::stub::{LEN, Puppet};

const RLIMIT_NOFILE: usize = 7;
const RLIMIT_MEMLOCK: usize = 8;
const RLIMIT_AS: usize = 9;
const RLIMIT_SIGPENDING: usize = 11;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_RESOURCE: u32 = 24;

/// How far each hard limit can be raised here.
fn ceilings(wanted: Wanted) -> Vec<u64> {
    let may_raise = !wanted.user && namespaces::may(CAP_SYS_RESOURCE);
    let ceiling = |which: usize| match which {
        // Root's end, too (setrlimit(2)).
        RLIMIT_NOFILE if may_raise => proc::number("sys/fs/nr_open").map_or(u64::MAX, |n| n as u64),
        _ if may_raise => u64::MAX,
        _ => tasks::limit(0, which as u32).map_or(u64::MAX, |l| l.hard),
    };
    (0..NAMES.len()).map(ceiling).collect()
}

fn cut(wanted: Limit, ceiling: u64) -> Limit {
    Limit { soft: wanted.soft.min(ceiling), hard: wanted.hard.min(ceiling) }
}

/// Limits of ours that the program is beyond already, and those it will find lower than they were.
pub fn plan(checkpoint: &Checkpoint, wanted: Wanted, conflicts: &mut Vec<Refusal>, notes: &mut Vec<String>) {
    let ceilings = ceilings(wanted);
    let locks_all = !wanted.user && namespaces::may(CAP_IPC_LOCK);
    let mut check = |pid: Pid, object: &str, which: usize, needed: u64| {
        let ceiling = ceilings.get(which).copied().unwrap_or(u64::MAX);
        if needed > ceiling && !(which == RLIMIT_MEMLOCK && locks_all) {
            conflicts.push(Refusal {
                pid,
                object: object.to_owned(),
                reason: format!("it needs {needed} bytes, our hard limit is {ceiling}"),
                hint: "raise the hard limit, or resume as root".to_owned(),
            });
        }
    };
    let segments = checkpoint.shared.ipc.shm.iter().filter(|segment| segment.locked);
    let locked = segments.fold(0, |sum: u64, segment| sum.saturating_add(segment.size));
    check(checkpoint.tree.root, "locked System V shared memory", RLIMIT_MEMLOCK, locked);
    for process in &checkpoint.processes {
        for ((limit, &ceiling), name) in process.limits.iter().zip(&ceilings).zip(NAMES) {
            if cut(*limit, ceiling) != *limit {
                let note = format!("the limit \"{name}\" was {}, this host allows {ceiling}", shown(limit.hard));
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
        let (mapped, locked) = process.memory.vmas.iter().fold((LEN, 0u64), |(mapped, locked), vma| {
            (mapped.saturating_add(vma.len()), locked.saturating_add(vma.locked.map_or(0, |_| vma.len())))
        });
        // Buffers registered with rings are pinned.
        let rings =
            process.descriptors().filter_map(|d| match checkpoint.files.get(d.file as usize).map(|f| &f.kind) {
                Some(Kind::Uring(ring)) => Some(ring),
                _ => None,
            });
        let pinned = rings.flat_map(|ring| ring.buffers.iter().flatten()).map(|(_, len)| u64::from(*len));
        let locked = pinned.fold(locked, u64::saturating_add);
        for (which, needed) in [(RLIMIT_AS, mapped), (RLIMIT_MEMLOCK, locked)] {
            check(process.pid, &NAMES.get(which).copied().unwrap_or_default().to_lowercase(), which, needed);
        }
    }
}

fn shown(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() }
}

/// Has the process set them itself: of another user's process only a privileged one may. A hard limit above ours is cut,
/// which the plan has told. Signals have yet to be queued.
pub fn set(puppet: &mut Puppet, process: &Process, wanted: Wanted) -> Result<(), Error> {
    let host = puppet.host();
    let mut batch = puppet.batch();
    for (which, (&limit, ceiling)) in process.limits.iter().zip(ceilings(wanted)).enumerate() {
        let now = tasks::limit(host, which as u32).map_err(|e| Error::step("reading limits", host, e))?;
        let mut limit = cut(limit, ceiling);
        if which == RLIMIT_SIGPENDING {
            let hard = limit.hard.max(now.hard);
            limit = Limit { soft: hard, hard };
        }
        if limit != now {
            let at = batch.data(&[limit.soft.to_le_bytes(), limit.hard.to_le_bytes()].concat());
            batch.call("prlimit", libc::SYS_prlimit64, &[0, which as u64, at.0, 0]);
        }
    }
    puppet.run(batch).map(drop)
}

/// The limit on queued signals, by a call that needs no trap.
pub fn set_last(puppet: &mut Puppet, process: &Process, wanted: Wanted) -> Result<(), Error> {
    let limit = process.limits.get(RLIMIT_SIGPENDING).zip(ceilings(wanted).get(RLIMIT_SIGPENDING).copied());
    let Some(Limit { soft, hard }) = limit.map(|(limit, ceiling)| cut(*limit, ceiling)) else { return Ok(()) };
    let at = puppet.data();
    puppet.write(at, &[soft.to_le_bytes(), hard.to_le_bytes()].concat())?;
    puppet.single("prlimit", libc::SYS_prlimit64, &[0, RLIMIT_SIGPENDING as u64, at.0, 0]).map(drop)
}
