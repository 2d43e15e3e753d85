//! System V shared memory: read through whoever has it attached, else by an agent of ours.

use crate::model::ipc::Perm;
use crate::model::sysvshm::Segment;
use crate::model::{Addr, Pid};
use crate::proc::sysvipc::{self, SHM_DEST, SHM_LOCKED, Shm};
use crate::proc::{self};

use super::ipc::{Attached, Seen};
use super::memory::SharedAnon;
use super::refusals::Refusals;
use super::{Error, shared};

const PAGE: u64 = 4096;
const SHM_RDONLY: u64 = 0o10_000;

/// Id and key of the segment that a mapping is of: the kernel shows the key it was made with as its name and the id as its
/// inode (ipc/shm.c, newseg).
pub(super) fn of_mapping(name: &[u8], inode: u64) -> Option<(i32, i32)> {
    let key = name.strip_prefix(b"/SYSV")?.strip_suffix(b" (deleted)")?;
    let key = std::str::from_utf8(key).ok().filter(|k| k.len() == 8)?;
    Some((i32::try_from(inode).ok()?, u32::from_str_radix(key, 16).ok()? as i32))
}

/// Adds the segments of the tree to what was seen. What belongs to nobody is told of `root`.
pub(super) fn look(seen: &mut Seen, root: Pid, shared: &mut SharedAnon, refusals: &mut Refusals) -> Result<(), Error> {
    let table = seen.space.table("shm")?;
    let rows = sysvipc::shm(&table)
        .map_err(|e| Error::Proc(proc::Error::Malformed { path: "/proc/sysvipc/shm".to_owned(), what: e.0 }))?;
    for &(_, id, _) in &shared.segments {
        if !rows.iter().any(|row| row.perm.id == id) {
            let reason = "it is attached, but of another IPC namespace: not supported";
            refusals.add(root, named(id), reason, "have it detached (shmdt) before the save");
        }
    }
    for row in rows {
        let known = shared.segments.iter().find(|s| s.1 == row.perm.id).copied();
        let (rule, users) = (seen.space.rule(), [row.creator, row.last]);
        // What others have attached and the tree has not is the tree's only if it is known to use it.
        let covered = rule.uses(&row.perm, row.touched, &users)
            || row.attached == 0 && rule.covers(&row.perm, (row.changed, row.touched), &users);
        let ours = known.is_some() || covered;
        if ours {
            segment(seen, &row, known, root, shared, refusals)?;
        }
    }
    Ok(())
}

fn named(id: i32) -> String {
    format!("shared memory segment {id}")
}

fn segment(
    seen: &mut Seen,
    row: &Shm,
    known: Option<(u32, i32, i32)>,
    root: Pid,
    shared: &mut SharedAnon,
    refusals: &mut Refusals,
) -> Result<(), Error> {
    let (object, key) = match known {
        Some((object, _, key)) => (object, key),
        None => (shared.objects.len() as u32, row.perm.key),
    };
    let sharers = shared.objects.get(object as usize).map_or(&[][..], |s| s);
    if row.attached > sharers.len() as u64 {
        let reason = "processes outside the tree have it attached, too";
        refusals.add(root, named(row.perm.id), reason, "save them together, from their common ancestor, or end them");
        return Ok(());
    }
    let size = row.size.next_multiple_of(PAGE);
    let seen_of_it: u64 = shared::cover(sharers).iter().map(|s| s.len).sum();
    if seen_of_it < size {
        match attach(seen, row.perm.id)? {
            Ok(at) => {
                seen.attached.insert(object, Attached { at, size, swapped: row.swap > 0 });
            }
            Err(libc::EINVAL | libc::EIDRM) => return Ok(()), // gone meanwhile
            Err(errno) => {
                let why = std::io::Error::from_raw_os_error(errno);
                refusals.add(root, named(row.perm.id), format!("it can't be read: {why}"), "save it as root");
                return Ok(());
            }
        }
        let agent = seen.space.agent()?.pid();
        let maps = proc::smaps(agent).map_err(Error::proc(agent))?;
        let at = seen.attached.get(&object).map_or(0, |a| a.at.0);
        if maps.iter().any(|m| m.start == at && m.flags.has(*b"ht")) {
            let reason = "huge pages of hugetlbfs are not supported";
            refusals.add(root, named(row.perm.id), reason, "have it made without SHM_HUGETLB");
        }
    }
    if known.is_none() {
        shared.objects.push(Vec::new());
    }
    let removed = row.perm.mode & SHM_DEST != 0;
    let locked = row.perm.mode & SHM_LOCKED != 0;
    let used = known.is_some() || seen.space.rule().uses(&row.perm, row.touched, &[row.creator, row.last]);
    let perm = Perm { key, mode: row.perm.mode & 0o777, used, ..row.perm };
    seen.model.shm.push(Segment { perm, size: row.size, object, removed, locked });
    Ok(())
}

/// Attaches a segment in the agent; the inner error is shmat's.
fn attach(seen: &mut Seen, id: i32) -> Result<Result<Addr, i32>, Error> {
    match seen.space.agent()?.call(libc::SYS_shmat, &[id as u64, 0, SHM_RDONLY]) {
        Ok(at) => Ok(Ok(Addr(at))),
        Err(e) => match e.raw_os_error() {
            Some(errno) => Ok(Err(errno)),
            None => Err(Error::io("attaching", named(id))(e)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_segments() {
        assert_eq!(of_mapping(b"/SYSVdeadbeef (deleted)", 65541), Some((65541, 0xdead_beef_u32 as i32)));
        for (name, inode) in [
            (&b"/SYSVdeadbeef"[..], 1),
            (b"/SYSVdeadbee (deleted)", 1),
            (b"/SYSVxxxxxxxx (deleted)", 1),
            (b"/tmp/SYSV00000000 (deleted)", 1),
            (b"/SYSV00000000 (deleted)", 1 << 31),
        ] {
            assert_eq!(of_mapping(name, inode), None, "{}", name.escape_ascii());
        }
    }
}
