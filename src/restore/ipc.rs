//! System V objects: made in the new IPC namespace with their ids, before any process needs them.

use crate::model::ipc::Perm;
use crate::model::{Checkpoint, Name, Pid, Refusal};

use super::memory::Hold;
use super::namespaces::Wanted;
use super::stub::{Batch, Expect, Puppet};
use super::{Error, sysvmsg, sysvsem, sysvshm};

const IPC_SET: u64 = 1;
const IPC_CREAT_EXCL: u64 = 0o3000;
/// Objects of a kind that a new namespace takes (include/uapi/linux/{shm,sem,msg}.h: SHMMNI, SEMMNI, MSGMNI).
const MOST: [(&str, usize); 3] = [("shm", 4096), ("sem", 32000), ("msg", 32000)];

/// Objects that can't be made here.
pub fn conflicts(checkpoint: &Checkpoint, wanted: Wanted, conflicts: &mut Vec<Refusal>, notes: &mut Vec<String>) {
    sysvmsg::conflicts(checkpoint, wanted, conflicts, notes);
    let root = checkpoint.tree.root;
    let ipc = &checkpoint.shared.ipc;
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    for (kind, most) in MOST {
        let count = ipc.perms().filter(|(k, _)| *k == kind).count();
        if count > most {
            let reason = format!("there are {count}, a new IPC namespace takes {most}");
            conflicts.push(conflict(
                root,
                format!("System V objects ({kind})"),
                reason,
                "remove those that nobody needs (ipcrm), and save it again",
            ));
        }
    }
    for (kind, perm) in ipc.perms() {
        let object = format!("System V object ({kind} {})", perm.id);
        if !wanted.pid {
            let undone = kind == "sem" && checkpoint.processes.iter().flat_map(|p| &p.undo).any(|u| u.set == perm.id);
            if perm.used || undone {
                let reason = "its id can be had only in an IPC namespace of its own".to_owned();
                conflicts.push(conflict(root, object, reason, "resume with --pids private"));
            }
        } else if wanted.user && ([perm.uid, perm.cuid] != [uid; 2] || [perm.gid, perm.cgid] != [gid; 2]) {
            let reason = format!("it is of uid {} gid {}, we are uid {uid} gid {gid}", perm.uid, perm.gid);
            conflicts.push(conflict(root, object, reason, "resume as that user, or as root"));
        }
    }
}

fn conflict(pid: Pid, object: String, reason: String, hint: &str) -> Refusal {
    Refusal { pid, object, reason, hint: hint.to_owned() }
}

/// Makes all objects. The process has no descriptor with the number 0.
pub fn create(puppet: &mut Puppet, checkpoint: &Checkpoint, hold: &Hold) -> Result<(), Error> {
    sysvshm::create(puppet, checkpoint, hold)?;
    sysvsem::create(puppet, checkpoint)?;
    sysvmsg::create(puppet, checkpoint)
}

/// Bytes of data and number of calls that [`get`] and [`set`] need at most.
pub const ROOM: (usize, usize) = (12, 512);

/// Makes an object with the id and by the user it had: `call` is shmget or the like, with the one or two arguments between
/// the key and the flags. The next id can be chosen by whoever may checkpoint in the namespace
/// (Documentation/admin-guide/sysctl/kernel.rst, `shm_next_id`).
pub fn get(batch: &mut Batch, kind: &str, perm: &Perm, name: &'static str, nr: i64, size: Option<u64>) {
    let path = batch.path(&Name::from(format!("/proc/sys/kernel/{kind}_next_id").as_str()));
    let id = perm.id.to_string();
    let text = batch.data(id.as_bytes());
    // The lowest number is free.
    batch.call_expecting(Expect::Exactly(0), "open", libc::SYS_open, &[path.0, libc::O_WRONLY as u64]);
    batch.call_expecting(Expect::Exactly(id.len() as u64), "write", libc::SYS_write, &[0, text.0, id.len() as u64]);
    batch.call("close", libc::SYS_close, &[0]);
    let other = (perm.cuid, perm.cgid) != (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let keep = u64::from(u32::MAX);
    if other {
        batch.call("setresgid", libc::SYS_setresgid, &[keep, perm.cgid.into(), keep]);
        batch.call("setresuid", libc::SYS_setresuid, &[keep, perm.cuid.into(), keep]);
    }
    let flags = IPC_CREAT_EXCL | u64::from(perm.mode);
    let key = perm.key as u32 as u64;
    let args = match size {
        Some(size) => [key, size, flags],
        None => [key, flags, 0],
    };
    batch.call_expecting(Expect::Exactly(perm.id as u64), name, nr, &args);
    if other {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        batch.call("setresuid", libc::SYS_setresuid, &[keep, uid.into(), keep]);
        batch.call("setresgid", libc::SYS_setresgid, &[keep, gid.into(), keep]);
    }
}

/// IPC_SET: owner, mode, and of a queue how many bytes it may hold. `before`: arguments between the id and the command.
pub fn set(batch: &mut Batch, perm: &Perm, name: &'static str, nr: i64, before: &[u64], bytes: Option<u64>) {
    set_expecting(batch, Expect::Success, perm, name, nr, before, bytes);
}

/// As [`set`], with what it must return.
pub fn set_expecting(
    batch: &mut Batch,
    expect: Expect,
    perm: &Perm,
    name: &'static str,
    nr: i64,
    before: &[u64],
    bytes: Option<u64>,
) {
    // struct ipc64_perm, then what differs by kind; of a queue msg_qbytes is at 88.
    let mut record = [0u8; 128];
    let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
    put(4, &perm.uid.to_le_bytes());
    put(8, &perm.gid.to_le_bytes());
    put(20, &perm.mode.to_le_bytes());
    put(88, &bytes.unwrap_or(0).to_le_bytes());
    let at = batch.data(&record);
    let mut args = vec![perm.id as u64];
    args.extend(before);
    args.extend([IPC_SET, at.0]);
    batch.call_expecting(expect, name, nr, &args);
}
