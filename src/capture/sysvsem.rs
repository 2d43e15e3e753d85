//! System V semaphores: values and last users as semctl(2) tells, and undo values, which nothing tells.

use std::io;

use crate::model::sysvsem::{Semaphore, Set, Undo};
use crate::model::{Addr, Pid};
use crate::proc::{self, sysvipc};
use crate::sys::tasks::{Kcmp, kcmp};
use crate::tracer::{Held, HeldProcess, Remote};

use super::ipc::Seen;
use super::refusals::Refusals;
use super::{Error, Inside};

const GETPID: u64 = 11;
const GETALL: u64 = 13;
/// The kernel's SEMVMX: no value is greater. Undo values go from one below its negative to it.
const MAX: i32 = 32767;
const SEM_UNDO: i16 = 0x1000;
const IPC_NOWAIT: i16 = 0o4000;
/// Semaphores asked about with one call: eight operations each, of which a call takes 500 (SEMOPM).
const AT_ONCE: usize = 60;

/// Adds the sets of the tree to what was seen.
pub(super) fn look(
    seen: &mut Seen,
    held: &Held,
    root: Pid,
    inside: &Inside,
    refusals: &mut Refusals,
) -> Result<(), Error> {
    let table = seen.space.table("sem")?;
    let rows = sysvipc::sem(&table)
        .map_err(|e| Error::Proc(proc::Error::Malformed { path: "/proc/sysvipc/sem".to_owned(), what: e.0 }))?;
    for row in rows {
        let waited = seen.space.rule().waited("sem", row.perm.id);
        if !waited && !seen.space.rule().can_cover(&row.perm, row.touched) {
            continue;
        }
        match set(seen, &row, inside) {
            Ok((mut set, users)) => {
                set.perm.used = waited || seen.space.rule().uses(&row.perm, row.touched, &users);
                if set.perm.used || seen.space.rule().covers(&row.perm, (row.changed, row.touched), &users) {
                    seen.model.sem.push(set);
                }
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EIDRM)) => {} // gone meanwhile
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => {
                if waited || seen.space.rule().uses(&row.perm, row.touched, &[]) {
                    let object = format!("semaphore set {}", row.perm.id);
                    refusals.add(root, object, format!("it can't be read: {e}"), "save it as root");
                }
            }
            Err(e) => return Err(Error::io("reading", format!("semaphore set {}", row.perm.id))(e)),
        }
    }
    if !seen.model.sem.is_empty() {
        for p in held.processes.iter().filter(|p| !p.threads.is_empty()) {
            one_undo_list(p, refusals)?;
        }
    }
    Ok(())
}

/// A set and who used its semaphores last.
fn set(seen: &mut Seen, row: &sysvipc::Sem, inside: &Inside) -> io::Result<(Set, Vec<i32>)> {
    let agent = seen.space.agent().map_err(io::Error::other)?;
    let id = row.perm.id as u64;
    agent.call(libc::SYS_semctl, &[id, 0, GETALL, agent.room().0])?;
    let mut values = vec![0u8; row.count as usize * 2];
    agent.read(&mut values);
    let mut users = Vec::new();
    let mut semaphores = Vec::new();
    for (number, value) in values.chunks_exact(2).enumerate() {
        let user = agent.call(libc::SYS_semctl, &[id, number as u64, GETPID, 0])? as i32;
        let value = u16::from_ne_bytes(value.try_into().unwrap_or_default());
        semaphores.push(Semaphore { value, last: inside.process(user) });
        if !users.contains(&user) {
            users.push(user);
        }
    }
    Ok((Set { perm: row.perm, semaphores }, users))
}

/// Threads share their undo values, unless they were made without CLONE_SYSVSEM.
fn one_undo_list(p: &HeldProcess, refusals: &mut Refusals) -> Result<(), Error> {
    let Some(first) = p.threads.first() else { return Ok(()) };
    for t in p.threads.iter().skip(1) {
        let same = kcmp(first.host, t.host, Kcmp::Sysvsem, 0, 0).map_err(Error::of(t.host, "comparing objects"))?;
        if same.is_ne() {
            let reason = "it has semaphore undo values of its own: not supported";
            let hint = "save it when that thread has ended, or have it made with CLONE_SYSVSEM, as pthread_create does";
            refusals.add(p.pid, format!("thread {}", t.tid), reason, hint);
        }
    }
    Ok(())
}

/// The undo values of a process, found without changing anything: semop(2) does all of its operations or none, and says
/// ERANGE where one would take an undo value out of its range. The last of ours can never be done.
pub(super) fn undo(p: &mut HeldProcess, sets: &[Set]) -> Result<Vec<Undo>, Error> {
    let mut out = Vec::new();
    if sets.is_empty() {
        return Ok(out);
    }
    let mut remote = p.remote(0)?;
    for set in sets {
        let all: Vec<(u16, i32)> = (0..).zip(set.semaphores.iter().map(|s| i32::from(s.value))).collect();
        for some in all.chunks(AT_ONCE) {
            let mut ops: Vec<Op> = some.iter().flat_map(|&(n, value)| is_zero(n, value)).collect();
            match attempt(&mut remote, set.perm.id, &mut ops)? {
                Attempt::InRange => continue,
                // Not its set: it may not change it, so there is nothing to be undone.
                Attempt::NotAllowed => break,
                Attempt::OutOfRange => {}
            }
            for &(semaphore, value) in some {
                let mut probe =
                    |mut ops: Vec<Op>| Ok(matches!(attempt(&mut remote, set.perm.id, &mut ops)?, Attempt::InRange));
                let adjust = find(semaphore, value, &mut probe)?;
                if adjust != 0 {
                    out.push(Undo { set: set.perm.id, semaphore, adjust });
                }
            }
        }
    }
    Ok(out)
}

/// `struct sembuf`.
type Op = (u16, i16, i16);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    InRange,
    OutOfRange,
    NotAllowed,
}

/// Operations that stay in range if, and only if, the undo value is 0.
fn is_zero(n: u16, value: i32) -> Vec<Op> {
    let (full, undo) = (MAX as i16, SEM_UNDO);
    let mut ops = vec![(n, (MAX - value) as i16, 0), (n, -full, undo), (n, full, undo), (n, -full, 0)];
    ops.extend([(n, full, undo), (n, -full, 0), (n, 1, undo)]);
    // An operation of 0 would wait for the value 0.
    ops.retain(|op| op.1 != 0);
    ops
}

/// The undo value of a semaphore whose value is known, by halving. `probe` tells whether operations stay in range.
fn find(n: u16, value: i32, probe: &mut dyn FnMut(Vec<Op>) -> Result<bool, Error>) -> Result<i16, Error> {
    // Room for a change of `by`, down (the undo value rises) or up.
    let mut fits = |by: i32, up: bool| {
        let first = if up { -value } else { MAX - value };
        let mut ops = vec![(n, first as i16, 0), (n, (if up { by } else { -by }) as i16, SEM_UNDO)];
        ops.retain(|op| op.1 != 0);
        probe(ops)
    };
    let mut largest = |up: bool| -> Result<i32, Error> {
        let (mut low, mut high) = (0, MAX);
        while low < high {
            let middle = (low + high + 1) / 2;
            if fits(middle, up)? { low = middle } else { high = middle - 1 }
        }
        Ok(low)
    };
    let above = MAX - largest(false)?;
    if above > 0 {
        return Ok(above as i16);
    }
    match largest(true)? {
        // 0 or -1: one step further tells.
        MAX => Ok(if probe(is_zero(n, value))? { 0 } else { -1 }),
        room => Ok((room - MAX - 1) as i16),
    }
}

/// Tries operations that cannot all be done, whatever the values.
fn attempt(remote: &mut Remote<'_>, set: i32, ops: &mut Vec<Op>) -> Result<Attempt, Error> {
    let last = ops.first().map_or(0, |op| op.0);
    ops.push((last, i16::MIN, IPC_NOWAIT));
    let bytes: Vec<u8> = ops.iter().flat_map(|&(n, by, flags)| sembuf(n, by, flags)).collect();
    let scratch: Addr = remote.scratch();
    remote.write(scratch, &bytes)?;
    let result = remote.try_call(libc::SYS_semop, [set as u64, scratch.0, ops.len() as u64, 0, 0, 0])?;
    match result.map_err(|e| (e.raw_os_error().unwrap_or(0), e)) {
        Err((libc::EAGAIN, _)) => Ok(Attempt::InRange),
        Err((libc::ERANGE, _)) => Ok(Attempt::OutOfRange),
        Err((libc::EACCES | libc::EINVAL | libc::EIDRM, _)) => Ok(Attempt::NotAllowed),
        Err((_, e)) => Err(Error::io("asking for undo values", format!("semaphore set {set}"))(e)),
        Ok(_) => Err(Error::io("asking for undo values", format!("semaphore set {set}"))(io::Error::other(
            "what can't be done was done",
        ))),
    }
}

fn sembuf(n: u16, by: i16, flags: i16) -> [u8; 6] {
    let ([a, b], [c, d], [e, f]) = (n.to_ne_bytes(), by.to_ne_bytes(), flags.to_ne_bytes());
    [a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// semop(2) as kernel/ipc/sem.c has it, on one semaphore: whether it ends with ERANGE.
    fn stays_in_range(mut value: i32, mut undo: i32, ops: &[Op]) -> bool {
        for &(_, by, flags) in ops {
            assert_ne!(by, 0, "waits for 0");
            value += i32::from(by);
            assert!(value >= 0, "an operation before the last can't be done");
            if value > MAX {
                return false;
            }
            if flags & SEM_UNDO != 0 {
                undo -= i32::from(by);
                if !(-MAX - 1..=MAX).contains(&undo) {
                    return false;
                }
            }
        }
        true
    }

    proptest! {
        #[test]
        fn undo_values_are_found(value in 0..=MAX, undo in -MAX - 1..=MAX) {
            let found = find(0, value, &mut |ops| Ok(stays_in_range(value, undo, &ops))).unwrap();
            prop_assert_eq!(i32::from(found), undo);
            prop_assert_eq!(stays_in_range(value, undo, &is_zero(0, value)), undo == 0);
        }
    }

    #[test]
    fn undo_values_at_the_ends() {
        for value in [0, 1, MAX - 1, MAX] {
            for undo in [-MAX - 1, -MAX, -1, 0, 1, MAX - 1, MAX] {
                let found = find(0, value, &mut |ops| Ok(stays_in_range(value, undo, &ops))).unwrap();
                assert_eq!((i32::from(found), stays_in_range(value, undo, &is_zero(0, value))), (undo, undo == 0));
            }
        }
    }
}
