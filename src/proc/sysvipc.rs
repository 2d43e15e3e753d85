//! `/proc/sysvipc/shm`, `sem` and `msg`: the System V objects of an IPC namespace. See proc_sysvipc(5).

use super::Malformed;
use super::text::{decimal, lines, octal, words};
use crate::model::ipc::Perm;

/// A shared memory segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shm {
    /// Id, key and owner. Its mode also has [`SHM_DEST`] and [`SHM_LOCKED`].
    pub perm: Perm,
    /// Bytes.
    pub size: u64,
    /// Who made it, as we see it; 0: out of sight.
    pub creator: i32,
    /// Who attached or detached it last.
    pub last: i32,
    /// Attachments; those split by mprotect(2) and the like count twice.
    pub attached: u64,
    /// Last change by shmctl(2), or its making: seconds since 1970.
    pub changed: i64,
    /// The last time that anybody did anything with it, as far as is noted: likewise.
    pub touched: i64,
    /// Bytes in swap.
    pub swap: u64,
}

/// Bit of a segment's mode: it goes with its last attachment.
pub const SHM_DEST: u32 = 0o1000;
/// Bit of a segment's mode: SHM_LOCK.
pub const SHM_LOCKED: u32 = 0o2000;

/// A semaphore set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sem {
    /// Id, key, mode and owner.
    pub perm: Perm,
    /// Semaphores in it.
    pub count: u32,
    /// Last change by semctl(2), or its making: seconds since 1970.
    pub changed: i64,
    /// The last time that anybody did anything with it, as far as is noted: likewise.
    pub touched: i64,
}

/// A message queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Msg {
    /// Id, key, mode and owner.
    pub perm: Perm,
    /// Messages in it.
    pub count: u64,
    /// Who sent last, as we see it; 0: nobody, or out of sight.
    pub sender: i32,
    /// Who received last.
    pub receiver: i32,
    /// Last change by msgctl(2), or its making: seconds since 1970.
    pub changed: i64,
    /// The last time that anybody did anything with it, as far as is noted: likewise.
    pub touched: i64,
}

/// The words of each line but the heading.
fn rows(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    lines(bytes).skip(1).map(|line| words(line).collect())
}

fn field<T: std::str::FromStr>(row: &[&[u8]], at: usize) -> Result<T, Malformed> {
    row.get(at).and_then(|w| decimal(w)).ok_or(Malformed("a number is missing"))
}

/// The latest of several times.
fn latest(row: &[&[u8]], mut at: std::ops::Range<usize>) -> Result<i64, Malformed> {
    at.try_fold(0, |latest, at| Ok(latest.max(field(row, at)?)))
}

/// Key, id and mode are the first three words; the four owners follow each other from `owners` on.
fn perm(row: &[&[u8]], owners: usize) -> Result<Perm, Malformed> {
    let mode = row.get(2).and_then(|w| octal(w)).ok_or(Malformed("no mode"))?;
    Ok(Perm {
        key: field(row, 0)?,
        id: field(row, 1)?,
        mode: mode as u32,
        uid: field(row, owners)?,
        gid: field(row, owners + 1)?,
        cuid: field(row, owners + 2)?,
        cgid: field(row, owners + 3)?,
        used: false,
    })
}

/// `/proc/sysvipc/shm`.
///
/// # Errors
/// If a line lacks something.
pub fn shm(bytes: &[u8]) -> Result<Vec<Shm>, Malformed> {
    let one = |row: Vec<&[u8]>| {
        Ok(Shm {
            perm: perm(&row, 7)?,
            size: field(&row, 3)?,
            creator: field(&row, 4)?,
            last: field(&row, 5)?,
            attached: field(&row, 6)?,
            changed: field(&row, 13)?,
            touched: latest(&row, 11..14)?,
            swap: field(&row, 15)?,
        })
    };
    rows(bytes).map(one).collect()
}

/// `/proc/sysvipc/sem`.
///
/// # Errors
/// If a line lacks something.
pub fn sem(bytes: &[u8]) -> Result<Vec<Sem>, Malformed> {
    let one = |row: Vec<&[u8]>| {
        Ok(Sem {
            perm: perm(&row, 4)?,
            count: field(&row, 3)?,
            changed: field(&row, 9)?,
            touched: latest(&row, 8..10)?,
        })
    };
    rows(bytes).map(one).collect()
}

/// `/proc/sysvipc/msg`.
///
/// # Errors
/// If a line lacks something.
pub fn msg(bytes: &[u8]) -> Result<Vec<Msg>, Malformed> {
    let one = |row: Vec<&[u8]>| {
        Ok(Msg {
            perm: perm(&row, 7)?,
            count: field(&row, 4)?,
            sender: field(&row, 5)?,
            receiver: field(&row, 6)?,
            changed: field(&row, 13)?,
            touched: latest(&row, 11..14)?,
        })
    };
    rows(bytes).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_of_each() {
        let text = b"       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n\
            -559038737      65541  1600                 10000 17498 17499      4  1001  1002  1003  1004 1795491909 1795491908 1795491907                  4096                  8192\n";
        let shm = shm(text).unwrap();
        let perm = |key, id, mode| Perm { key, id, mode, uid: 1001, gid: 1002, cuid: 1003, cgid: 1004, used: false };
        let want = Shm {
            perm: perm(-559_038_737, 65541, SHM_DEST | 0o600),
            size: 10000,
            creator: 17498,
            last: 17499,
            attached: 4,
            changed: 1_795_491_907,
            touched: 1_795_491_909,
            swap: 8192,
        };
        assert_eq!(shm, [want]);
        let text = b"       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n\
            119      32770   600          3  1001  1002  1003  1004 1795491909 1795491908\n";
        assert_eq!(
            sem(text).unwrap(),
            [Sem { perm: perm(119, 32770, 0o600), count: 3, changed: 1_795_491_908, touched: 1_795_491_909 }]
        );
        let text = b"       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n\
            136          0   600           4          2 17498     5  1001  1002  1003  1004 1795491909          0 1795491907\n";
        let want = Msg {
            perm: perm(136, 0, 0o600),
            count: 2,
            sender: 17498,
            receiver: 5,
            changed: 1_795_491_907,
            touched: 1_795_491_909,
        };
        assert_eq!(msg(text).unwrap(), [want]);
        assert!(msg(b"heading\n1 2 3\n").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = (shm(&bytes), sem(&bytes), msg(&bytes));
        }
    }
}
